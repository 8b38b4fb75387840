"""Where the numbers of a run go besides metrics.jsonl: any object with `log(values, step)`."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, final

from markovae.config import Config
from markovae.errors import UserError
from markovae.log import warn
from markovae.system.files import SYSTEM, replace_file
from markovae.tables import to_table


class Logger(Protocol):
    """What a logger must offer; a wandb run has it already."""

    def log(self, values: dict[str, float], step: int) -> Any:
        """Take in the numbers of one row, such as {"train/loss": 0.12, "train/lr": 0.003}, at a training step."""


LOGGERS = ("tensorboard", "wandb")  # each is also the name of its package and of our extra


@final
class Loggers:
    """The loggers of one run. One that fails is left out from then on: no logger ends a training.

    Args:
        chosen: objects with `log(values, step)`, and names of `LOGGERS`.
    Raises:
        UserError: for an unknown name, a package that is missing, or an object without `log`.
    """

    def __init__(self, chosen: Iterable[Logger | str] = ()) -> None:
        self._chosen = [chosen] if isinstance(chosen, str) else list(chosen)
        for logger in self._chosen:
            if not isinstance(logger, str):
                if not callable(getattr(logger, "log", None)):
                    raise UserError(f"a logger needs a method log(values, step), and {type(logger).__name__} has none")
            elif logger not in LOGGERS:
                raise UserError(f"logger {logger!r} must be one of {', '.join(LOGGERS)}, or an object with log()")
            elif find_spec(logger) is None:
                raise UserError(f"logger {logger} needs its package: pip install 'markovae[{logger}]'")
        self._active: list[Logger] = []

    def open(self, folder: Path, config: Config) -> None:
        """Start those that were named.

        Args:
            folder: of the run; what they write goes to a folder of theirs in it.
            config: of the run.
        Raises:
            UserError: where one does not start.
        """
        for logger in self._chosen:
            try:
                self._active.append(_started(logger, folder, config) if isinstance(logger, str) else logger)
            except Exception as error:
                hint = "; set WANDB_MODE=offline to log without an account" if logger == "wandb" else ""
                raise UserError(f"logger {logger} did not start: {_first_line(error)}{hint}") from None

    def log(self, row: Mapping[str, Any]) -> None:
        """Pass on the numbers of a row of metrics.jsonl, each named by the row's kind and its keys."""
        if not self._active:
            return
        values = dict(_numbers(row["kind"], {key: value for key, value in row.items() if key not in ("kind", "step")}))
        for logger in tuple(self._active):
            try:
                logger.log(dict(values), row["step"])
            except Exception as error:
                self._active.remove(logger)
                warn(f"logger {type(logger).__name__} failed and is left out from here on: {_first_line(error)}")

    def close(self) -> None:
        """Finish those that `open` started; the caller's own objects stay open."""
        for logger in self._active:
            if isinstance(logger, _TensorBoard | _WandB):
                with suppress(Exception):
                    logger.close()
        self._active = []


def _numbers(name: str, value: Any) -> Iterable[tuple[str, float]]:
    """The numbers in a row, flat: {"train": {"loss": 1}} gives ("train/loss", 1.0)."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(f"{name}/{key}", inner)
    elif isinstance(value, int | float):
        yield name, float(value)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _started(name: str, folder: Path, config: Config) -> Logger:
    return _TensorBoard(folder) if name == "tensorboard" else _WandB(folder, config)


@final
class _TensorBoard:
    """Event files in RUN/tensorboard: `tensorboard --logdir RUN`."""

    def __init__(self, folder: Path) -> None:
        self._writer = import_module("torch.utils.tensorboard").SummaryWriter(str(folder / "tensorboard"))

    def log(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


@final
class _WandB:
    """A run of Weights & Biases; its files lie in RUN/wandb. WANDB_MODE, WANDB_PROJECT and the like are wandb's.

    Its id is kept in RUN/wandb/id, so that a run that is resumed here is continued there.
    """

    def __init__(self, folder: Path, config: Config) -> None:
        self._run = import_module("wandb").init(
            id=self._id(folder / "wandb" / "id"),
            resume="allow",
            name=folder.resolve().name,
            dir=str(folder),
            config=to_table(config.shareable()),
        )

    @staticmethod
    def _id(path: Path) -> str:
        """The id in a file, which is written where there is none."""
        if path.is_file() and re.fullmatch("[0-9a-f]{16}", text := path.read_text("ascii", "replace").strip()):
            return text
        made = secrets.token_hex(8)
        path.parent.mkdir(exist_ok=True)
        replace_file(path, made.encode(), SYSTEM.inside(path.parent.parent))
        return made

    def log(self, values: dict[str, float], step: int) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()
