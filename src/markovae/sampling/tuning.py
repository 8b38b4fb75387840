"""Grids that are searched for a model: the best levels for the bound, and the nearest to a fine trajectory."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from markovae.data import cache
from markovae.diffusion.markovian_vae import evaluating
from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.likelihood.statistics import collect_level_statistics
from markovae.likelihood.subgrid import isotropic_costs, search
from markovae.log import log
from markovae.networks.conditioning import Condition, Conditioning
from markovae.sampling.denoiser import Denoiser
from markovae.sampling.generation import (
    NonFiniteSamples,
    batch_trajectories,
    final_images,
    final_latents,
    sample_trajectory,
)
from markovae.sampling.grids import explicit_grid, rho_grid
from markovae.sampling.guidance import Guidance, guided
from markovae.sampling.plans import Plan, describe_plan, logsnr_range, plan
from markovae.sampling.sampler_table import DEFAULT_SAMPLER, TUNED_FOR
from markovae.sampling.samplers import DPMSolverPP2M, SDEDPMSolverPP2M

_FIRST = 2**61  # indices of these samples: those of `sample` begin at 0


RECIPE = 3  # raised when a search of the same key would find another grid


def searched_grid(model: Diffusion, start: Plan, condition: Conditioning | None, guidance: Guidance) -> Tensor:
    """The grid of `start.spacing`, optimal or tuned, with as many log-SNRs as `start` has.

    It is searched once and kept in the cache folder, keyed by the model and all that it depends on.

    Args:
        condition, guidance: what `tuned` is tuned for; TUNED_FOR samples take the conditions in turn.
    Raises:
        UserError: for a sampler that cannot be tuned, or too few levels.
    """
    count, optimal = len(start.grid) - 1, start.spacing == "optimal"
    key: dict[str, Any] = {"recipe": RECIPE, "model": _digest(model), "count": count, "spacing": start.spacing}
    given: Condition | None = None
    if not optimal:
        if condition is not None:
            given = condition[torch.arange(TUNED_FOR) % len(condition)].condition().to(model.device)
        weaker, negative = guidance.weaker, guidance.negative
        key |= describe_plan(start, guidance) | {
            "condition": _condition_digest(given),
            "negative": _condition_digest(negative),
            "weaker": None if weaker is None else _digest(weaker),
        }

    def make(folder: Path) -> None:
        log(f"searching the {start.spacing} grid of {count} log-SNRs")
        if optimal:
            grid = optimal_grid(model, count)
        else:
            found = tune(model, start, samples=TUNED_FOR, condition=given, denoiser=guided(model, given, guidance))
            grid = found.plan.grid
            log(
                f"tuned in {found.seconds:.0f} s over {found.tried} grids: {found.rmse_before:.4f} to {found.rmse:.4f} "
                f"root mean square off a trajectory of {found.fine} network evaluations"
            )
        cache.write_json(folder / "grid.json", {"logsnr": grid[1:].tolist(), "of": key})

    def read(kept: cache.Entry) -> Tensor:
        return explicit_grid(torch.tensor(kept.json("grid.json")["logsnr"], dtype=torch.float64))

    name = f"grid-{cache.key_of(key)}"
    if cache.is_kept(name):
        log(f"{start.spacing} grid of {count} log-SNRs from {cache.cache_folder() / name}")
    return cache.entry(name, make, read)


def _digest(model: Diffusion) -> str:
    """Of the weights and of what else makes a prediction."""
    found = hashlib.sha256()
    kind = (model.shape, model.target.name, model.clip, model.precision, type(model.reverse).__name__)
    found.update(f"{kind} {model.network}".encode())
    tensors = {**model.state_dict(), "schedule": model.schedule.logsnr, "trained on": model.training_schedule.logsnr}
    for name, value in sorted(tensors.items()):
        _take_in(found, name, value)
    return found.hexdigest()


def _condition_digest(condition: Condition | None) -> str | None:
    if condition is None:
        return None
    found = hashlib.sha256()
    for field in fields(condition):
        value = getattr(condition, field.name)
        if value is not None:
            _take_in(found, field.name, value)
    return found.hexdigest()


def _take_in(found: hashlib._Hash, name: str, value: Tensor) -> None:
    """A tensor into a digest: its name, type and shape, and its bytes."""
    found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
    found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())


def optimal_grid(
    model: Diffusion,
    count: int,
    *,
    images: Tensor | None = None,
    samples: int = 64,
) -> Tensor:
    """λ = ∞ and the `count` of the model's L levels whose bound is least, (count+1,); levels 1 and L are kept.

    x̂'s error is measured level by level, and dynamic programming finds the grid (see `likelihood.search`). Nothing
    says that the grid of the best bound gives the best pictures: it is for `ancestral`, the chain that is bounded.

    Args:
        images: pixel values to measure it on, (N, *D); None draws `samples` from the model, each class in turn.
    Raises:
        UserError: for more log-SNRs than the model has levels.
    """
    labels = None
    if images is None:
        labels = _each_class(model, samples)
        condition = None if labels is None else Condition(label=labels)
        twenty = plan(model, DEFAULT_SAMPLER, None)
        with evaluating(model):
            trajectories = batch_trajectories(model, samples, twenty, seed=0, condition=condition, start=_FIRST)
            images = torch.from_numpy(final_images(model, trajectories))
    found = collect_level_statistics(model, images, labels, seed=0)
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
class TunedPlan:
    """A plan on the grid found, and how far its images lie from the fine trajectory's.

    Args:
        plan: sampler and grid.
        rmse, rmse_before: root mean square difference to the reference on the model's scale,
            with the tuned grid and with the one at the start.
        fine: network evaluations of the fine trajectory.
        tried: grids tried.
        seconds: spent.
    """

    plan: Plan
    rmse: float
    rmse_before: float
    fine: int
    tried: int
    seconds: float


def tune(
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
) -> TunedPlan:
    r"""The grid of the family below, of as many log-SNRs as `start`, that comes nearest to a fine trajectory.

    The family is even in (s/a)^{1/ρ} between two log-SNRs: ρ, the log-SNR where the trajectory hands over to x̂, and the
    one where it begins. Each is searched along its axis with a stride that halves (compass search) from `start`'s
    sampler near the default grid; the reference takes `fine` steps of 2M over the model's whole range. `start`'s own
    grid is kept where no trial beats it. SDE-DPM-Solver++(2M), which has no fine limit, is tuned as 2M: the same rule
    without fresh noise.

    Args:
        start: sampler, and how many log-SNRs.
        samples: images compared; their numbers do not overlap those of
            `sample`.
        trials: most grids tried.
        seconds: no further trial begins after this.
    Raises:
        UserError: for a sampler that draws random numbers, or fewer than 3 log-SNRs.
    """
    solver = replace(start, stepper=DPMSolverPP2M()) if isinstance(start.stepper, SDEDPMSolverPP2M) else start
    if solver.draws:
        raise UserError(
            "a sampler that draws random numbers has no fine trajectory to be compared with: tune ddim or dpmpp2m"
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
                return float((images(grid, solver) - reference).square().mean().sqrt())
            except NonFiniteSamples:
                return math.inf  # too coarse a grid for this sampler, which another may not be

        before = error(start.grid)
        best, place, tried = _compass(
            lambda p: error(_family(p, first, last, count)), trials - 1, lambda: time.monotonic() - began < seconds
        )
    grid = start.grid if before <= best else _family(place, first, last, count)
    found = replace(start, grid=explicit_grid(grid[1:]))
    return TunedPlan(found, min(best, before), before, fine, tried + 1, time.monotonic() - began)


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
