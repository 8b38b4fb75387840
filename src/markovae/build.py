"""The network of a configuration: its shape first, then a network of that shape, with weights or without."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from markovae.columns import columns_named
from markovae.config import Config
from markovae.data.images import ImageData
from markovae.diffusion import haar
from markovae.diffusion import schedule as schedules
from markovae.diffusion.cascade import Cascade, Model, stages_of
from markovae.diffusion.cascade_config import DETAIL_SCALE, LARGEST_BASE, MAX_STAGES
from markovae.diffusion.decoder import DensityDecoder, decoder_named
from markovae.diffusion.detail_network import DetailNetwork
from markovae.diffusion.fitted_variance import variance_named
from markovae.diffusion.learned_schedule import LearnedLogSNR
from markovae.diffusion.model import Diffusion
from markovae.diffusion.pixels import Pixels
from markovae.diffusion.schedule import LogSNRLinear, NoiseSchedule
from markovae.diffusion.schedule_config import BETA_SCHEDULES, DEFAULT_LEVELS, ScheduleConfig
from markovae.diffusion.target import target_named
from markovae.errors import UserError
from markovae.networks.conditioning import TextConditioner
from markovae.networks.ddpm import DDPMUNet
from markovae.networks.dit import DiT
from markovae.networks.network import Network
from markovae.networks.network_config import DataSpec, DDPMConfig, DiTConfig, NetworkConfig, OwnOptions
from markovae.networks.unet import UNet
from markovae.randomness import generator
from markovae.system.memory import machine_memory
from markovae.text.conditioner import EncoderConditioner

NetworkShape = NetworkConfig | DDPMConfig | DiTConfig
OwnNetwork = UNet | DDPMUNet | DiT  # made from those shapes, in this order


def outline_network(shape: NetworkShape, data: DataSpec, logsnr: Tensor) -> Network:
    """A network of this shape on the meta device: names and shapes of its weights, which take no memory.

    Args:
        logsnr: λ_1…λ_L of the grid that a network of the DDPM family counts, (L,).
    """
    with torch.device("meta"), _WithoutNumbers():
        return _network(shape, data, logsnr)


def initialized_network(outline: nn.Module, logsnr: Tensor) -> Network:
    """A network like an outline, with newly drawn weights.

    Args:
        outline: from `outline_network`.
        logsnr: as there.
    """
    assert isinstance(outline, OwnNetwork), "an outline is one of these"
    return _network(outline.config, outline.data, logsnr)


class _WithoutNumbers(TorchFunctionMode):
    """Weights are not initialized: on the meta device torch imports its compiler to draw normal numbers."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__module__", None) == nn.init.__name__:
            return (kwargs or {}).get("tensor", args[0] if args else None)
        return function(*args, **(kwargs or {}))


def _network(shape: NetworkShape, data: DataSpec, logsnr: Tensor) -> Network:
    if isinstance(shape, DDPMConfig):
        return DDPMUNet(shape, data, logsnr)
    return UNet(shape, data) if isinstance(shape, NetworkConfig) else DiT(shape, data)


def _check_null(config: Config, classes: int) -> None:
    shape = config.network.shape
    if classes and config.train.label_dropout and isinstance(shape, DDPMConfig) and not shape.null_class:
        raise UserError(
            f"train.label_dropout={config.train.label_dropout:g} needs network.ddpm.null_class=true: set that, or "
            "train.label_dropout=0"
        )


def _check_stride(shape: Sequence[int], stride: int, kind: str) -> None:
    """Our networks pad; those of the DDPM family, which other codes read, do not.

    Raises:
        UserError: for images that do not fit.
    """
    height, width = shape[-2:]
    if kind != "ddpm" and stride > max(height, width, 2):
        remedy = "lower network.dit.patch" if kind == "dit" else "lower network.patch, or shorten network.multipliers"
        raise UserError(
            f"images of {height}x{width} pixels are smaller than the network's stride of {stride}: {remedy}"
        )
    if kind != "ddpm" or (height % stride == 0 and width % stride == 0):
        return
    raise UserError(
        f"images of {height}x{width} pixels do not fit the network, whose stride is {stride}: the nearest sizes that "
        f"do are {_nearest_sizes(height, width, stride)} (data.size, data.width); or shorten network.ddpm.widths, or "
        "take network.kind=unet, which pads"
    )


