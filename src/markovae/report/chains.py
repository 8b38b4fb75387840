"""The two chains as pictures: the encoder's z_0…z_L, and the prior's way back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from markovae import forward
from markovae.diffusion import Diffusion
from markovae.networks.condition import Condition
from markovae.randomness import Streams
from markovae.report.pictures import Images, viewable
from markovae.sampling import DEFAULT_SAMPLER, plan, to_images, walk

COLUMNS = 9
SHOWN = 7.0  # log-SNR beyond which a picture hardly changes, either way


@dataclass(frozen=True)
class Column:
    """One moment of a chain.

    Args:
        logsnr: λ.   level: ℓ, or None between the schedule's levels.   pictures: (n, H, W, C), uint8.
    """

    logsnr: float
    level: int | None
    pictures: Images


def encoder_strip(model: Diffusion, digits: Images, seed: int = 0) -> list[Column]:
    """One draw of the encoder's chain from each image, at levels 0, L and some between, evenly apart in log-SNR.

    Args:
        digits: (n, C, H, W).
    """
    grid = model.schedule.logsnr
    z = model.to_x(torch.as_tensor(digits)).cpu()
    columns = [Column(float("inf"), 0, _pictures(model, z))]
    previous = 0
    for level in shown_levels(grid):
        source = Streams(seed, "report encoder", range(len(z)), level)
        z = forward.step(z, grid[previous], grid[level]).sample(source)
        columns.append(Column(float(grid[level]), level, _pictures(model, z)))
        previous = level
    return columns


def shown_levels(grid: Tensor) -> list[int]:
    """Up to COLUMNS levels, increasing, the last one L."""
    first, last = min(float(grid[1]), SHOWN), max(float(grid[-1]), -SHOWN)
    wanted = torch.linspace(first, last, COLUMNS - 1, dtype=torch.float64)
    nearest = {1 + int((grid[1:] - at).abs().argmin()) for at in wanted}
    return sorted(nearest | {len(grid) - 1})


def reverse_strip(
    model: Diffusion, count: int, steps: int, seed: int = 0, condition: Condition | None = None
) -> list[Column]:
    """Samples 0…count−1 on their way from noise: of each, z above the network's guess of z_0 at that moment."""
    condition = None if condition is None else condition.to(model.device)
    states = list(walk(model, range(count), plan(model, DEFAULT_SAMPLER, steps), seed, condition))
    chosen = np.unique(np.linspace(0, len(states) - 1, COLUMNS).round().astype(int))
    columns = []
    for index in chosen:
        state = states[index]
        pair = torch.stack([state.z.cpu(), state.x_hat.cpu()], 1).flatten(0, 1)
        columns.append(Column(float(state.logsnr), None, _pictures(model, pair)))
    return columns


def _pictures(model: Diffusion, z: Tensor) -> Images:
    return viewable(to_images(model, z), model.pixels.bins)
