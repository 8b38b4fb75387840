"""Which log-SNRs a sampler visits."""

from __future__ import annotations

import torch
from torch import Tensor

from markovae.schedule import NoiseSchedule


def sampling_grid(schedule: NoiseSchedule, steps: int) -> Tensor:
    """λ = ∞ and `steps` log-SNRs from level 1 to level L, (steps+1,), float64, decreasing; one network call each.

    Up to L steps: the schedule's own levels at even strides. Beyond L: the function between them.
    Raises:
        ValueError: for steps < 1.
    """
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1: each step is one network call")
    if steps <= schedule.num_levels:
        return schedule.subgrid(steps).logsnr
    first = schedule.level_positions()[0]
    levels = schedule.at(torch.linspace(float(first), 1, steps, dtype=torch.float64))
    return torch.cat([levels.new_full((1,), torch.inf), levels])


def rho_grid(first: float, last: float, steps: int, rho: float = 7.0) -> Tensor:
    """λ = ∞ and log-SNRs even in (s/a)^{1/ρ} between `first` and `last`, (steps+1,), float64.

    Most steps go where pictures are decided, few where they only sharpen.
    Source: Karras et al. 2022, eq. 5.
    """
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1: each step is one network call")
    ends = torch.exp(-0.5 * torch.tensor([first, last], dtype=torch.float64)) ** (1 / rho)
    ratio = torch.linspace(0, 1, steps, dtype=torch.float64) if steps > 1 else torch.ones(1, dtype=torch.float64)
    sigma = (ends[0] + ratio * (ends[1] - ends[0])) ** rho
    levels = -2 * sigma.log()
    return torch.cat([levels.new_full((1,), torch.inf), levels])
