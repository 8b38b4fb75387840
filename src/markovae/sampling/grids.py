"""Which log-SNRs a sampler visits: λ = ∞ first, then decreasing, (K+1,), float64; x̂ is taken at each finite one."""

from __future__ import annotations

import torch
from torch import Tensor

from markovae.diffusion.schedule import NoiseSchedule


def sampling_grid(schedule: NoiseSchedule, steps: int) -> Tensor:
    """λ = ∞ and `steps` log-SNRs from level 1 to level L, (steps+1,), float64, decreasing; one network evaluation each.

    Up to L steps: the schedule's own levels at even strides. Beyond L: the function between them.
    Raises:
        ValueError: for steps < 1.
    """
    _check(steps)
    if steps <= schedule.num_levels:
        return schedule.subgrid(steps).logsnr
    first = schedule.level_positions()[0]
    return _with_clean(schedule.at(torch.linspace(float(first), 1, steps, dtype=torch.float64)))


def uniform_grid(first: float, last: float, steps: int) -> Tensor:
    """Even steps in log-SNR from `first` down to `last`, (steps+1,).

    Source: Lu et al. 2022 (DPM-Solver), section 3.3.
    """
    _check(steps, first, last)
    return _with_clean(first + (last - first) * _even(steps))


def rho_grid(first: float, last: float, steps: int, rho: float = 7.0) -> Tensor:
    """λ = ∞ and log-SNRs even in (s/a)^{1/ρ} between `first` and `last`, (steps+1,), float64.

    Most steps go where pictures are decided, few where they only sharpen; ρ → ∞ is even in log-SNR.
    Source: Karras et al. 2022, eq. 5.
    """
    _check(steps, first, last)
    if not rho > 0:
        raise ValueError(f"rho={rho:g} must be positive: 7 is usual, a large one is even in log-SNR")
    ends = torch.exp(-0.5 * torch.tensor([first, last], dtype=torch.float64) / rho)
    levels = -2 * rho * (ends[0] + _even(steps) * (ends[1] - ends[0])).log()
    return _with_clean(levels)


def student_grid(schedule: NoiseSchedule, calls: int) -> Tensor:
    """λ = ∞ and the log-SNRs where a student of so many calls is evaluated, (calls+1,), float64.

    The last is level L; between are −2 ln tan(kπ/2K), even in the angle between signal and noise.
    """
    _check(calls)
    first, last = _reached(schedule)
    angle = torch.arange(1, calls, dtype=torch.float64) * (torch.pi / (2 * calls))
    between = (-2 * angle.tan().log()).clamp(min=last + 0.1, max=first - 0.1)
    return _with_clean(torch.cat([between, torch.tensor([last], dtype=torch.float64)]))


def _reached(schedule: NoiseSchedule) -> tuple[float, float]:
    """The log-SNRs that a student learns between: those of the schedule, cut to 13.3…−10."""
    logsnr = schedule.logsnr.detach()
    last = max(float(logsnr[-1]), -10.0)
    return max(min(float(logsnr[1]), 13.3), last + 1.0), last


def explicit_grid(logsnr: Tensor) -> Tensor:
    """λ = ∞ and the finite, decreasing log-SNRs given (K,), (K+1,): from a file, a search or dynamic programming.

    Raises:
        ValueError: where they do not fall or are not finite.
    """
    levels = logsnr.detach().cpu().double()
    if levels.ndim != 1 or not len(levels) or not bool(levels.isfinite().all() and (levels.diff() < 0).all()):
        raise ValueError("a grid is a list of finite log-SNRs that fall from step to step, nearest the data first")
    return _with_clean(levels)


def partial_grid(grid: Tensor, start: float) -> Tensor:
    """The grid squeezed to begin at log-SNR `start`: the same number of steps, the same proportions in log-SNR.

    Where `start` is no noisier than the grid's log-SNR nearest to the data, one step remains: x̂ from there.
    """
    levels = grid[1:]
    if not start < float(levels[0]) or len(levels) < 2:
        return _with_clean(levels.new_full((1,), start))
    share = (levels - levels[0]) / (levels[-1] - levels[0])
    return _with_clean(levels[0] + share * (start - levels[0]))


def nearest_levels(grid: Tensor, logsnr: Tensor) -> Tensor:
    """The grid with each log-SNR moved to a level near it, each level taken once, (K+1,).

    Args:
        logsnr: of the levels, λ_1…λ_L, decreasing, (L,).
    Raises:
        ValueError: for more log-SNRs than levels.
    """
    count, levels = len(grid) - 1, len(logsnr)
    if count > levels:
        raise ValueError(f"{count} log-SNRs cannot each have a level of their own of {levels}")
    place = torch.arange(count)
    nearest = (grid[1:, None] - logsnr).abs().argmin(1)
    later = (nearest - place).cummax(0).values + place
    return _with_clean(logsnr[later.minimum(levels - count + place)])


def _even(steps: int) -> Tensor:
    return torch.linspace(0, 1, steps, dtype=torch.float64) if steps > 1 else torch.ones(1, dtype=torch.float64)


def _with_clean(levels: Tensor) -> Tensor:
    return torch.cat([levels.new_full((1,), torch.inf), levels])


def _check(steps: int, first: float = torch.inf, last: float = -torch.inf) -> None:
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1: each step is one network evaluation")
    if not first > last:
        raise ValueError(f"log-SNR must fall from the data to the noise: {first:g} does not exceed {last:g}")
