"""The two chains as pictures: the encoder's z_0…z_L, and the prior's reverse chain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from markovae.data.pictures import Images, enlarged, tile, viewable
from markovae.diffusion import forward
from markovae.diffusion.cascade import Cascade, Model
from markovae.likelihood.measurement import Measurement
from markovae.networks.conditioning import Condition
from markovae.randomness import Streams
from markovae.sampling.generation import cascade_trajectory, sample_trajectory, to_images
from markovae.sampling.plans import plan
from markovae.sampling.sampler_table import DEFAULT_SAMPLER
from markovae.sampling.samplers import State

COLUMNS = 9
SHOWN = 7.0  # log-SNR beyond which a picture hardly changes, either way


@dataclass(frozen=True)
class Snapshot:
    """One moment of a chain.

    Args:
        logsnr: λ.
        level: ℓ, or None between the schedule's levels.
        pictures: (n, H, W, C), uint8.
    """

    logsnr: float
    level: int | None
    pictures: Images


def encoder_strip(model: Model, images: Images) -> list[Snapshot]:
    """One draw of the encoder's chain from each image, at levels 0, L and some between, evenly apart in log-SNR.

    Args:
        images: (n, C, H, W).
    """
    if isinstance(model, Cascade):
        return _cascade_strip(model, images)
    grid = model.schedule.logsnr
    z = model.to_x(torch.as_tensor(images)).cpu()
    snapshots = [Snapshot(float("inf"), 0, _pictures(model, z))]
    previous = 0
    for level in shown_levels(grid):
        source = Streams(0, "report encoder", range(len(z)), level)
        z = forward.step(z, grid[previous], grid[level]).sample(source)
        snapshots.append(Snapshot(float(grid[level]), level, _pictures(model, z)))
        previous = level
    return snapshots


def _cascade_strip(model: Cascade, images: Images) -> list[Snapshot]:
    """A cascade's chain on few levels, each band's last among them."""
    short = model.on_levels(1 + (model.octaves + 1) * max(1, (COLUMNS - 1) // (model.octaves + 1)))
    grid, z = short.level_logsnr, model.to_x(torch.as_tensor(images)).cpu()
    path = short.encode(z, Streams(0, "report encoder", range(len(z))))
    levels = [0, *model.sublevels(short.num_levels).tolist()]
    return [Snapshot(float(grid[i]), levels[i], _pictures(model, step)) for i, step in enumerate(path) if i != 1]


def shown_levels(grid: Tensor) -> list[int]:
    """Up to COLUMNS levels, increasing, the last one L."""
    first, last = min(float(grid[1]), SHOWN), max(float(grid[-1]), -SHOWN)
    wanted = torch.linspace(first, last, COLUMNS - 1, dtype=torch.float64)
    nearest = {1 + int((grid[1:] - at).abs().argmin()) for at in wanted}
    return sorted(nearest | {len(grid) - 1})


def reverse_strip(model: Model, count: int, steps: int, condition: Condition | None = None) -> list[Snapshot]:
    """Samples 0…count−1 from noise to data: of each, z above the network's prediction of z_0 at that moment."""
    condition = None if condition is None else condition.to(model.device)
    if isinstance(model, Cascade):
        return _cascade_samples(model, count, steps, condition)
    states = list(sample_trajectory(model, range(count), plan(model, DEFAULT_SAMPLER, steps), 0, condition))
    return _moments(model, states, COLUMNS)


def _moments(model: Model, states: Sequence[State], columns: int) -> list[Snapshot]:
    """So many of a trajectory's states, evenly apart, the first and the last among them."""
    snapshots = []
    for index in np.unique(np.linspace(0, len(states) - 1, columns).round().astype(int)):
        state = states[index]
        pair = torch.stack([state.z.cpu(), state.x_hat.cpu()], 1).flatten(0, 1)
        snapshots.append(Snapshot(float(state.logsnr), None, _pictures(model, pair)))
    return snapshots


def _cascade_samples(model: Cascade, count: int, steps: int, condition: Condition | None) -> list[Snapshot]:
    """The base from noise to its image as `reverse_strip` shows it, then the image of each stage, all in full size."""
    whole = plan(model, DEFAULT_SAMPLER, steps)
    snapshots: list[Snapshot] = []
    for number in range(model.octaves + 1):
        up_to = replace(whole, details=whole.details[:number])
        states = list(cascade_trajectory(model, range(count), up_to, 0, condition))
        snapshots += (
            _moments(model, states, COLUMNS - model.octaves) if number == 0 else _moments(model, states[-1:], 1)
        )
    return [replace(one, pictures=_grown(one.pictures, model.shape[1])) for one in snapshots]


def _grown(pictures: Images, height: int) -> Images:
    times = height // pictures.shape[1]
    return pictures.repeat(times, 1).repeat(times, 2)


def _pictures(model: Model, z: Tensor) -> Images:
    return viewable(to_images(model, z), model.pixels.bins)


def extreme_facts(measured: Measurement, count: int) -> dict[str, list[dict[str, Any]]]:
    """Place and bits/dim of the images that cost least and most, most extreme first; no image is in both."""
    count = min(count, len(measured.total) // 2)
    bits = measured.total / (measured.dims * math.log(2))
    names = ("cheapest", "dearest")
    return {
        name: [
            {"image": i, "file": measured.files and measured.files[i], "bits_per_dim": float(bits[i])}
            for i in places.tolist()
        ]
        for name, places in zip(names, measured.extremes(count), strict=True)
    }


def sheet(images: Images, places: Sequence[int], bins: int) -> Images:
    """The images at these places, in this order, row by row, large enough to see, (H, W, C) uint8.

    Args:
        images: pixel values, (n, C, H, W).
        bins: of a pixel.
    """
    return enlarged(tile(viewable(np.asarray(images)[list(places)], bins)))


def pictured(images: Images, facts: dict[str, Any], bins: int) -> dict[str, Images]:
    """The images of `extreme_facts`, (n, H, W, C), by name."""
    found = {name: [row["image"] for row in rows] for name, rows in facts.items()}
    return {name: viewable(np.asarray(images)[places], bins) for name, places in found.items()}
