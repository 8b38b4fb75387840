"""Reading bundles: verified before use, newest first, a fallback announced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from markovae.build import UntrustedNetworkError, create
from markovae.checkpoints.manifest import (
    MANIFEST,
    CheckpointError,
    NewerFormatError,
    check_state,
    parse_json,
    sha256,
    verify_bundle,
)
from markovae.checkpoints.shape_check import FITTED, require_fit
from markovae.checkpoints.tensors import read_tensors
from markovae.checkpoints.writing import checkpoints_in
from markovae.config import Config
from markovae.data.images import captions_digest, columns_digest
from markovae.data.split import Splits
from markovae.diffusion.cascade import Model
from markovae.diffusion.fitted_variance import load_fitted
from markovae.diffusion.model import load_weights
from markovae.errors import UserError
from markovae.log import log
from markovae.system.device import device_named, has_bfloat16
from markovae.text.conditioner import EncoderConditioner
from markovae.training.train_config import PRECISIONS

CHECKPOINTS, BEST = "checkpoints", "best"
RETRIES = 3  # of a run whose trainer prunes while it is read


@dataclass(frozen=True)
class Checkpoint:
    """A verified bundle; make one with `read_checkpoint`, `newest_checkpoint` or `open_checkpoint`.

    Args:
        path: its folder.
        contents: of its files, by name, as they were verified, in the present format.
        trust: networks of the caller's own that may be imported, each "package.module:Class".
    """

    path: Path
    contents: Mapping[str, bytes]
    trust: tuple[str, ...] = ()

    @cached_property
    def state(self) -> dict[str, Any]:
        """Position, draws, data record, shape, bins and class names."""
        path = self.path / "state.json"
        state = parse_json(self._file("state.json"), path)
        check_state(state, path)
        return state

    @cached_property
    def config(self) -> Config:
        """The configuration of the run."""
        try:
            return Config.parse(self._file("config.toml"), str(self.path / "config.toml"))
        except UserError as error:
            raise CheckpointError(str(error)) from None

    @property
    def step(self) -> int:
        """Training steps behind these weights."""
        return int(self.state["step"])

    def facts(self) -> dict[str, Any]:
        """Which checkpoint this is, as records name it: its path, step and digest."""
        return {"path": str(self.path), "step": self.step, "digest": self.digest}

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of the images."""
        return tuple(self.state["shape"])

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, empty without labels."""
        return tuple(self.state["class_names"])

    @property
    def text(self) -> dict[str, Any]:
        """What a model of captions was trained with: encoder, its sha256 and width, the captions' captions_sha256.

        Raises:
            CheckpointError: where the bundle does not say.
        """
        text = self.state.get("text")
        if not isinstance(text, dict) or not all(type(text.get(key)) is str for key in ("encoder", "sha256")):
            raise CheckpointError(f"{self.path / 'state.json'} names no text encoder for its captions")
        return text

    @property
    def text_conditioner(self) -> EncoderConditioner | None:
        """What reads the captions of a model of captions.

        Raises:
            CheckpointError: where the bundle does not say.
        """
        if self.config.condition.kind != "text":
            return None
        # A bundle of before encoders could be folders has no width: its encoder's is known.
        return EncoderConditioner(self.text["encoder"], self.text["sha256"], self.text.get("width"))

    @property
    def imported(self) -> bool:
        """Whether the weights came from elsewhere, with no images of their own."""
        return self.state.get("kind") == "imported"

    @property
    def split_record(self) -> dict[str, Any]:
        """What the run stored of its images and their parts.

        Raises:
            UserError: for a model that was imported and has none.
        """
        record = self.state.get("data")
        if not isinstance(record, dict):
            raise UserError(
                f"{self.path} has no images of its own: name DATA; to train on, start a run from it with  markovae "
                "train DATA --init RUN --out NEW"
            )
        return record

    def require_same_words(self, splits: Splits) -> None:
        """Classes, by their names, and captions are those that the run was trained on.

        Raises:
            UserError: where they are not.
        """
        train = splits.train
        if self.class_names != tuple(train.class_names):
            now, then = (", ".join(names[:8]) or "none" for names in (train.class_names, self.class_names))
            raise UserError(
                f"the classes of {train.name} are {now} and were {then} when the run was made: restore them, or start "
                "a new run"
            )
        if self.text_conditioner is not None and self.text.get("captions_sha256") not in (None, captions_digest(train)):
            raise UserError(
                f"the captions of {train.name} changed since the run was made: restore them, or start a new run"
            )
        names = self.config.condition.columns or ()
        if names and self.state.get("columns_sha256") not in (None, columns_digest(train, names)):
            raise UserError(
                f"the columns {', '.join(names)} of {train.name} changed since the run was made: restore them, or "
                "start a new run"
            )

    @property
    def digest(self) -> str:
        """16 hex digits that name this bundle: of its manifest, and so of every file."""
        return sha256(self.contents[MANIFEST])[:16]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of `name`.safetensors.

        Raises:
            CheckpointError: where the bundle has no such file, or a number in it is NaN or Inf.
        """
        file = f"{name}.safetensors"
        return read_tensors(self._file(file), self.path / file)

    def all_tensors(self) -> dict[str, dict[str, Tensor]]:
        """The tensors of every file, by its name without ".safetensors".

        Raises:
            CheckpointError: where a number is NaN or Inf, or one of what training needs is missing.
        """
        files = [name.removesuffix(".safetensors") for name in self.contents if name.endswith(".safetensors")]
        return {name: self.tensors(name) for name in {*files, "model", "ema", "optimizer"}}

    def model(self, weights: str = "ema") -> Model:
        """The model with its averaged weights (or the raw ones, `weights="model"`), float32, for evaluation.

        A reverse variance that was fitted belongs to the averaged weights; with the raw ones it is not fitted.

        Raises:
            CheckpointError: where weights and configuration do not fit each other.
        """
        try:
            model = create(
                self.config,
                self.shape,
                bins=self.state["bins"],
                num_classes=len(self.class_names),
                text_conditioner=self.text_conditioner,
                trust=self.trust,
            )
        except UntrustedNetworkError:
            raise
        except ValueError as error:
            raise CheckpointError(f"{self.path} describes no model: {error}") from None
        model.class_names = self.class_names
        try:
            load_weights(model, self.tensors(weights))
        except ValueError as error:
            raise CheckpointError(
                f"{self.path / f'{weights}.safetensors'} does not fit the configuration beside it: {error}"
            ) from None
        if weights == "ema" and FITTED in self.contents:
            try:
                load_fitted(model, self.tensors("fitted"))
            except ValueError as error:
                raise CheckpointError(
                    f"{self.path / FITTED} does not fit the configuration beside it: {error}"
                ) from None
        model.guidance = float(self.state.get("guidance", 1.0))
        return model.eval().requires_grad_(False)

    def native_precision(self, device: torch.device) -> torch.dtype:
        """bfloat16 where the run trained in it and the device has it natively, else float32: no timing decides."""
        trained = str(self.state.get("precision"))
        return torch.bfloat16 if trained == "bfloat16" and has_bfloat16(device) else torch.float32

    def _file(self, name: str) -> bytes:
        if name not in self.contents:
            raise CheckpointError(f"{self.path / name} is missing: the checkpoint does not hold it")
        return self.contents[name]


