"""Reading bundles: verified before use, newest first, a fallback announced."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from markovae.build import create, load_weights
from markovae.checkpoint.manifest import FORMAT, MANIFEST, CheckpointError, parse_json, verify_bundle
from markovae.checkpoint.writing import checkpoints_in
from markovae.config import Config
from markovae.console import say
from markovae.diffusion import Diffusion
from markovae.errors import UserError

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Checkpoint:
    """A verified bundle.

    Args:
        path: its folder.   contents: of its files, by name, as they were verified.
    """

    path: Path
    contents: Mapping[str, bytes]

    @cached_property
    def state(self) -> dict[str, Any]:
        """Position, data record, shape, bins and class names."""
        state = parse_json(self._file("state.json"), self.path / "state.json")
        if state.get("format") != FORMAT:
            raise CheckpointError(f"{self.path / 'state.json'} has format {state.get('format')!r}, not {FORMAT}")
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
        return int(self._state("step", int))

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of the images."""
        return tuple(int(side) for side in self._state("shape", list))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, empty without labels."""
        return tuple(str(name) for name in self._state("class_names", list))

    @property
    def digest(self) -> str:
        """16 hex digits that name this bundle: of its manifest, and so of every file."""
        return hashlib.sha256((self.path / MANIFEST).read_bytes()).hexdigest()[:16]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of `name`.safetensors.

        Raises:
            CheckpointError: where the bundle has no such file.
        """
        file = f"{name}.safetensors"
        try:
            return safetensors.torch.load(self._file(file))
        except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{self.path / file} holds no tensors: {error}") from None

    @property
    def resumable(self) -> bool:
        """True where the bundle has all that training needs."""
        return {"model.safetensors", "ema.safetensors", "optimizer.safetensors"} <= set(self.contents)

    def model(self, weights: str = "ema") -> Diffusion:
        """The model with its averaged weights (or the raw ones, `weights="model"`), float32, for evaluation.

        Raises:
            CheckpointError: where weights and configuration do not fit each other.
        """
        bins = int(self._state("bins", int))
        try:
            model = create(self.config, self.shape, bins=bins, num_classes=len(self.class_names))
        except ValueError as error:
            raise CheckpointError(f"{self.path} describes no model: {error}") from None
        try:
            load_weights(model, self.tensors(weights))
        except ValueError as error:
            raise CheckpointError(
                f"{self.path / f'{weights}.safetensors'} does not fit the configuration beside it: {error}"
            ) from None
        return model.eval().requires_grad_(False)

    def _file(self, name: str) -> bytes:
        if name not in self.contents:
            raise CheckpointError(f"{self.path / name} is missing: the checkpoint does not hold it")
        return self.contents[name]

    def _state(self, key: str, kind: type) -> Any:
        value = self.state.get(key)
        if type(value) is not kind:
            raise CheckpointError(f"{self.path / 'state.json'} has no {key}: it was not written by markovae")
        return value


def open_checkpoint(path: str | Path) -> Checkpoint:
    """The checkpoint at `path`: one checkpoint folder, or the newest of a run that verifies.

    Raises:
        CheckpointError: for a checkpoint folder that does not verify, or a run without one that does.
        UserError: for a path that is neither.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path} is no folder: name a run or one of its checkpoints")
    if (path / CHECKPOINTS).is_dir():
        return newest_checkpoint(path)
    if (path / MANIFEST).exists() or (path / "config.toml").exists() or any(path.glob("*.safetensors")):
        return Checkpoint(path, verify_bundle(path))
    raise UserError(f"{path} is no run: it holds neither {CHECKPOINTS}/ nor {MANIFEST}")


def newest_checkpoint(run: Path) -> Checkpoint:
    """The newest checkpoint of a run that verifies; passing over a newer one is announced on stderr.

    Raises:
        CheckpointError: when none verifies, with what is wrong with the newest.
    """
    first: CheckpointError | None = None
    for path in checkpoints_in(run / CHECKPOINTS):
        try:
            checkpoint = Checkpoint(path, verify_bundle(path))
        except CheckpointError as error:
            first = first or error
            say(f"checkpoint passed over: {error}")
            continue
        if first is not None:
            say(f"using the older checkpoint {path}")
        return checkpoint
    if first is not None:
        raise CheckpointError(f"{run} has no checkpoint that verifies; the newest: {first}")
    raise CheckpointError(f"{run / CHECKPOINTS} holds no checkpoint: the run was stopped before its first save")


def load(path: str | Path, device: str | torch.device = "cpu") -> Diffusion:
    """The model of a run, or of one checkpoint, with its averaged (EMA) weights, ready to sample and to measure.

    Args:
        path: a run's folder (its newest checkpoint that verifies is taken) or a checkpoint's.
    Raises:
        CheckpointError: where nothing verifies.   UserError: where `path` is no run.
    """
    return open_checkpoint(path).model().to(device)
