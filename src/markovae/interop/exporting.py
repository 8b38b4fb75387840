"""`export`: a run as a folder that other libraries load, with a model card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch

from markovae import __version__
from markovae.checkpoints.reading import Checkpoint, open_checkpoint
from markovae.diffusion.cascade import one_stage
from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.interop.diffusers_folder import CLASSES
from markovae.interop.diffusers_scheduler import rounding_warning, rules_from, rules_to
from markovae.interop.diffusers_unet import config_from, config_to
from markovae.interop.torch_export import torch_files
from markovae.interop.weights import to_theirs
from markovae.log import log, plus_minus, printable
from markovae.networks.ddpm import DDPMUNet
from markovae.system.files import make_folder, refused, require_new_folder, staged_folder, write_synced
from markovae.system.jsonlines import read_rows

FORMATS = ("diffusers", "torch")
_FRONT = """\
---
library_name: diffusers
pipeline_tag: unconditional-image-generation
tags:
- diffusers
- ddpm
- unconditional-image-generation
- markovae
---
"""


def model_card(checkpoint: Checkpoint, levels: int, run: Path, name: str) -> str:
    """What the model is, how to use it under this name, and what its held-out images cost, as far as the run says."""
    channels, height, width = checkpoint.shape
    config, classes = checkpoint.config, len(checkpoint.class_names)
    rows = [
        ("images", f"{width}x{height} pixels, {channels} channel{'s' if channels > 1 else ''}"),
        ("training steps", f"{checkpoint.step:,}"),
        ("schedule", config.schedule.kind),
        ("the network predicts", config.target.name),
        ("variance of a step", config.target.reverse),
    ]
    if classes:
        rows.append(("classes", f"{classes}: give the unet `class_labels`, which the pipeline itself does not"))
    rows += _held_out(run)
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return (
        f"{_FRONT}\n# A diffusion model trained with markovae {__version__}\n\n"
        f"```python\n{usage(name, levels, bool(classes))}\n```\n\n| | |\n|---|---|\n{table}\n\n"
        "The same folder as a run, to be sampled with other samplers, measured in bits/dim, or trained on:\n\n"
        "```bash\nmarkovae import DIR --out runs/imported\nmarkovae measure runs/imported IMAGES\n```\n"
    )


def usage(name: str, levels: int, conditional: bool) -> str:
    """The lines that load it; a pipeline asks for 1,000 steps, or 50, whatever the grid has."""
    if conditional:
        return f'from diffusers import UNet2DModel\n\nunet = UNet2DModel.from_pretrained("{name}", subfolder="unet")'
    return (
        f'from diffusers import DiffusionPipeline\n\npipeline = DiffusionPipeline.from_pretrained("{name}")\n'
        f"images = pipeline(num_inference_steps={levels}).images"
    )


def _held_out(run: Path) -> list[tuple[str, str]]:
    """The last held-out bound of the run, where it took one."""
    rows = [row for row in read_rows(run / "metrics.jsonl").rows if row.get("kind") == "heldout"]
    if not rows or rows[-1]["bits_per_dim"]["mean"] is None:
        return []
    bits = plus_minus(rows[-1]["bits_per_dim"], 3)
    return [("held-out bound", f"{bits} bits/dim, after step {rows[-1]['step']}")]


def export(
    run: str | Path,
    out: str | Path,
    to: str = "diffusers",
    *,
    name: str | None = None,
    trust: Sequence[str] = (),
) -> Path:
    """Write the averaged weights of a run, or of one checkpoint, as a folder for others; the folder.

        mv.export("runs/photos", "pipeline", to="diffusers")

    diffusers: a pipeline, of network.kind=ddpm. torch: any network as a graph of torch.export, with a sampling loop of
    twenty lines that needs torch alone. A model that was imported and whose shape and rules are unchanged gets its own
    two configurations of diffusers back.

    Args:
        run: a run's folder, or a checkpoint's.
        out: a new or empty folder.
        to: one of FORMATS.
        name: what the model card says to load: a repository of the Hub; None is the folder.
        trust: networks of your own that may be imported.
    Raises:
        UserError: for what the format cannot express, with the reason; an unknown format; an `out` that is not empty.
        StoppedRun: where the disk refuses; nothing is left then.
    """
    if to not in FORMATS:
        raise UserError(f"to={to!r} must be one of {', '.join(FORMATS)}")
    folder = Path(out)
    require_new_folder(folder)
    checkpoint = open_checkpoint(run, trust)
    if to == "torch":
        files = torch_files(checkpoint.model(), checkpoint.class_names)
    else:
        files = _files(checkpoint, Path(run), name or folder.name)
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
    model = one_stage(checkpoint.model(), "an export")
    warning = rounding_warning(model.schedule)
    if warning is not None:
        log(warning)
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
            "the log-SNR, folds pixels into channels and sees fixed features of the detail): export it --to torch, or "
            "train with network.kind=ddpm"
        )
    if checkpoint.state["bins"] != 256:
        raise UserError(
            f"{checkpoint.path} has {checkpoint.state['bins']} values per pixel, and diffusers makes images of 256"
        )


def _configurations(checkpoint: Checkpoint, model: Diffusion) -> dict[str, dict[str, Any]]:
    config = checkpoint.config
    assert isinstance(model.network, DDPMUNet)
    unet = config_to(model.network.config, model.network.data)
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
    if model.network.num_classes and (shape.null_class or names != [str(k) for k in range(len(names))]):
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
