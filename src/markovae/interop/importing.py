"""`import_run`: a diffusers pipeline, or a file of weights, as a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import markovae
from markovae.build import create, create_schedule
from markovae.checkpoints.writing import save_checkpoint
from markovae.config import Config
from markovae.data.data_config import DataConfig
from markovae.diffusion.cascade import one_stage
from markovae.diffusion.conventions import convention_named
from markovae.diffusion.foreign_network import ForeignNetwork
from markovae.diffusion.model import Diffusion, load_weights
from markovae.diffusion.pixels import Pixels
from markovae.diffusion.schedule_config import ScheduleConfig
from markovae.diffusion.target_config import TargetConfig
from markovae.errors import UserError
from markovae.interop.diffusers_folder import Folder, on_no_device, read_folder, read_weights
from markovae.interop.weight_file import WeightFile, as_float32, open_weights, prefix_of
from markovae.interop.weights import diffusers_prefix, to_ours
from markovae.interop.wrapping import on_our_scale
from markovae.networks.ddpm import DDPMUNet
from markovae.networks.network_config import NetworkConfig
from markovae.strict_json import shown
from markovae.system.files import make_folder, refused, require_new_folder, staged_folder, write_synced
from markovae.training.train_config import TrainConfig

FINE_TUNING = TrainConfig(optimizer="adamw", adamw_lr=1e-4, beta2=0.999, warmup_steps=50, ema_horizon=10_000.0)
"""How an imported model is trained on by default: gently."""


def import_run(
    source: str | Path,
    out: str | Path,
    config: Config | None = None,
    *,
    classes: int = 0,
    trust: Sequence[str] = (),
) -> Diffusion:
    """Read a diffusers pipeline's folder, or a file of weights, and write it as a run; its model, float32, to evaluate.

        mv.import_run("ddpm-cifar10-32", "runs/cifar")
        config = mv.Config().with_settings(["network.kind=own", "network.own.name=nets:UNet", "data.size=32", …])
        mv.import_run("model.pt", "runs/mine", config, trust=["nets:UNet"])

    A pipeline keeps its grid, its clip of x̂ and its variance. A file is one of safetensors, or of torch.save, whose
    pickle is never executed; the configuration says whose weights they are.

    Args:
        source: the pipeline's folder, or the file.
        out: the run's folder, new or empty.
        config: of a file: network, target, schedule, data.size and data.channels.
        classes: of a file: how many labels its network takes.
        trust: classes that network.own may name: they are imported.
    Raises:
        UserError: for what cannot be read or expressed, with the reason, or an `out` that is not empty.
        StoppedRun: where the disk refuses; nothing is left then.
    """
    require_new_folder(Path(out))
    if Path(source).is_file():
        return _import_file(Path(source), Path(out), config, classes, trust)
    if config is not None or classes:
        raise UserError(f"{source} is not a file: a pipeline's folder brings its own configuration and takes no other")
    found = read_folder(source)
    tensors = read_weights(found, on_no_device(found))
    config, shape = config_of(found), (found.shape.data.in_channels, *found.shape.data.size)
    model = create(config, shape, num_classes=len(found.classes))
    model.network.load_state_dict(tensors)
    origin = {"format": "diffusers", "unet": _plain(found.unet), "scheduler": _plain(found.scheduler)}
    return _written(Path(out), one_stage(model, "an import"), tensors, config, found.classes, origin)


def _import_file(path: Path, out: Path, config: Config | None, classes: int, trust: Sequence[str]) -> Diffusion:
    """The weights of a file as a run."""
    if config is None or not config.data.size:
        raise UserError(
            f"{path} is a file of weights: set network.kind (or network.own.name), and data.size, the height "
            "of its images"
        )
    config = _completed(config, classes)
    shape = (1 if config.data.channels == "grey" else 3, config.data.size, config.data.width or config.data.size)
    with closing(open_weights(path)) as file:
        model = one_stage(create(config, shape, num_classes=classes, trust=trust), "an import")
        tensors = _weights_of(file, model)
    load_weights(model.network, tensors)
    return _written(out, model, tensors, config, [str(number) for number in range(classes)], {"format": "weights"})


def _written(
    out: Path,
    model: Diffusion,
    tensors: Mapping[str, Tensor],
    config: Config,
    class_names: Sequence[str],
    origin: dict[str, Any],
) -> Diffusion:
    """Write a model with these weights of its network as a run; the model, to evaluate."""
    state: dict[str, Any] = {
        "kind": "imported",
        "step": 0,
        "shape": list(model.shape),
        "bins": model.pixels.bins,
        "class_names": list(class_names),
        "precision": None,
        "origin": origin,
        "versions": {"markovae": markovae.__version__, "torch": str(torch.__version__)},
    }
    _write(out, {f"network.{name}": value for name, value in tensors.items()}, state, config)
    return model.eval().requires_grad_(False)


def _completed(config: Config, classes: int) -> Config:
    """With what the convention of a class of the caller's own settles: the target, the grid, the decoder, and that a
    label is always given.

    Raises:
        UserError: for one that counts the steps of a grid that nothing names.
    """
    config = replace(config, train=FINE_TUNING if config.train == TrainConfig() else config.train)
    own = config.network.own
    if own is None or not own.predicts:
        return config
    convention, (low, high) = convention_named(own.predicts), own.data_range
    told = config.schedule != ScheduleConfig()
    if convention.time is None and not told:
        raise UserError(
            f"network.own.predicts={own.predicts} counts the steps of a grid: set schedule.kind, the one it was "
            "trained on, such as linear or cosine"
        )
    grid = convention.default_grid() if convention.time and not told else create_schedule(config.schedule, Pixels())
    assert grid is not None, "a convention with a time of its own has a grid"
    moved = on_our_scale(grid, low, high)
    schedule = config.schedule
    if not told or moved is not grid:
        schedule = ScheduleConfig("table", logsnr=tuple(moved.logsnr.detach()[1:].tolist()))
    name = "data" if moved is not grid else convention.target.name
    decoder = "ho_small" if convention.time is None and config.target == TargetConfig() else config.target.decoder
    train = replace(config.train, label_dropout=0.0) if classes else config.train
    return replace(config, schedule=schedule, target=replace(config.target, name=name, decoder=decoder), train=train)


def _weights_of(file: WeightFile, model: Diffusion) -> dict[str, Tensor]:
    """The weights of the model's network by their names in it, float32.

    Raises:
        UserError: for weights that are missing, left over or of another shape, or a buffer with other numbers.
    """
    network = model.network
    if isinstance(network, DDPMUNet) and (prefix := diffusers_prefix(file.shapes)) is not None:
        return to_ours(
            network, {name.removeprefix(prefix): file.read(name) for name in file.shapes if name.startswith(prefix)}
        )
    inner = network.denoiser if isinstance(network, ForeignNetwork) else network
    assert isinstance(inner, nn.Module), "it is made of a class below it"
    before = "denoiser." if isinstance(network, ForeignNetwork) else ""
    wanted = {name: tuple(weight.shape) for name, weight in inner.named_parameters()}
    kept = inner.state_dict()
    what = f"the network {type(inner).__name__}"
    prefix = prefix_of(file.shapes, wanted, kept, what)
    for name, shape in wanted.items():
        if file.shapes[prefix + name] != shape:
            raise UserError(
                f"the weight {shown(prefix + name)} has shape {file.shapes[prefix + name]}, and {what} takes {shape}: "
                "give the arguments that it was made with"
            )
    for name, buffer in kept.items():
        if name not in wanted and prefix + name in file.shapes and buffer.is_floating_point():
            theirs = file.read(prefix + name).to(buffer)
            if theirs.shape != buffer.shape or not torch.allclose(theirs, buffer, rtol=1e-5, atol=1e-7):
                raise UserError(
                    f"the buffer {shown(name)} of {what} has numbers of its own, and a run keeps weights alone: make "
                    "it a parameter"
                )
    return {before + name: as_float32(prefix + name, file.read(prefix + name)) for name in wanted}


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
