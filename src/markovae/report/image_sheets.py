"""The two chains as pictures: the encoder's z_0…z_L, and the prior's reverse chain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from markovae.data.pictures import Images, enlarged, tile, viewable
from markovae.diffusion import forward
from markovae.diffusion.model import Diffusion
from markovae.likelihood.measurement import Measurement
from markovae.networks.conditioning import Condition
from markovae.randomness import Streams
from markovae.sampling.generation import sample_trajectory, to_images
from markovae.sampling.plans import plan
from markovae.sampling.sampler_table import DEFAULT_SAMPLER

COLUMNS = 9
SHOWN = 7.0  # log-SNR beyond which a picture hardly changes, either way


@dataclass(frozen=True)
class Snapshot:
    """One moment of a chain.

    Args:
        logsnr: λ.   level: ℓ, or None between the schedule's levels.   pictures: (n, H, W, C), uint8.
    """

    logsnr: float
    level: int | None
    pictures: Images


def encoder_strip(model: Diffusion, images: Images, seed: int = 0) -> list[Snapshot]:
    """One draw of the encoder's chain from each image, at levels 0, L and some between, evenly apart in log-SNR.

    Args:
        images: (n, C, H, W).
    """
    grid = model.schedule.logsnr
    z = model.to_x(torch.as_tensor(images)).cpu()
    snapshots = [Snapshot(float("inf"), 0, _pictures(model, z))]
    previous = 0
    for level in shown_levels(grid):
        source = Streams(seed, "report encoder", range(len(z)), level)
        z = forward.step(z, grid[previous], grid[level]).sample(source)
        snapshots.append(Snapshot(float(grid[level]), level, _pictures(model, z)))
        previous = level
    return snapshots


def shown_levels(grid: Tensor) -> list[int]:
    """Up to COLUMNS levels, increasing, the last one L."""
    first, last = min(float(grid[1]), SHOWN), max(float(grid[-1]), -SHOWN)
    wanted = torch.linspace(first, last, COLUMNS - 1, dtype=torch.float64)
    nearest = {1 + int((grid[1:] - at).abs().argmin()) for at in wanted}
    return sorted(nearest | {len(grid) - 1})


def reverse_strip(
    model: Diffusion, count: int, steps: int, seed: int = 0, condition: Condition | None = None
) -> list[Snapshot]:
    """Samples 0…count−1 from noise to data: of each, z above the network's prediction of z_0 at that moment."""
    condition = None if condition is None else condition.to(model.device)
    states = list(sample_trajectory(model, range(count), plan(model, DEFAULT_SAMPLER, steps), seed, condition))
    chosen = np.unique(np.linspace(0, len(states) - 1, COLUMNS).round().astype(int))
    snapshots = []
    for index in chosen:
        state = states[index]
        pair = torch.stack([state.z.cpu(), state.x_hat.cpu()], 1).flatten(0, 1)
        snapshots.append(Snapshot(float(state.logsnr), None, _pictures(model, pair)))
    return snapshots


def _pictures(model: Diffusion, z: Tensor) -> Images:
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
        images: pixel values, (n, C, H, W).   bins: of a pixel.
    """
    return enlarged(tile(viewable(np.asarray(images)[list(places)], bins)))


def pictured(images: Images, facts: dict[str, Any], bins: int) -> dict[str, Images]:
    """The images of `extreme_facts`, (n, H, W, C), by name."""
    found = {name: [row["image"] for row in rows] for name, rows in facts.items()}
    return {name: viewable(np.asarray(images)[places], bins) for name, places in found.items()}
