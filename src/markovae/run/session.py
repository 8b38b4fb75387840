"""One run from its first step, or the one it stopped at, to its last."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any, final

import torch

import markovae
from markovae.checkpoint import checkpoint_name, prune, save_checkpoint
from markovae.config import Config
from markovae.console import say
from markovae.data.images import ImageData
from markovae.data.split import Splits
from markovae.errors import StoppedRun
from markovae.files import require_room, write_file
from markovae.run.folder import RunFolder
from markovae.run.heldout import GRID_SIDE, SAMPLE_STEPS, held_out_row, heldout_sentence, sample_grid, without_labels
from markovae.run.progress import Progress, duration
from markovae.run.signals import Interrupted, Interrupts
from markovae.training import NonFiniteError, Step, Training

LOG_STEPS = 10
LARGEST_RESERVE = 0.3  # share of a budget in minutes that looking may cost


@final
class Session:
    """Drives `Training` to the end of its budget: figures, held-out bounds, grids, checkpoints, signals.

    Args:
        folder: of the run, held.   config: of the run.   splits: its data.   record: of the split.
        training: at the step to go on from.
    """

    def __init__(
        self, folder: RunFolder, config: Config, splits: Splits, record: dict[str, Any], training: Training
    ) -> None:
        self.folder, self.config, self.splits, self.record = folder, config, splits, record
        self.training = training
        self._rows: list[Step] = []
        self._saved_step, self._saved_at = -1, time.monotonic()
        self._save_seconds = 0.0
        self._heldout: dict[str, Any] | None = None

    @property
    def last_checkpoint(self) -> Path:
        """The folder of the last save."""
        return self.folder.checkpoints / checkpoint_name(self._saved_step)

    def check_room(self) -> None:
        """Twice the bundle must be free beside what is kept."""
        # model, average and at most two moments, four bytes each
        bundle = 16 * sum(weight.numel() for weight in self.training.model.parameters())
        require_room(self.folder.path, 2 * bundle)

    def resumed(self, checkpoint: Path) -> None:
        """After `training` was restored from a checkpoint of this run."""
        self._saved_step = self.training.step
        self.folder.forget_after(self.training.step)
        past = [row for row in self.folder.rows() if row.get("kind") == "heldout"]
        self._heldout = past[-1] if past else None
        say(f"resumed from {checkpoint}")

    def go(self) -> None:
        """Train to the end of the budget.

        Raises:
            StoppedRun: for a loss that is no number, or a disk that refuses, naming the last good checkpoint.
            SystemExit: 130 or 143 after a signal, the present step saved.
        """
        with Interrupts() as interrupts:
            try:
                self._prepare(interrupts)
                self._steps(interrupts)
            except Interrupted:
                pass
            except NonFiniteError as error:
                raise StoppedRun(
                    f"{error}; the last good checkpoint is {self.last_checkpoint}: lower train.lr and train.rest_lr, "
                    "or look at those images"
                ) from None
            if interrupts.caught is not None:
                self._leave(interrupts.caught)

    # -- the parts ----------------------------------------------------------------------------------------------

    def _prepare(self, interrupts: Interrupts) -> None:
        training, config = self.training, self.config.train
        say(f"training in {training.choose_precision().reason}")
        if training.budget.total is not None or config.seconds is None:
            return
        cost = self._save_seconds * 2
        if config.evaluations:
            started = time.monotonic()
            with interrupts.harmless():
                self._look(training.step)
            once = time.monotonic() - started
            calls = config.eval_images * (config.eval_draws + 1)
            cost += once * (config.evaluations + config.grids * GRID_SIDE**2 * SAMPLE_STEPS / calls)
        training.budget.reserve = min(cost, LARGEST_RESERVE * config.seconds)

    def _steps(self, interrupts: Interrupts) -> None:
        training = self.training
        with Progress(training.step, training.budget.total) as progress:
            while not training.done and interrupts.caught is None:
                known = training.budget.total
                step = training.advance()
                if known is None and training.budget.total is not None:
                    self._announce(training.budget.total)
                self._log(step)
                progress.show(step)
                if training.done or self._due(self.config.train.evaluations):
                    with interrupts.harmless():
                        self._look(step.index)
                if training.done or self._due(self.config.train.grids):
                    with interrupts.harmless():
                        self._grid(step.index)
                if training.done or time.monotonic() - self._saved_at >= 60 * self.config.train.save_minutes:
                    self.save()

    def _announce(self, total: int) -> None:
        left = (self.config.train.seconds or 0) - self.training.seconds
        say(f"{total:,} steps fit the budget, about {duration(max(left, 0))} from here")

    def _due(self, times: int) -> bool:
        """Whether one of `times` evenly spread looks, the last one at the end, falls on this step."""
        total, step = self.training.budget.total, self.training.step
        return total is not None and times > 0 and step * times // total > (step - 1) * times // total

    def _log(self, step: Step) -> None:
        self._rows.append(step)
        if step.index % LOG_STEPS and not self.training.done:
            return
        mean = {name: statistics.fmean(getattr(row, name) for row in self._rows) for name in ("loss", "nats")}
        self.folder.append(
            {
                "kind": "train",
                "step": step.index,
                "total": step.total,
                "images_seen": step.images_seen,
                **mean,
                "lr": step.lr,
                "grad_norm": statistics.fmean(row.grad_norm for row in self._rows),
                "images_per_second": statistics.harmonic_mean([row.images_per_second for row in self._rows]),
                "seconds": step.seconds,
            }
        )
        self._rows.clear()

    def _look(self, step: int) -> None:
        if not self.config.train.evaluations:
            return
        row = held_out_row(self.training.average.model, self._validation, self.config.train)
        row = {"kind": "heldout", "step": step, "seconds": self.training.seconds, **row}
        if row["bits_per_dim"]["mean"] is None:
            raise NonFiniteError(f"the held-out bound is no number after step {step}")
        self.folder.append(row)
        say(f"step {step:,}: {heldout_sentence(row, self._heldout, self.splits.train.bins)}")
        self._heldout = row

    def _grid(self, step: int) -> None:
        if not self.config.train.grids:
            return
        picture = sample_grid(self.training.average.model, self._classes)
        self.folder.samples.mkdir(exist_ok=True)
        write_file(self.folder.samples / f"{checkpoint_name(step)}.png", picture)

    @property
    def _validation(self) -> ImageData:
        return self.splits.validation if self._classes else without_labels(self.splits.validation)

    @property
    def _classes(self) -> int:
        return len(self.splits.train.class_names) if self.config.network.classes else 0

    def save(self) -> None:
        """Write the checkpoint of the present step, then prune; a step that is saved is not saved again.

        Raises:
            StoppedRun: when the disk refuses.
        """
        training, started = self.training, time.monotonic()
        if self._saved_step == training.step:
            return
        tensors, position = training.capture()
        train = self.splits.train
        state = {
            "kind": "training",
            **position,
            "shape": list(train.shape),
            "bins": train.bins,
            "class_names": list(train.class_names),
            "data": self.record,
            "versions": {"markovae": markovae.__version__, "torch": str(torch.__version__)},
        }
        self.folder.checkpoints.mkdir(exist_ok=True)
        path = save_checkpoint(self.folder.checkpoints, training.step, tensors, state, self.config)
        self._saved_step, self._saved_at = training.step, time.monotonic()
        self._save_seconds = self._saved_at - started
        prune(self.folder.checkpoints, self.config.train.keep, also=[path])

    def _leave(self, number: int) -> None:
        self.save()
        say(f"stopped at step {self.training.step:,}: go on with  markovae train --resume --out {self.folder.path}")
        raise SystemExit(128 + number)