def read_checkpoint(folder: Path, trust: Sequence[str] = ()) -> Checkpoint:
    """The bundle in a folder, every file verified and understood.

    Raises:
        CheckpointError: naming the file that does not verify, or says nothing that makes sense.
    """
    contents = verify_bundle(folder)
    checkpoint = Checkpoint(folder, contents, tuple(trust))
    # Read and compared now, so that what opens can be used.
    model = (checkpoint.config, checkpoint.shape, checkpoint.state["bins"], len(checkpoint.class_names))
    require_fit(folder, checkpoint.contents, *model, checkpoint.text_conditioner, trust)
    return checkpoint


def open_checkpoint(path: str | Path, trust: Sequence[str] = ()) -> Checkpoint:
    """The checkpoint at `path`: one checkpoint folder, or of a run its best, where it keeps one (train.keep_best), or
    else the newest that verifies.

    Raises:
        CheckpointError: for a checkpoint folder that does not verify, or a run without one that does.
        UserError: for a path that is neither.
    """
    path = Path(path)
    try:
        if not path.is_dir():
            raise UserError(f"{path} is not a folder: name a run or one of its checkpoints")
        if (path / CHECKPOINTS).is_dir():
            return best_checkpoint(path, trust) or newest_checkpoint(path, trust)
        if (path / MANIFEST).exists() or (path / "config.toml").exists() or any(path.glob("*.safetensors")):
            return read_checkpoint(path, trust)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name a run or one of its checkpoints") from None
    raise UserError(f"{path} is not a run: it holds neither {CHECKPOINTS}/ nor {MANIFEST}")