def _nearest_sizes(height: int, width: int, stride: int) -> str:
    """The sizes below and above whose sides a stride divides, in words."""
    fits = [sorted({max(side // stride, 1) * stride, math.ceil(side / stride) * stride}) for side in (height, width)]
    if len(fits[0]) != len(fits[1]):
        return f"heights {' or '.join(map(str, fits[0]))} and widths {' or '.join(map(str, fits[1]))}"
    return " or ".join(f"{h}x{w}" for h, w in zip(fits[0], fits[1], strict=True))


def _check_octaves(size: Sequence[int], octaves: int) -> None:
    """Each stage halves the sides of the next.

    Raises:
        UserError: for sides that cannot be halved so often.
    """
    height, width = size[-2:]
    if height % (1 << octaves) or width % (1 << octaves):
        raise UserError(
            f"images of {height}x{width} pixels cannot be halved {octaves} times, as cascade.stages={octaves + 1} "
            f"takes: the nearest sizes that can are {_nearest_sizes(height, width, 1 << octaves)} (data.size, "
            "data.width); or lower cascade.stages"
        )


def create(
    config: Config,
    shape: Sequence[int] | ImageData,
    *,
    bins: int = 256,
    num_classes: int = 0,
    text_conditioner: TextConditioner | None = None,
    network: nn.Module | None = None,
    trust: Sequence[str] = (),
) -> Model:
    """A fresh model; its first weights are a function of train.seed.

        model = mv.create(mv.Config(), data.train)
        for step in mv.fit(model, data.train, steps=2):
            print(step.loss)

    Args:
        config: the sections condition, schedule, network, target and cascade, train.seed and train.label_dropout are
            read. With cascade.stages above 1 the model is a `Cascade`.
        shape: of one image, (C, H, W); or the training data, whose shape, digits and classes are taken.
        bins: digits of a pixel.
        num_classes: of the labels, 0 for none.
        text_conditioner: of the captions, for condition.kind=text; None is the encoder of the configuration.
        network: of your own, network(z, logsnr, condition) -> out, in the place of the section network; labels are
            taken where it has a number of them in `num_classes`.
        trust: classes that network.own may name, each "package.module:Class": they are imported.
    Raises:
        UserError: for a shape that the network does not fit, a schedule that does not exist, a full
            covariance of more dimensions than it is worked out in, or a network larger than this machine's memory.
    """
    names: tuple[str, ...] = ()
    if isinstance(shape, ImageData):
        data = shape
        bins, names, shape = data.bins, data.class_names, data.shape
        num_classes = len(names)
        config = with_columns(config, data)
    model = create_outline(
        config,
        shape,
        bins=bins,
        num_classes=num_classes,
        text_conditioner=text_conditioner,
        network=network,
        trust=trust,
    )
    _require_memory(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(config.train.seed, "initial weights").initial_seed())
        for stage in stages_of(model):
            if network is None:
                own = config.network.own
                classes = classes_of(config, num_classes)
                stage.network = _initialized(stage) if own is None else _own(config, stage.schedule, classes, trust)
            stage.reverse = variance_named(config.target.reverse, stage.shape)
    model.class_names = names
    return model


def _initialized(stage: Diffusion) -> nn.Module:
    """The network of an outline with newly drawn weights."""
    outline = stage.network
    if isinstance(outline, DetailNetwork):
        return DetailNetwork(UNet(outline.inner.config, outline.inner.data), outline.scale)
    return initialized_network(outline, stage.schedule.logsnr[1:])


def create_outline(
    config: Config,
    shape: Sequence[int],
    *,
    bins: int = 256,
    num_classes: int = 0,
    text_conditioner: TextConditioner | None = None,
    tensors: int | None = None,
    network: nn.Module | None = None,
    trust: Sequence[str] = (),
) -> Model:
    """What `create` makes, its network and its variance on the meta device: names and shapes, which take no memory.

    Args:
        config, shape, bins, num_classes, text_conditioner, network, trust: as for `create`.
        tensors: how many there are to become its weights; a network of many more is refused before it is outlined.
    Raises:
        UserError: as `create`.
        ValueError: for a network of more weights than `tensors`.
    """
    _check_shape(shape)
    pixels = Pixels(bins, centred=config.target.pixels == "centres")
    text_conditioner = (
        (text_conditioner or EncoderConditioner(config.condition.encoder)) if config.condition.kind == "text" else None
    )
    classes, columns = classes_of(config, num_classes), config.condition.known
    if columns is None and config.condition.columns:
        raise UserError(
            f"condition.columns={', '.join(config.condition.columns)} are read from the images' table: create the "
            "model with mv.create(config, data.train), or train a run"
        )
    text = text_conditioner.width if text_conditioner else 0
    with torch.device("meta"):
        reverse = variance_named(config.target.reverse, shape)
    data = DataSpec(
        in_channels=shape[0],
        out_channels=reverse.channels * shape[0],
        size=(shape[1], shape[2]),
        frequency=0.5 / pixels.half_width,
        num_classes=classes,
        vector_dim=text,
        token_dim=text,
        column_dim=columns.width if columns else 0,
    )
    if (config.cascade.stages or 1) > 1:
        if network is not None:
            raise UserError("a network of your own is one stage: leave cascade.stages out")
        made: Model = _cascade_outline(config, data, pixels, tensors)
    else:
        schedule = create_schedule(config.schedule, pixels)
        _check_together(config, schedule)
        if network is None and config.network.own is not None:
            with torch.device("meta"):
                network = _own(config, schedule, classes, trust)
        elif network is None:
            _check_null(config, classes)
            _check_stride(shape, config.network.shape.stride(data.size), config.network.kind)
            network = _outlined(config.network.shape, data, schedule, tensors)
        target, decoder = target_named(config.target.name), decoder_named(config.target.decoder, pixels)
        made = Diffusion(network, schedule, target, reverse, decoder, shape, clip=config.target.clip)
        made.calls = None if config.distill is None else config.distill.calls
    made.text_conditioner, made.null_trained = text_conditioner, config.train.label_dropout > 0
    made.columns = columns
    return made


def _outlined(shape: NetworkShape, data: DataSpec, schedule: NoiseSchedule, tensors: int | None) -> Network:
    least = shape.least_weights(data.size)
    if tensors is not None and least > tensors:
        raise ValueError(f"its network has {least:,} weights or more, and here are {tensors:,}")
    return outline_network(shape, data, schedule.logsnr[1:])


class UntrustedNetworkError(UserError):
    """A model whose network is a class that the caller did not name as trusted; nothing of it was imported."""


def classes_of(config: Config, num_classes: int) -> int:
    """How many classes the network takes, where the images have so many."""
    return num_classes if config.condition.kind in ("auto", "class") and config.network.classes else 0


def _own(config: Config, schedule: NoiseSchedule, classes: int, trust: Sequence[str]) -> nn.Module:
    """A network of the caller's own class; one in another convention is called in that.

    Raises:
        UserError: as `own_network`; or for a target that is not the convention's.
    """
    own = config.network.own
    assert own is not None, "the configuration names a class"
    network = own_network(own, trust)
    if not own.predicts:
        return network
    from markovae.diffusion.conventions import convention_named
    from markovae.diffusion.foreign_network import ForeignNetwork

    convention, ends = convention_named(own.predicts), (own.data_range[0], own.data_range[1])
    made = ForeignNetwork(
        network, convention, schedule.logsnr.detach()[1:], None, classes, ends, own.channels_last, own.self_conditioning
    )
    if config.target.name != made.target.name:
        raise UserError(
            f"network.own.predicts={own.predicts} is target.name={made.target.name} here, not {config.target.name}"
        )
    return made


def own_network(options: OwnOptions, trust: Sequence[str]) -> nn.Module:
    """A network of the caller's own class, fresh.

    Raises:
        UntrustedNetworkError: where `trust` does not name it.
        UserError: where it is no module, or takes other
            arguments.
    """
    if options.name not in trust:
        raise UntrustedNetworkError(
            f"the network of this model is {options.name}, a class outside markovae, and loading it runs its code: "
            f'if you trust it, pass trust=("{options.name}",), or --trust {options.name}'
        )
    module, _, name = options.name.partition(":")
    try:
        kind = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"the network {options.name} cannot be imported ({error}): run where it can be") from None
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise UserError(f"the network {options.name} must be a class below torch.nn.Module")
    try:
        return kind(**json.loads(options.arguments))
    except (TypeError, ValueError) as error:
        raise UserError(f"the network {options.name} cannot be made from {options.arguments}: {error}") from None


def _cascade_outline(config: Config, data: DataSpec, pixels: Pixels, tensors: int | None) -> Cascade:
    """The stages of a configuration, outlined.

    Args:
        data: of the images in full size.
    Raises:
        UserError: for what a stage cannot be, or sides that the stages cannot divide.
    """
    octaves, network, channels = (config.cascade.stages or 1) - 1, config.network, data.in_channels
    for name, value, only in (
        ("network.kind", network.kind, "unet"),
        ("schedule.kind", config.schedule.kind, "logsnr_linear"),
    ):
        if value != only:
            raise UserError(f"a cascade takes {name}={only}, not {value}: set that, or cascade.stages=1")
    for name, value in (("reverse=full", config.target.reverse), ("decoder=learned", config.target.decoder)):
        if name.endswith(f"={value}"):
            raise UserError(f"target.{name} is for models of one stage: take another, or set cascade.stages=1")
    _check_octaves(data.size, octaves)
    height, width = data.size[0] >> octaves, data.size[1] >> octaves
    base = network.shape
    _check_stride((channels, height, width), base.stride((height, width)), network.kind)
    grid = create_schedule(config.schedule, pixels)
    assert isinstance(grid, LogSNRLinear), "the only kind that a cascade takes"
    scales = config.cascade.scales or (DETAIL_SCALE,) * octaves
    target, stages = target_named(config.target.name), []
    for b in range(octaves + 1):
        scale = scales[b - 1] if b else 1.0
        unit = 2 * math.log(scale * 2.0 ** (octaves - b))
        if not grid.start + unit > grid.end + 1:
            raise UserError(
                f"cascade.scales={scale:g} leaves details below the noise of level 1: leave cascade.scales out, or "
                "lower cascade.stages"
            )
        schedule = LogSNRLinear(grid.num_levels, grid.start + unit, grid.end)
        # Means of 4^k pixel values lie on a grid that is 4^k times as fine.
        seen = replace(data, size=(height, width), frequency=data.frequency * 4.0 ** (octaves - b))
        if b:
            seen = replace(seen, plain_channels=channels + 1)
            shape: tuple[int, ...] = (3 * channels, height // 2, width // 2)
            inner = _outlined(_details_shape(config, seen.size), seen, schedule, tensors)
            assert isinstance(inner, UNet), "a detail stage is a U-Net"
            made: Network = DetailNetwork(inner, scale)
        else:
            shape, made = (channels, height, width), _outlined(base, seen, schedule, tensors)
        with torch.device("meta"):
            reverse = variance_named(config.target.reverse, shape)
        clip = None if b else config.target.clip
        stages.append(Diffusion(made, schedule, target, reverse, DensityDecoder(), shape, clip=clip))
        height, width = 2 * height, 2 * width
    return Cascade(stages, scales, decoder_named(config.target.decoder, pixels))


def _details_shape(config: Config, size: tuple[int, int]) -> NetworkConfig:
    """The U-Net of a detail stage: two levels, convolutions alone, so that it draws images of any size."""
    network = config.network
    halves = min(size) >= 2 * network.patch
    narrow = config.train.objective != "bound"
    width = config.cascade.details_width or (max(1, network.width // 2) if narrow else network.width)
    return replace(network, width=width, multipliers=(1, 2) if halves else (1,), attention=(), octaves=0, spectral=0)


def with_stages(config: Config, data: ImageData) -> Config:
    """The configuration of a run on these images: the number of stages, and the scales of their details.

    Where cascade.stages is left out: as many as bring the base to at most 48 pixels a side, each side divided; one
    where the network, the schedule or the variance is none that a cascade takes.
    """
    found, (height, width) = config.cascade, data.shape[1:]
    stages = found.stages
    if stages is None:
        fits = config.network.kind == "unet" and config.schedule.kind == "logsnr_linear"
        stages = 1
        while fits and max(height, width) >> (stages - 1) > LARGEST_BASE and stages < MAX_STAGES:
            if height % (1 << stages) or width % (1 << stages) or config.target.reverse == "full":
                break
            stages += 1
        if stages == 1:
            return config
    scales = found.scales
    if stages > 1 and scales is None:
        rows = np.unique(np.linspace(0, len(data) - 1, SCALE_IMAGES).astype(np.int64))
        scales = detail_scales(data.images[rows], data.bins, stages - 1)
    return replace(config, cascade=replace(found, stages=stages, scales=scales))


def with_columns(config: Config, data: ImageData) -> Config:
    """The configuration with what its condition.columns are, by these training images; one that says so stays.

    Raises:
        UserError: for a column that is not there, or cannot condition a model.
    """
    condition = config.condition
    if not condition.columns or condition.encoding is not None:
        return config
    encoding = columns_named(condition.columns, data.columns).to_json()
    return replace(config, condition=replace(condition, encoding=encoding))


SCALE_IMAGES = 128  # that the scale of details is worked out from


def detail_scales(images: np.ndarray[Any, Any], bins: int, octaves: int) -> tuple[float, ...]:
    """Standard deviation of the details of mean images, coarse to fine, on the scale [−1, 1], to three digits.

    Args:
        images: pixel values, (n, C, H, W).
    Raises:
        UserError: for sides that the stages cannot divide.
    """
    _check_octaves(images.shape, octaves)
    x = Pixels(bins).to_x(torch.from_numpy(images.astype(np.int32)))
    found: list[float] = []
    for _ in range(octaves):
        low, details = haar.split(x)
        found.insert(0, float(f"{max(float(details.square().mean().sqrt()), 1e-3):.3g}"))
        x = low / 2
    return tuple(found)


def create_schedule(config: ScheduleConfig, pixels: Pixels) -> NoiseSchedule:
    """The schedule of a [schedule] section, for pixels of these digits.

    Raises:
        UserError: where no such schedule exists, with the reason.
    """
    levels = config.num_levels
    try:
        if config.kind == "constant":
            if levels is None and (config.sigma is None or config.delta is None):
                levels = DEFAULT_LEVELS
            made: NoiseSchedule = schedules.constant(sigma=config.sigma, delta=config.delta, num_levels=levels)
        elif config.logsnr is not None:
            made = schedules.Tabulated(torch.tensor(config.logsnr, dtype=torch.float64))
        elif config.kind in BETA_SCHEDULES:
            made = _beta_schedule(config, levels or DEFAULT_LEVELS)
        else:
            start = schedules.fine_logsnr(pixels.half_width) if config.start is None else config.start
            kind = LearnedLogSNR if config.kind == "learned" else schedules.LogSNRLinear
            # A learned schedule is thawed by what trains it: everyone else reads plain numbers.
            made = kind(levels or DEFAULT_LEVELS, start, config.end).requires_grad_(False)
        if made.num_levels < 2:
            raise ValueError("it has one level: a bound needs at least 2; lower sigma or delta")
        last = float(made.logsnr[-1])  # a grid whose log-SNR does not fall raises here, before any training
        if last < schedules.NO_SIGNAL:
            raise ValueError(
                f"its last level has log-SNR {last:.0f}, and below {schedules.NO_SIGNAL:g} no signal is left to tell: "
                "lower num_levels, sigma or the betas"
            )
    except ValueError as error:
        raise UserError(f"schedule: {error}") from None
    return made


def _beta_schedule(config: ScheduleConfig, levels: int) -> NoiseSchedule:
    if config.kind == "betas":
        made = schedules.from_betas(torch.tensor(config.betas, dtype=torch.float64))
    elif config.kind == "cosine":
        made = schedules.cosine(levels)
    elif config.beta_start is None or config.beta_end is None:
        made = schedules.linear(levels)
    elif config.kind == "linear":
        made = schedules.from_betas(torch.linspace(config.beta_start, config.beta_end, levels, dtype=torch.float64))
    else:
        made = schedules.scaled_linear(levels, config.beta_start, config.beta_end)
    return schedules.zero_terminal(made) if config.zero_terminal else made


def _check_together(config: Config, schedule: NoiseSchedule) -> None:
    """What the sections refuse of each other."""
    blind = float(schedule.logsnr.detach()[-1]) <= schedules.NO_SIGNAL
    if blind and config.target.name not in ("data", "velocity", "flow"):
        raise UserError(
            f"target.name={config.target.name} cannot be used with a schedule that ends without signal: use velocity, "
            "flow or data, or a schedule that keeps some signal"
        )
    if config.network.kind == "ddpm" and config.condition.kind == "text":
        raise UserError("network.kind=ddpm reads no captions: take network.kind=unet or dit, or condition.kind=class")
    if config.network.kind == "ddpm" and config.condition.columns:
        raise UserError("network.kind=ddpm reads no columns: take network.kind=unet or dit, or leave condition.columns")
    if config.network.kind == "ddpm" and config.schedule.kind == "learned":
        raise UserError(
            "network.kind=ddpm counts the steps of a fixed grid, and schedule.kind=learned moves it: take another "
            "schedule, or network.kind=unet or dit"
        )


def _require_memory(model: Model) -> None:
    """An outline whose weights this machine can hold.

    Raises:
        UserError: for a larger one.
    """
    parts = [part for stage in stages_of(model) for part in (stage.network, stage.reverse)]
    needed = sum(value.nbytes for part in parts for value in (*part.parameters(), *part.buffers()))
    if needed > machine_memory():
        raise UserError(
            f"this network would have {needed:,} bytes of weights and tables, more than this machine's memory: lower "
            "network.width, its levels or its blocks, or take another target.reverse than diagonal"
        )


def _check_shape(shape: Sequence[int]) -> None:
    if len(shape) != 3 or min(shape) < 1:
        raise UserError(f"images of shape {tuple(shape)} cannot be modeled: give (channels, height, width), each >= 1")
