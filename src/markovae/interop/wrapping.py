"""Somebody else's denoiser as a `Diffusion`, so that it can be measured and sampled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markovae.diffusion.conventions import CONVENTIONS, Convention, Number, convention_named
from markovae.diffusion.decoder import HoSmallDecoder, StepDecoder
from markovae.diffusion.foreign_network import Denoiser, ForeignNetwork
from markovae.diffusion.model import Diffusion
from markovae.diffusion.pixels import Pixels
from markovae.diffusion.reverse import PosteriorVariance, ReverseVariance
from markovae.diffusion.schedule import NoiseSchedule, Tabulated
from markovae.errors import UserError
from markovae.interop.convention_check import require_convention


def wrap(
    denoiser: Denoiser,
    shape: Sequence[int],
    schedule: NoiseSchedule | None = None,
    predicts: str = "noise",
    *,
    time: Number | None = None,
    num_classes: int = 0,
    data_range: tuple[float, float] = (-1.0, 1.0),
    channels_last: bool = False,
    self_conditioning: bool = False,
    images: Any = None,
    labels: Any = None,
    reverse: ReverseVariance | None = None,
    clip: float | None = None,
) -> Diffusion:
    """Any denoiser as a `Diffusion`: `mv.measure` and `mv.sample` take it like one of ours.

        schedule = markovae.diffusion.schedule.linear()
        model = mv.wrap(lambda z, t: 0.1 * z, (3, 8, 8), schedule)  # a UNet2DModel of diffusers, say
        mv.measure(model, images, draws=2)

    Args:
        denoiser: f(z, t), or f(z, t, label) with `num_classes`; a module is moved and switched with the model.
        shape: of one image, (C, H, W).
        schedule: the grid it was trained on, in its own terms; None is 1,000 levels even in log-SNR, for the
            conventions that count no steps.
        predicts: the convention it is written in: noise, data, velocity, flow, edm, score_vp, … (docs/interop.md has
            the table); with twice the channels the second half is the head of a learned variance.
        time: log-SNR, (B,), float64 -> the second argument, where it is not the convention's own.
        num_classes: labels it takes; edm's are given as vectors of zeros and a one.
        data_range: what black and white are for it: (0, 1) or (-1, 1).
        channels_last: it takes (B, H, W, C).
        self_conditioning: its last argument is its own x̂, of a first call in which that is 0.
        images: some it was trained on (8 will do), pixel values (N, C, H, W), and their labels: the convention is
            checked on them.
        reverse: variance of the prior's steps; None is β̃.
        clip: x̂ is held to [−clip, clip].
    Level 1 has the decoder of Ho et al.'s code for 256 grey values where steps are counted, and `step` otherwise;
    another one is set as `model.decoder`.
    Raises:
        UserError: for an unknown convention, a grid that is missing, or images that say the convention is another.
    """
    convention, low, high = convention_named(predicts), *map(float, data_range)

    def made(convention: Convention, low: float, high: float) -> Diffusion:
        grid = convention.default_grid() if schedule is None else schedule
        if grid is None:
            raise UserError(
                f"predicts={predicts!r} counts the steps of a grid: give the schedule it was trained on, such as "
                "markovae.diffusion.schedule.linear()"
            )
        grid, pixels = on_our_scale(grid, low, high), Pixels()
        network = ForeignNetwork(
            denoiser, convention, grid.logsnr[1:], time, num_classes, (low, high), channels_last, self_conditioning
        )
        decoder = HoSmallDecoder(pixels) if convention.time is None else StepDecoder(pixels)
        return Diffusion(
            network, grid, network.target, reverse or PosteriorVariance(), decoder, shape, clip=clip
        ).eval()

    model = made(convention, low, high)
    if images is not None:
        # A time of the caller's own, and a grid, belong to the conventions that they were given for.
        others = [
            (each, *ends)
            for each in CONVENTIONS
            for ends in ((-1.0, 1.0), (0.0, 1.0))
            if (each.name, *ends) != (convention.name, low, high)
            and not each.target.needs_neighbour
            and (each.time is None) <= (convention.time is None)
        ]
        named = {_told(each.name, ends): made(each, *ends) for each, *ends in others}
        require_convention(model, _told(convention.name, [low, high]), named, images, labels)
    return model


def on_our_scale(grid: NoiseSchedule, low: float, high: float) -> NoiseSchedule:
    """A grid in terms of data on [low, high], for data on [−1, 1]."""
    if not low < high or (low, high) == (-1.0, 1.0):
        return grid
    return Tabulated(grid.logsnr.detach()[1:] + 2 * math.log((high - low) / 2))


def _told(name: str, ends: Sequence[float]) -> str:
    return f"predicts={name!r}" + ("" if tuple(ends) == (-1.0, 1.0) else f", data_range=({ends[0]:g}, {ends[1]:g})")
