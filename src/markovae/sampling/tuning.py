"""The best K of the levels for the bound, as a sampler's grid."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from markovae.diffusion.markovian_vae import evaluating
from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.likelihood.statistics import KNOTS, level_statistics, levels_each
from markovae.likelihood.subgrid import isotropic_costs, search
from markovae.networks.conditioning import Condition
from markovae.sampling.denoiser import Denoiser
from markovae.sampling.generation import (
    NonFiniteSamples,
    batch_trajectories,
    final_images,
    final_latents,
    sample_trajectory,
)
from markovae.sampling.grids import explicit_grid, rho_grid
from markovae.sampling.plans import DEFAULT_SAMPLER, Plan, logsnr_range, plan
from markovae.sampling.samplers import DPMSolverPP2M, SDEDPMSolverPP2M

_FIRST = 2**61  # numbers of the surveyed samples: those of `sample` begin at 0


def optimal_grid(
    model: Diffusion,
    count: int,
    *,
    images: Tensor | None = None,
    labels: Tensor | None = None,
    samples: int = 64,
    seed: int = 0,
) -> Tensor:
    """λ = ∞ and the `count` of the model's L levels whose bound is least, (count+1,); levels 1 and L are kept.

    x̂'s error is surveyed level by level, and dynamic programming finds the grid (see `likelihood.search`). Nothing
    says that the grid of the best bound gives the best pictures: it is for `ancestral`, the chain that is bounded.

    Args:
        images: digits to survey, (N, *D), with their labels, (N,); None draws `samples` from the model itself.
    Raises:
        UserError: for more log-SNRs than the model has levels.
    """
    if images is None:
        labels = _each_class(model, samples) if labels is None else labels
        condition = None if labels is None else Condition(label=labels)
        twenty = plan(model, DEFAULT_SAMPLER, None)
        with evaluating(model):
            trajectories = batch_trajectories(model, samples, twenty, seed=seed, condition=condition, start=_FIRST)
            images = torch.from_numpy(final_images(model, trajectories))
    found = level_statistics(model, images, labels, per_image=levels_each(KNOTS, len(images)), seed=seed)
    logsnr = model.schedule.logsnr
    costs = isotropic_costs(found.errors_at(logsnr[1:]), logsnr, model.dims)
    return explicit_grid(logsnr[search(costs, count).levels(count)])


def _each_class(model: Diffusion, samples: int) -> Tensor | None:
    classes = int(getattr(model.network, "num_classes", 0))
    return torch.arange(samples) % classes if classes else None


_RHO = 7.0
_REACH = 0.45
_START = (1.0, 0.4, 0.2)


@dataclass(frozen=True)
class Tuned:
    """A plan on the grid found, and how far its images lie from the fine walk's.

    Args:
        plan: sampler and grid.   rmse, rmse_before: root mean square difference to the reference on the model's scale,
            with the tuned grid and with the one at the start.   calls: network calls of a fine walk.
        tried: grids tried.   seconds: spent.
    """

    plan: Plan
    rmse: float
    rmse_before: float
    calls: int
    tried: int
    seconds: float


def tuned(
    model: Diffusion,
    start: Plan,
    *,
    seed: int = 0,
    samples: int = 16,
    fine: int = 160,
    trials: int = 40,
    seconds: float = 60.0,
    condition: Condition | None = None,
    denoiser: Denoiser | None = None,
) -> Tuned:
    r"""The grid of the family below, of as many log-SNRs as `start`, that comes nearest to a fine walk.

    The family is even in (s/a)^{1/ρ} between two log-SNRs: ρ, the log-SNR where the walk hands over to x̂, and the one
    where it begins. Each is searched along its axis with a stride that halves (compass search) from `start`'s sampler
    near the default grid; the reference takes `fine` steps of 2M over the model's whole range. `start`'s own grid
    is kept where no trial beats it. SDE-DPM-Solver++(2M), which has no fine walk, is tuned as 2M: the same rule
    without fresh noise.

    Args:
        start: sampler, and how many log-SNRs.   samples: images compared; their numbers do not overlap those of
            `sample`.   trials: most grids tried.   seconds: no further trial begins after this.
    Raises:
        UserError: for a sampler that draws random numbers, or fewer than 3 log-SNRs.
    """
    walker = replace(start, stepper=DPMSolverPP2M()) if isinstance(start.stepper, SDEDPMSolverPP2M) else start
    if walker.draws:
        raise UserError(
            "a sampler that draws random numbers has no fine walk to be compared with: tune ddim or dpmpp2m"
        )
    count = len(start.grid) - 1
    if count < 3:
        raise UserError(f"{count} log-SNRs leave nothing to tune: take at least 3 steps")
    began = time.monotonic()
    first, last = logsnr_range(model)
    numbers = range(2**62, 2**62 + samples)

    def images(grid: Tensor, plan: Plan) -> Tensor:
        return final_latents(
            sample_trajectory(model, numbers, replace(plan, grid=grid), seed, condition, denoiser)
        ).double()

    with evaluating(model):
        reference = images(rho_grid(first, last, fine), Plan(DPMSolverPP2M(), start.grid, threshold=start.threshold))

        def error(grid: Tensor) -> float:
            try:
                return float((images(grid, walker) - reference).square().mean().sqrt())
            except NonFiniteSamples:
                return math.inf  # too coarse a grid for this sampler, which another may not be

        before = error(start.grid)
        best, place, tried = _compass(
            lambda p: error(_family(p, first, last, count)), trials - 1, lambda: time.monotonic() - began < seconds
        )
    grid = start.grid if before <= best else _family(place, first, last, count)
    found = replace(start, grid=explicit_grid(grid[1:]))
    return Tuned(found, min(best, before), before, fine, tried + 1, time.monotonic() - began)


def _family(place: Sequence[float], first: float, last: float, count: int) -> Tensor:
    """The grid at a place in [0, 1]³: ρ = 7^{2·p_0}, hand-over and beginning up to 0.45 of the range from the ends."""
    rho, near, far = place
    width = first - last
    return rho_grid(first - _REACH * near * width, last + _REACH * far * width, count, _RHO ** (2 * rho))


def _compass(
    error: Callable[[Sequence[float]], float], trials: int, going: Callable[[], bool]
) -> tuple[float, tuple[float, ...], int]:
    """(least error, its place, places tried): each axis both ways, the stride halved where none is better."""
    place: tuple[float, ...] = _START
    tried, stride = 1, 0.25
    best = error(place)
    while stride > 0.01 and tried < trials and going():
        better = False
        for axis in range(len(place)):
            for sign in (1, -1):
                other = list(place)
                other[axis] = min(max(place[axis] + sign * stride, 0.0), 1.0)
                if other[axis] == place[axis] or tried >= trials or not going():
                    continue
                value, tried = error(other), tried + 1
                if value < best:
                    best, place, better = value, tuple(other), True
                    break
        stride = stride if better else stride / 2
    return best, place, tried
