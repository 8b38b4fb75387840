r"""Ordinary differential equations for a batch of examples that never see one another.

A state is a tensor (B, n); the derivative is asked for with each example's own time, (B,).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import torch
from torch import Tensor

Derivative = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(examples, time, state) -> d state/d time: places in the batch (B',), their times (B',) and states (B', n)."""


@dataclass(frozen=True)
class Solution:
    """State at the end, (B, n), and how often the derivative was asked for, (B,), int64."""

    state: Tensor
    calls: Tensor


class Integrator(ABC):
    """A rule that carries states from one time to another."""

    @abstractmethod
    def solve(self, derivative: Derivative, state: Tensor, start: float, end: float) -> Solution:
        """The state at `end` from that at `start`, (B, n), float64."""


@final
class RungeKutta4(Integrator):
    """The classical rule of order 4 on a fixed even grid.

    Args:
        steps: of the grid; 4 calls each.
    """

    def __init__(self, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"steps={steps} must be at least 1")
        self.steps = steps

    def solve(self, derivative: Derivative, state: Tensor, start: float, end: float) -> Solution:
        """k1…k4 on each step."""
        everyone = torch.arange(len(state))
        grid = torch.linspace(start, end, self.steps + 1, dtype=torch.float64)
        for now, after in pairwise(grid):
            h = after - now
            times = [t.expand(len(state)) for t in (now, now + h / 2, after)]
            first = derivative(everyone, times[0], state)
            second = derivative(everyone, times[1], state + h / 2 * first)
            third = derivative(everyone, times[1], state + h / 2 * second)
            fourth = derivative(everyone, times[2], state + h * third)
            state = state + h / 6 * (first + 2 * second + 2 * third + fourth)
        return Solution(state, torch.full((len(state),), 4 * self.steps))


@final
class DormandPrince(Integrator):
    """Order 5 with an embedded order 4: each example takes its own steps until its own error is small enough.

    Args:
        tolerance: on the root mean square of error/(1 + |state|) a step.   max_calls: per example.
    Source: Dormand & Prince 1980.
    """

    _NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
    _ROWS = (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    )
    _FOURTH = (5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40)

    def __init__(self, tolerance: float = 1e-5, max_calls: int = 20_000) -> None:
        if not 0 < tolerance < 1:
            raise ValueError(f"tolerance={tolerance:g} must lie in (0, 1)")
        self.tolerance, self.max_calls = tolerance, max_calls

    def solve(self, derivative: Derivative, state: Tensor, start: float, end: float) -> Solution:
        """Steps, accepted or shortened example by example.

        Raises:
            ValueError: where an example needs more than `max_calls` calls, or its derivative is no number.
        """
        state = state.clone()
        time = torch.full((len(state),), start, dtype=torch.float64)
        width = torch.full_like(time, (end - start) / 50)
        calls = torch.zeros(len(state), dtype=torch.int64)
        active = torch.arange(len(state))
        while len(active):
            remaining = end - time[active]
            h = torch.where(width[active].abs() < remaining.abs(), width[active], remaining)
            proposed, error = self._step(derivative, active, time[active], state[active], h)
            calls[active] += len(self._NODES)
            if not bool(error.isfinite().all()) or int(calls.max()) > self.max_calls:
                raise ValueError(
                    f"the flow did not reach its end in {self.max_calls} calls at tolerance {self.tolerance:g}: "
                    "raise the tolerance, or look whether the network's output is finite"
                )
            good = error <= 1
            done = active[good]
            reached = h[good] == remaining[good]
            time[done] = torch.where(reached, torch.full_like(time[done], end), time[done] + h[good])
            state[done] = proposed[good]
            growth = (0.9 * error.clamp(min=1e-10) ** -0.2).clamp(0.2, 5.0)
            width[active] = h * growth
            active = active[time[active] != end]
        return Solution(state, calls)

    def _step(
        self, derivative: Derivative, active: Tensor, time: Tensor, state: Tensor, h: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The proposed state and its error in units of the tolerance, (B',)."""
        slopes: list[Tensor] = []
        for node, row in zip(self._NODES, self._ROWS, strict=True):
            at = state
            for weight, slope in zip(row, slopes, strict=True):
                at = at + h[:, None] * weight * slope
            slopes.append(derivative(active, time + node * h, at))
        # The last row is the step of order 5 itself, so `at` is the proposal.
        fourth = state
        for weight, slope in zip(self._FOURTH, slopes, strict=True):
            fourth = fourth + h[:, None] * weight * slope
        scaled = (at - fourth) / (1 + torch.maximum(state.abs(), at.abs()))
        return at, (scaled**2).mean(1).sqrt() / self.tolerance
