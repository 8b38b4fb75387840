"""A configuration and the shape of the data become a model and what training minimises."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from markovae import schedule as schedules
from markovae.allocator import machine_memory
from markovae.architecture import fresh_network, least_weights, network_shape, outline_network
from markovae.config import Config, ScheduleConfig, TargetConfig, TrainConfig
from markovae.config.model import BETA_SCHEDULES, DEFAULT_LEVELS
from markovae.data.images import ImageData
from markovae.decoder import Decoder, HoLargeDecoder, HoSmallDecoder, SoftmaxDecoder, StepDecoder
from markovae.diffusion import Diffusion
from markovae.errors import UserError
from markovae.fitting import variance_named
from markovae.learned_schedule import LearnedLogSNR
from markovae.networks.given import CaptionReader
from markovae.objective import (
    Draws,
    LiteralDraws,
    MeanDraws,
    Objective,
    RawDraws,
    as_error_of,
    bound_objective,
    nats_weight,
    uniform_law,
)
from markovae.pixels import Pixels
from markovae.randomness import generator
from markovae.reverse import PosteriorVariance, ReverseVariance
from markovae.schedule import NoiseSchedule
from markovae.target import TARGETS, Target
from markovae.tensor_headers import compare_shapes
from markovae.text import EncoderReader


def create(
    config: Config,
    shape: Sequence[int] | ImageData,
    *,
    bins: int = 256,
    num_classes: int = 0,
    reader: CaptionReader | None = None,
) -> Diffusion:
    """A fresh model; its first weights are a function of train.seed.

    Args:
        config: the sections condition, schedule, network, target and train.seed are read.
        shape: of one image, (C, H, W); or the training data, whose shape, digits and classes are taken.
        bins: digits of a pixel.   num_classes: of the labels, 0 for none.
        reader: of the captions, for condition.kind=text; None is the encoder of the configuration.
    Raises:
        UserError: for a shape that the network's stride does not divide, a schedule that does not exist, a full
            covariance of more dimensions than it is worked out in, or a network larger than this machine's memory.
    """
    if isinstance(shape, ImageData):
        bins, num_classes, shape = shape.bins, len(shape.class_names), shape.shape
    model = create_outline(config, shape, bins=bins, num_classes=num_classes, reader=reader)
    _require_memory(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(config.train.seed, "initial weights").initial_seed())
        model.network = fresh_network(model.network, model.schedule.logsnr[1:])
    model.reverse = variance_named(config.target.reverse, shape)
    return model


def create_outline(
    config: Config,
    shape: Sequence[int],
    *,
    bins: int = 256,
    num_classes: int = 0,
    reader: CaptionReader | None = None,
    tensors: int | None = None,
) -> Diffusion:
    """What `create` makes, its network and its variance on the meta device: names and shapes, which take no memory.

    Args:
        config, shape, bins, num_classes, reader: as for `create`.
        tensors: how many there are to become its weights; a network of many more is refused before it is outlined.
    Raises:
        UserError: as `create`.   ValueError: for a network of more weights than `tensors`.
    """
    _check_shape(shape)
    pixels = Pixels(bins, centred=config.target.pixels == "centres")
    with torch.device("meta"):
        reverse = variance_named(config.target.reverse, shape)
    schedule = create_schedule(config.schedule, pixels)
    _check_together(config, schedule)
    reader = (reader or EncoderReader(config.condition.encoder)) if config.condition.kind == "text" else None
    classes = num_classes if config.condition.kind == "class" and config.network.classes else 0
    made = network_shape(config, shape, reverse.channels * shape[0], pixels, classes, reader.width if reader else 0)
    if tensors is not None and least_weights(made) > tensors:
        raise ValueError(f"its network has {least_weights(made):,} weights or more, and here are {tensors:,}")
    network = outline_network(made, schedule.logsnr[1:])
    target, decoder = target_named(config.target.name), _decoder(config.target, pixels)
    model = Diffusion(network, schedule, target, reverse, decoder, shape, clip=config.target.clip)
    model.reader = reader
    return model


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


def create_objective(
    config: TrainConfig, target: Target, schedule: NoiseSchedule, reverse: ReverseVariance | None = None
) -> Objective:
    """What training minimises: the law of levels and their weights, scaled to a mean weight of 1 under the law.

    Args:
        reverse: the model's variance, for objective=bound; None is β̃.
    Raises:
        UserError: for a law that misses the schedule, or, for the bound, one of its levels.
    """
    law = _law(config, schedule)
    if config.objective == "bound":
        try:
            return bound_objective(law, target, schedule, PosteriorVariance() if reverse is None else reverse)
        except ValueError as error:
            raise UserError(f"train.law={config.law} does not go with train.objective=bound: {error}") from None
    if config.weighting == "nats":
        weight = nats_weight(target, schedule)
    elif config.weighting in ("own", target.name):
        return Objective(law, torch.ones_like(law))
    else:
        weight = as_error_of(target, target_named(config.weighting), schedule)
    return Objective(law, weight / (law * weight).sum())


def create_draws(config: TrainConfig, target: Target, schedule: NoiseSchedule) -> Draws:
    """How the noise of training is drawn, by train.draw.

    Raises:
        UserError: for the raw sample of a target that is not of one step.
    """
    if config.draw == "literal":
        return LiteralDraws(schedule)
    if config.draw == "rao_blackwell":
        return MeanDraws()
    if not target.needs_neighbour:
        raise UserError(
            f"train.draw=raw regresses onto the sample of one step, which target {target.name!r} has none of: "
            "set target.name to step_noise or mean, or train.draw=rao_blackwell"
        )
    return RawDraws()


@torch.no_grad()
def load_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy named parameters into a model, every one and no other, in the model's types.

    Raises:
        ValueError: naming the first that is missing, left over, or of another shape; nothing is copied then.
    """
    weights = dict(model.named_parameters())
    compare_shapes(*({name: tuple(value.shape) for name, value in table.items()} for table in (weights, tensors)))
    for name, weight in weights.items():
        weight.copy_(tensors[name])


