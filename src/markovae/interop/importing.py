"""A diffusers folder becomes a run that can be sampled, measured and trained on."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import markovae
from markovae.build import create
from markovae.checkpoint import save_checkpoint
from markovae.config import Config, NetworkConfig, TrainConfig
from markovae.data.options import DataConfig
from markovae.diffusion import Diffusion
from markovae.errors import UserError
from markovae.files import make_folder, refused, staged_folder, write_synced
from markovae.interop.reading import Folder, on_no_device, read_folder, read_weights

FINE_TUNING = TrainConfig(optimiser="adamw", rest_lr=1e-4, beta2=0.999, warmup_steps=500, ema_horizon=10_000.0)
"""How an imported model is trained on unless told otherwise: gently."""


def import_folder(path: str | Path, out: str | Path) -> Diffusion:
    """Read a diffusers pipeline's folder and write it as the run `out`; its model, float32, for evaluation.

    The model keeps its grid, its clip of x̂ and its variance. The decoder, of which diffusers has none, is that of Ho
    et al.'s code; set target.decoder in a configuration to measure with another one.

    Raises:
        UserError: for a folder that cannot be read or expressed, with the reason, or an `out` that is not empty.
        StoppedRun: where the disk refuses; nothing is left then.
    """
    require_free(Path(out))
    folder = read_folder(path)
    tensors = read_weights(folder, on_no_device(folder))
    config, shape = config_of(folder), (folder.shape.in_channels, *folder.shape.size)
    model = create(config, shape, num_classes=len(folder.classes))
    model.network.load_state_dict(tensors)
    state: dict[str, Any] = {
        "kind": "imported",
        "step": 0,
        "shape": list(shape),
        "bins": model.pixels.bins,
        "class_names": list(folder.classes),
        "precision": None,
        "origin": {"format": "diffusers", "unet": _plain(folder.unet), "scheduler": _plain(folder.scheduler)},
        "versions": {"markovae": markovae.__version__, "torch": str(torch.__version__)},
    }
    _write(Path(out), {f"network.{name}": value for name, value in tensors.items()}, state, config)
    return model.eval().requires_grad_(False)


def config_of(folder: Folder) -> Config:
    """The configuration of an imported run."""
    height, width = folder.shape.size
    kinds = {1: "grey", 3: "rgb"}
    data = DataConfig(size=height, width=width, channels=kinds.get(folder.shape.in_channels, "auto"))
    always = folder.shape.num_classes > 0 and not folder.null_learnt
    train = replace(FINE_TUNING, label_dropout=0.0) if always else FINE_TUNING
    network = NetworkConfig(kind="ddpm", ddpm=folder.shape.options, classes=folder.shape.num_classes > 0)
    return Config(data, folder.rules.schedule, network, folder.rules.target, train)


def _plain(table: dict[str, Any]) -> dict[str, Any]:
    """A configuration without NaN and infinities, which JSON lacks: only fields that are not read may hold them."""
    return {key: value for key, value in table.items() if not isinstance(value, float) or math.isfinite(value)}


def require_free(out: Path) -> None:
    """Nothing is overwritten.

    Raises:
        UserError: for a folder that holds anything, or a file.
    """
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out} is not empty: name a new folder")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: name a new folder")


def _write(out: Path, tensors: dict[str, torch.Tensor], state: dict[str, Any], config: Config) -> None:
    try:
        make_folder(out.parent)
        with staged_folder(out) as stage:
            save_checkpoint(stage / "checkpoints", 0, {"ema": tensors}, state, config)
            write_synced(stage / "config.toml", config.to_toml().encode())
    except OSError as error:
        raise refused(out, sum(value.nbytes for value in tensors.values()), error) from error
