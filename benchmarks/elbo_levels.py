"""The bound on K levels against all: from squared errors at every level, for any grid and variance at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from markovae.diffusion.forward import posterior_variance, step_variance
from markovae.diffusion.model import Diffusion
from markovae.likelihood.statistics import LevelStatistics, half_snr_steps
from markovae.likelihood.subgrid import isotropic_costs, search

Ratio = Callable[[int, int], Tensor]
"""r = β̃/v of the step from level b to level a < b."""


def grid_table(
    model: Diffusion, found: LevelStatistics, squared: Tensor, counts: Sequence[int]
) -> list[dict[str, Any]]:
    """Excess over the full grid, bits/dim, of K levels: optimal and even, with each variance.

    Args:
        found: the survey of other images, which grids and variances are fitted on.
        squared: ‖x − x̂‖² of the images measured, one draw a level, levels 2…L, (n, L−1): see `squared_errors`.
    """
    grid, dims = model.schedule.logsnr.detach(), model.dims
    error = found.errors_at(grid[1:])
    best = search(isotropic_costs(error, grid, dims), max(counts))
    ratios = {"isotropic": fitted(grid, error), "posterior": posterior(), "step": step(grid)}
    costs = {kind: _Cost(grid, dims, squared, ratio) for kind, ratio in ratios.items()}
    every = list(range(1, model.num_levels + 1))
    full = costs["isotropic"].of(every)
    rows = []
    for count in counts:
        even, optimal = model.schedule.sublevels(count).tolist(), best.levels(count).tolist()
        nats = {
            "optimal_isotropic": costs["isotropic"].of(optimal),
            **{f"even_{kind}": cost.of(even) for kind, cost in costs.items()},
        }
        excess = {name: _figure((value - full) / dims / math.log(2)) for name, value in nats.items()}
        rows.append({"levels": count, "optimal_grid": optimal, **excess})
    return rows


def squared_errors(nats: Tensor, grid: Tensor) -> Tensor:
    """‖x − x̂‖² from the nats with variance β̃, ½ Δγ ‖x − x̂‖², both (n, L−1)."""
    return nats / half_snr_steps(grid)


def levels_in_all(model: Diffusion, found: LevelStatistics, squared: Tensor) -> dict[str, Any]:
    """The sum over levels ≥ 2 of the full grid by variance, and of infinitely many levels, bits/dim."""
    grid, dims, bit = model.schedule.logsnr.detach(), model.dims, 1 / (model.dims * math.log(2))
    error, every = found.errors_at(grid[1:]), list(range(1, model.num_levels + 1))
    ratios = {"isotropic": fitted(grid, error), "posterior": posterior(), "step": step(grid)}
    sums = {kind: _figure(_Cost(grid, dims, squared, ratio).of(every) * bit) for kind, ratio in ratios.items()}
    # ½ ∫ γ ‖x − x̂‖² dλ by the trapezoid rule over the grid; level 1 takes level 2's error.
    height = 0.5 * grid[1:].exp() * torch.cat([squared[:, :1], squared], 1)
    return sums | {"continuous": _figure(torch.trapezoid(height, -grid[1:], dim=1) * bit)}


def fitted(grid: Tensor, error: Tensor) -> Ratio:
    """v = β̃ (1 + Δγ e), with the errors of other images."""
    return lambda a, b: 1 / (1 + _gain(grid, a, b) * error[b - 1])


def posterior() -> Ratio:
    """v = β̃."""
    return lambda a, b: torch.ones((), dtype=torch.float64)


def step(grid: Tensor) -> Ratio:
    """v = σ²."""
    return lambda a, b: posterior_variance(grid[a], grid[b]) / step_variance(grid[a], grid[b])


def _gain(grid: Tensor, a: int, b: int) -> Tensor:
    return -grid[a].exp() * torch.expm1(grid[b] - grid[a])


class _Cost:
    """½ [ d (r − 1 − ln r) + r Δγ ‖x − x̂‖² ] summed over the steps of a grid, for each image."""

    def __init__(self, grid: Tensor, dims: int, squared: Tensor, ratio: Ratio) -> None:
        self.grid, self.dims, self.squared, self.ratio = grid, dims, squared, ratio

    def of(self, levels: Sequence[int]) -> Tensor:
        """Nats of each image, (n,); the first level is 1, or the only one L."""
        total = torch.zeros(len(self.squared), dtype=torch.float64)
        for a, b in pairwise(levels):
            ratio = self.ratio(a, b)
            shape = self.dims * (ratio - 1 - ratio.log())
            total += 0.5 * (shape + ratio * _gain(self.grid, a, b) * self.squared[:, b - 2])
        return total


def _figure(values: Tensor) -> dict[str, float]:
    return {"mean": float(values.mean()), "stderr": float(values.std()) / math.sqrt(len(values))}
