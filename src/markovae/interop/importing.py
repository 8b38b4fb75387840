"""`import_run`: a diffusers pipeline as a run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import markovae
from markovae.build import create
from markovae.checkpoints.writing import save_checkpoint
from markovae.config import Config
from markovae.data.data_config import DataConfig
from markovae.diffusion.model import Diffusion
from markovae.interop.diffusers_folder import Folder, on_no_device, read_folder, read_weights
from markovae.networks.network_config import NetworkConfig
from markovae.system.files import make_folder, refused, require_new_folder, staged_folder, write_synced
from markovae.training.train_config import TrainConfig

FINE_TUNING = TrainConfig(optimizer="adamw", adamw_lr=1e-4, beta2=0.999, warmup_steps=500, ema_horizon=10_000.0)
"""How an imported model is trained on unless told otherwise: gently."""


def import_run(folder: str | Path, out: str | Path) -> Diffusion:
    """Read a diffusers pipeline's folder and write it as the run `out`; its model, float32, for evaluation.

    The model keeps its grid, its clip of x̂ and its variance. The decoder, of which diffusers has none, is that of Ho
    et al.'s code; set target.decoder in a configuration to measure with another one.

    Raises:
        UserError: for a folder that cannot be read or expressed, with the reason, or an `out` that is not empty.
        StoppedRun: where the disk refuses; nothing is left then.
    """
    require_new_folder(Path(out))
    found = read_folder(folder)
    tensors = read_weights(found, on_no_device(found))
    config, shape = config_of(found), (found.shape.data.in_channels, *found.shape.data.size)
    model = create(config, shape, num_classes=len(found.classes))
    model.network.load_state_dict(tensors)
    state: dict[str, Any] = {
        "kind": "imported",
        "step": 0,
        "shape": list(shape),
        "bins": model.pixels.bins,
        "class_names": list(found.classes),
        "precision": None,
        "origin": {"format": "diffusers", "unet": _plain(found.unet), "scheduler": _plain(found.scheduler)},
        "versions": {"markovae": markovae.__version__, "torch": str(torch.__version__)},
    }
    _write(Path(out), {f"network.{name}": value for name, value in tensors.items()}, state, config)
    return model.eval().requires_grad_(False)


def config_of(folder: Folder) -> Config:
    """The configuration of an imported run."""
    height, width = folder.shape.data.size
    kinds = {1: "grey", 3: "rgb"}
    data = DataConfig(size=height, width=width, channels=kinds.get(folder.shape.data.in_channels, "auto"))
    always = folder.shape.data.num_classes > 0 and not folder.null_learnt
    train = replace(FINE_TUNING, label_dropout=0.0) if always else FINE_TUNING
    network = NetworkConfig(kind="ddpm", ddpm=folder.shape.options, classes=folder.shape.data.num_classes > 0)
    return Config(data, folder.rules.schedule, network, folder.rules.target, train)


def _plain(table: dict[str, Any]) -> dict[str, Any]:
    """A configuration without NaN and infinities, which JSON lacks: only fields that are not read may hold them."""
    return {key: value for key, value in table.items() if not isinstance(value, float) or math.isfinite(value)}


def _write(out: Path, tensors: dict[str, torch.Tensor], state: dict[str, Any], config: Config) -> None:
    try:
        make_folder(out.parent)
        with staged_folder(out) as stage:
            save_checkpoint(stage / "checkpoints", 0, {"ema": tensors}, state, config)
            write_synced(stage / "config.toml", config.to_toml().encode())
    except OSError as error:
        raise refused(out, sum(value.nbytes for value in tensors.values()), error) from error
