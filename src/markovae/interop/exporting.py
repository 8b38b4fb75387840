"""A run as a folder that `DDPMPipeline.from_pretrained` loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch

from markovae.checkpoint import Checkpoint, open_checkpoint
from markovae.console import printable
from markovae.diffusion import Diffusion
from markovae.errors import UserError
from markovae.files import make_folder, refused, staged_folder, write_synced
from markovae.interop.card import model_card
from markovae.interop.importing import require_free
from markovae.interop.reading import CLASSES
from markovae.interop.scheduler_config import rules_from, rules_to
from markovae.interop.unet_config import config_from, config_to
from markovae.interop.weights import to_theirs
from markovae.networks.ddpm import DDPMUNet


def export_run(run: str | Path, target: str | Path, name: str | None = None) -> Path:
    """Write the averaged weights of a run, or of one checkpoint, as a diffusers pipeline's folder; the folder.

    A model that was imported and whose shape and rules are unchanged gets its own two configurations back.

    Args:
        name: what the model card says to load: a repository of the Hub; None is the folder.

    Raises:
        UserError: for what diffusers cannot express, with the reason, or a target that is not empty.
        StoppedRun: where the disk refuses; nothing is left then.
    """
    folder = Path(target)
    require_free(folder)
    files = _files(open_checkpoint(run), Path(run), name or folder.name)
    try:
        make_folder(folder.parent)
        with staged_folder(folder) as stage:
            for place, content in files.items():
                make_folder((stage / place).parent)
                write_synced(stage / place, content)
    except OSError as error:
        raise refused(folder, sum(map(len, files.values())), error) from error
    return folder


def _files(checkpoint: Checkpoint, run: Path, name: str) -> dict[str, bytes]:
    """The contents of the folder by place in it."""
    _check_expressible(checkpoint)
    model = checkpoint.model()
    contents, network = _configurations(checkpoint, model), model.network
    assert isinstance(network, DDPMUNet)
    weights = safetensors.torch.save(to_theirs(network, dict(network.named_parameters())), metadata={"format": "pt"})
    card = model_card(checkpoint, model.num_levels, run, printable(name))
    files = {place: (json.dumps(table, indent=2) + "\n").encode() for place, table in contents.items()}
    return files | {"unet/diffusion_pytorch_model.safetensors": weights, "README.md": card.encode()}


def _check_expressible(checkpoint: Checkpoint) -> None:
    config = checkpoint.config
    if config.network.kind != "ddpm":
        raise UserError(
            f"{checkpoint.path} has network.kind={config.network.kind}, which is none of diffusers' networks (it reads "
            "the log-SNR, folds pixels into channels and sees fixed features of the detail): train with "
            "network.kind=ddpm to export"
        )
    if checkpoint.state["bins"] != 256:
        raise UserError(
            f"{checkpoint.path} has {checkpoint.state['bins']} grey values a pixel, and diffusers makes images of 256"
        )


def _configurations(checkpoint: Checkpoint, model: Diffusion) -> dict[str, dict[str, Any]]:
    config, (_, height, width) = checkpoint.config, checkpoint.shape
    assert isinstance(model.network, DDPMUNet)
    unet = config_to(model.network.config, (height, width))
    scheduler = rules_to(config.schedule, model.schedule, config.target)
    origin = checkpoint.state.get("origin")
    if isinstance(origin, dict) and origin.get("format") == "diffusers":
        unet, scheduler = _original(origin, unet, scheduler)
    index = {
        "_class_name": scheduler["_class_name"].replace("Scheduler", "Pipeline"),
        "scheduler": ["diffusers", scheduler["_class_name"]],
        "unet": ["diffusers", unet["_class_name"]],
    }
    tables = {"model_index.json": index, "unet/config.json": unet, "scheduler/scheduler_config.json": scheduler}
    shape, names = model.network.config, list(checkpoint.class_names)
    if shape.num_classes and (shape.null_class or names != [str(k) for k in range(len(names))]):
        learnt = shape.null_class and config.train.label_dropout > 0
        tables[CLASSES] = {"class_names": names, "null_class": shape.null_class, "null_learnt": learnt}
    return tables


def _original(
    origin: dict[str, Any], unet: dict[str, Any], scheduler: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configurations that were imported, each where it says the same as ours."""
    try:
        same_unet = config_from(origin["unet"]) == config_from(unet)
        same_scheduler = rules_from(origin["scheduler"]) == rules_from(scheduler)
    except (ValueError, KeyError, TypeError, AttributeError):
        return unet, scheduler
    return origin["unet"] if same_unet else unet, origin["scheduler"] if same_scheduler else scheduler