def target_named(name: str) -> Target:
    """The target with this standard name."""
    return next(target for target in TARGETS if target.name == name)


def _law(config: TrainConfig, schedule: NoiseSchedule) -> Tensor:
    """p_ℓ ∝ density(λ_ℓ) times the width of the level's cell between its neighbours' midpoints, (L,), float64."""
    logsnr = schedule.logsnr.detach()[1:]
    uniform = uniform_law(schedule)
    if config.levels_law in ("uniform", "importance"):  # which begins with the uniform one
        return uniform
    if config.levels_law == "table":
        knots, values = np.array(config.law_logsnr), np.array(config.law_density)
        density = torch.from_numpy(
            np.interp(logsnr.numpy(), knots, values / max(values.max(), 1e-300), left=0, right=0)
        )
    else:
        density = (-0.5 * ((logsnr - config.law_centre) / config.law_width) ** 2).exp()
    edges = torch.cat([logsnr[:1], (logsnr[1:] + logsnr[:-1]) / 2, logsnr[-1:]])
    mass = density * (edges[:-1] - edges[1:])
    total = float(mass.sum())
    if not total > 1e-6:
        raise UserError(
            f"the law of levels (train.law={config.levels_law}) misses the schedule, whose log-SNR runs from "
            f"{float(logsnr[0]):.1f} to {float(logsnr[-1]):.1f}: move it there"
        )
    return (mass / total + uniform) / 2 if config.levels_law == "middle" else mass / total


def _check_together(config: Config, schedule: NoiseSchedule) -> None:
    """What the sections refuse of each other."""
    blind = float(schedule.logsnr.detach()[-1]) <= schedules.NO_SIGNAL
    if blind and config.target.name not in ("data", "velocity"):
        raise UserError(
            f"target.name={config.target.name} says nothing about the data where no signal is left, and this schedule "
            "ends so: take target.name=velocity or data, or a schedule that keeps some signal"
        )
    if config.network.kind == "ddpm" and config.condition.kind == "text":
        raise UserError("network.kind=ddpm reads no captions: take network.kind=unet or dit, or condition.kind=class")
    if config.network.kind == "ddpm" and config.schedule.kind == "learned":
        raise UserError(
            "network.kind=ddpm counts the steps of a fixed grid, and schedule.kind=learned moves it: take another "
            "schedule, or network.kind=unet or dit"
        )


def _decoder(config: TargetConfig, pixels: Pixels) -> Decoder:
    kinds: dict[str, Callable[[Pixels], Decoder]] = {
        "step": StepDecoder,
        "ho_small": HoSmallDecoder,
        "ho_large": HoLargeDecoder,
        "softmax": SoftmaxDecoder,
    }
    return kinds[config.decoder](pixels)


def _require_memory(model: Diffusion) -> None:
    """An outline whose weights this machine can hold.

    Raises:
        UserError: for a larger one.
    """
    needed = sum(
        value.nbytes for part in (model.network, model.reverse) for value in (*part.parameters(), *part.buffers())
    )
    if needed > machine_memory():
        raise UserError(
            f"this network would have {needed:,} bytes of weights and tables, more than this machine's memory: lower "
            "network.width, its levels or its blocks, or take another target.reverse than diagonal"
        )


def _check_shape(shape: Sequence[int]) -> None:
    if len(shape) != 3 or min(shape) < 1:
        raise UserError(f"images of shape {tuple(shape)} cannot be modelled: give (channels, height, width), each >= 1")
