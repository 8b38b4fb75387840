"""A model as a bundle without a run: described by a configuration that makes it again, or refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from markovae.build import OwnNetwork, create_outline
from markovae.checkpoints.manifest import MANIFEST
from markovae.checkpoints.writing import write_weights
from markovae.config import Config
from markovae.diffusion.cascade import Cascade, Model, stages_of
from markovae.diffusion.cascade_config import CascadeConfig
from markovae.diffusion.decoder import (
    Decoder,
    HoLargeDecoder,
    HoSmallDecoder,
    LearnedDecoder,
    SoftmaxDecoder,
    StepDecoder,
)
from markovae.diffusion.detail_network import DetailNetwork
from markovae.diffusion.fitted_variance import REVERSE_CLASSES, fitted_tensors
from markovae.diffusion.learned_schedule import LearnedLogSNR
from markovae.diffusion.model import Diffusion
from markovae.diffusion.schedule import LogSNRLinear, NoiseSchedule
from markovae.diffusion.schedule_config import DEFAULT_LEVELS, ScheduleConfig
from markovae.diffusion.target_config import TargetConfig
from markovae.errors import UserError
from markovae.log import log
from markovae.networks.network_config import ConditionConfig, NetworkConfig, OwnOptions
from markovae.training.distillation_config import DistillConfig
from markovae.training.train_config import TrainConfig

_REVERSES: dict[Any, str] = {made: name for name, made in REVERSE_CLASSES.items()}
_DECODERS: dict[type[Decoder], str] = {
    StepDecoder: "step",
    HoSmallDecoder: "ho_small",
    HoLargeDecoder: "ho_large",
    SoftmaxDecoder: "softmax",
    LearnedDecoder: "learned",
}


def save(model: Model, path: str | Path) -> Path:
    """Write a model with the weights it has; `mv.load(path)` gives it back.

        mv.save(step.ema, "faces-halfway")
        model = mv.load("faces-halfway")

    A network of your own is recorded by its class and by `network.config`, the arguments of its constructor (a dict
    that JSON can hold; left out where it takes none), and loaded only with `trust=("package.module:Class",)`.

    Args:
        path: of a new folder, or of a model saved before, which is replaced.
    Raises:
        UserError: for a model that no configuration describes, or a path where something else lies.
        StoppedRun: when the disk refuses.
    """
    path = Path(path)
    if path.exists() and not (path / MANIFEST).is_file() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{path} exists and is no saved model: name a new folder")
    config = describe(model)
    classes = int(getattr(model.network, "num_classes", 0))
    state: dict[str, Any] = {
        "kind": "saved",
        "step": 0,
        "shape": list(model.shape),
        "bins": model.pixels.bins,
        "class_names": [str(number) for number in range(classes)],
    }
    if model.text_conditioner is not None:
        state["text"] = {**model.text_conditioner.identity, "width": model.text_conditioner.width}
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    return write_weights(path, weights, state, config, fitted_tensors(model))


def describe(model: Model) -> Config:
    """The configuration that `create` makes this model from, its weights aside.

    Raises:
        UserError: where there is none, naming the part that no configuration describes.
    """
    base = stages_of(model)[0]
    if any(stage.schedule is not stage.training_schedule for stage in stages_of(model)):
        raise UserError("this model is on a sub-grid: save it as model.on_grid(model.training_schedule)")
    for part, known in ((model.reverse, _REVERSES), (model.decoder, _DECODERS)):
        if type(part) not in known:
            raise UserError(f"{type(part).__name__} is a class outside markovae, which a saved model cannot name")
    network = describe_network(base.network)
    text = model.text_conditioner
    kind = "text" if text is not None else "class"
    encoder = ConditionConfig.encoder if text is None else text.identity["encoder"]
    config = Config(
        network=network,
        schedule=_schedule(base.schedule) if isinstance(model, Diffusion) else _cascade_schedule(model),
        target=TargetConfig(
            name=model.target.name,
            reverse=_REVERSES[type(model.reverse)],
            decoder=_DECODERS[type(model.decoder)],
            pixels="centres" if model.pixels.centred else "ends",
            clip=base.clip,
        ),
        cascade=CascadeConfig() if isinstance(model, Diffusion) else _cascade(model),
        condition=ConditionConfig(
            kind=kind,
            encoder=encoder,
            columns=None if model.columns is None else model.columns.names,
            encoding=None if model.columns is None else model.columns.to_json(),
        ),
        distill=DistillConfig(model.calls) if isinstance(model, Diffusion) and model.calls is not None else None,
        train=TrainConfig(label_dropout=TrainConfig.label_dropout if model.null_trained else 0.0),
    )
    _require_same(model, config)
    return config


def _cascade(model: Cascade) -> CascadeConfig:
    details = model.stage(-1).network
    width = details.inner.config.width if isinstance(details, DetailNetwork) else None
    return CascadeConfig(model.octaves + 1, model.scales, width)


def _cascade_schedule(model: Cascade) -> ScheduleConfig:
    """By level 1 of the pixels and the end of every stage."""
    grid = _schedule(model.base.schedule)
    return replace(grid, start=round(float(model.first_logsnr), 12))


def _schedule(schedule: NoiseSchedule) -> ScheduleConfig:
    """By its numbers: even steps in log-SNR by their ends, any other grid by its table."""
    if isinstance(schedule, LearnedLogSNR):
        grid = schedule.logsnr.detach()
        return ScheduleConfig("learned", schedule.num_levels, float(grid[1]), float(grid[-1]))
    if isinstance(schedule, LogSNRLinear):
        levels = None if schedule.num_levels == DEFAULT_LEVELS else schedule.num_levels
        return ScheduleConfig("logsnr_linear", levels, schedule.start, schedule.end)
    return ScheduleConfig("table", logsnr=tuple(schedule.logsnr.detach()[1:].tolist()))


def describe_network(network: nn.Module) -> NetworkConfig:
    """The section [network] that this network is made from: its shape, or the class of the caller's own.

    Raises:
        UserError: for buffers that a checkpoint does not hold, or a `config` that JSON cannot hold.
    """
    if isinstance(network, OwnNetwork):
        return NetworkConfig.of(network.config)
    kind = type(network)
    name, arguments = f"{kind.__module__}:{kind.__qualname__}", getattr(network, "config", {})
    if kind.__module__ == "__main__":
        log(f"{kind.__qualname__} is defined in a script: move it to a module of its own to load it from elsewhere")
    persistent = network.state_dict().keys() - {name for name, _ in network.named_parameters()}
    if persistent:
        raise UserError(
            f"the buffers of {name} ({', '.join(sorted(persistent)[:4])}) are not saved: make them persistent=False, "
            "or take layers without running statistics"
        )
    try:
        return NetworkConfig("own", own=OwnOptions(name, json.dumps(arguments)))
    except TypeError:
        raise UserError(f"{name}.config must be a dict that JSON can hold: the arguments of its constructor") from None


def _require_same(model: Model, config: Config) -> None:
    """The configuration makes a model of the same shapes and levels.

    Raises:
        UserError: where it does not.
    """
    classes, own = int(getattr(model.network, "num_classes", 0)), config.network.own
    made = create_outline(
        config,
        model.shape,
        bins=model.pixels.bins,
        num_classes=classes,
        text_conditioner=model.text_conditioner,
        trust=() if own is None else (own.name,),
    )
    shapes = [{name: tuple(w.shape) for name, w in m.named_parameters()} for m in (model, made)]
    configs = [[_shape_of(stage.network) for stage in stages_of(m)] for m in (model, made)]
    levels = isinstance(model.schedule, LearnedLogSNR) or _same_levels(
        made.level_logsnr, model.level_logsnr.cpu(), 0 if isinstance(model, Diffusion) else 1e-9
    )
    if shapes[0] != shapes[1] or (own is None and configs[0] != configs[1]) or not levels:
        what = "schedule" if not levels else f"network {type(model.network).__name__}"
        raise UserError(f"no configuration describes the {what} of this model, so it cannot be saved")


def _shape_of(network: nn.Module) -> tuple[Any, Any]:
    network = network.inner if isinstance(network, DetailNetwork) else network
    return getattr(network, "config", None), getattr(network, "data", None)


def _same_levels(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """To the last bit; of a cascade to the rounding of its stages' units, which are logarithms."""
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=tolerance)