def best_checkpoint(run: Path, trust: Sequence[str]) -> Checkpoint | None:
    """The checkpoint of the best held-out bound, where the run keeps one; one that is damaged is announced."""
    path = run / CHECKPOINTS / BEST
    if not path.is_dir():
        return None
    try:
        return read_checkpoint(path, trust)
    except (NewerFormatError, UntrustedNetworkError):
        raise
    except CheckpointError as error:
        log(f"checkpoint skipped: {error}")
        return None


def newest_checkpoint(run: Path, trust: Sequence[str] = ()) -> Checkpoint:
    """The newest checkpoint of a run that verifies; passing over a newer one is announced on stderr.

    Raises:
        CheckpointError: when none verifies, with what is wrong with the newest; when the newest is intact, and of a
            later version.
    """
    for _ in range(RETRIES):
        there = checkpoints_in(run / CHECKPOINTS)
        found, errors = _first_good(there, trust)
        # A trainer may save and prune meanwhile: what was listed is gone then, and something newer is there.
        if found is not None or checkpoints_in(run / CHECKPOINTS) == there:
            break
    for error in errors:
        log(f"checkpoint skipped: {error}")
    if found is not None:
        if errors:
            log(f"using the older checkpoint {found.path}")
        return found
    if errors:
        raise CheckpointError(f"{run} has no checkpoint that verifies; the newest: {errors[0]}")
    raise CheckpointError(
        f"{run / CHECKPOINTS} holds no checkpoint: the run was stopped before its first save; train it again, without "
        "--resume"
    )


def _first_good(paths: list[Path], trust: Sequence[str]) -> tuple[Checkpoint | None, list[CheckpointError]]:
    errors: list[CheckpointError] = []
    for path in paths:
        try:
            return read_checkpoint(path, trust), errors
        except (NewerFormatError, UntrustedNetworkError):
            raise
        except CheckpointError as error:
            errors.append(error)
    return None, errors


@dataclass(frozen=True)
class LoadedRun:
    """A verified checkpoint and its model with averaged (EMA) weights; make one with `load_run`.

        run = mv.load_run("runs/photos")
        run.model, run.checkpoint.step

    Args:
        path: as asked for: a run, or one checkpoint.
        checkpoint: the one that was taken.
        model: its own.
    """

    path: Path
    checkpoint: Checkpoint
    model: Model

    @property
    def precision(self) -> str:
        """Of the network: float32, bfloat16 or float64."""
        return str(self.model.precision).removeprefix("torch.")

    @property
    def num_classes(self) -> int:
        """Classes the network takes, 0 for none."""
        return int(getattr(self.model.network, "num_classes", 0))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, empty without labels."""
        return self.checkpoint.class_names


def load_run(
    path: str | Path,
    *,
    device: str | torch.device = "auto",
    precision: str = "auto",
    trust: Sequence[str] = (),
) -> LoadedRun:
    """Open a run, or one checkpoint, with its model ready to sample and to measure.

        run = mv.load_run("runs/photos", device="cpu")
        run.model, run.class_names

    Args:
        path: a run's folder (its best checkpoint where it keeps one, else the newest that verifies) or a checkpoint's.
        device: auto (a CUDA device where there is one, else the CPU), cpu, cuda:1.
        precision: of the network: float32, bfloat16, float64; auto is that of the training where the device has it
            natively, else float32. Measure in float32.
        trust: networks of your own that may be imported, each "package.module:Class".
    Raises:
        CheckpointError: where nothing verifies.
        UserError: for a path that is not a run, an unknown precision, or a device that is not there or has no float64.
    """
    if precision not in (known := (*PRECISIONS, "float64")):
        raise UserError(f"precision={precision!r} must be one of {', '.join(known)}")
    place = device_named(device)
    checkpoint = open_checkpoint(path, trust)
    model = checkpoint.model().to(place)
    model.precision = checkpoint.native_precision(place) if precision == "auto" else getattr(torch, precision)
    if model.precision == torch.float64:
        model.double()
    return LoadedRun(Path(path), checkpoint, model)


def load(path: str | Path, device: str | torch.device = "cpu", *, trust: Sequence[str] = ()) -> Model:
    """The model of a run, or of one checkpoint, with its averaged (EMA) weights, ready to sample and to measure.

        model = mv.load("runs/photos")
        mv.sample(model, 4, steps=4)

    Args:
        path, device, trust: as for `load_run`; the network computes in float32.
    Raises:
        CheckpointError, UserError: as `load_run`.
    """
    return load_run(path, device=device, precision="float32", trust=trust).model
