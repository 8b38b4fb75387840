"""The running average of the weights: parameters only, never buffers."""

from __future__ import annotations

import copy
from typing import final

import torch

from markovae.diffusion import Diffusion


def decay_at(update: int, horizon: float, warmup: float) -> float:
    """d_t of w̄ ← d_t w̄ + (1 − d_t) w at update t = 1, 2…: min(1 − 1/horizon, (t−1)/(t−1+warmup)).

    The first update copies (warmup > 0); while warming up the average looks back about t/warmup updates.
    """
    return min(1 - 1 / horizon, (update - 1) / (update - 1 + warmup) if warmup else 1.0)


@final
class Average:
    """A copy of the model whose parameters are the average's; it can be sampled and measured at any time.

    Args:
        model: the model in training.   horizon, warmup: of `decay_at`.
    """

    def __init__(self, model: Diffusion, horizon: float, warmup: float) -> None:
        self.horizon, self.warmup = horizon, warmup
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._averages: list[torch.Tensor] = list(self.model.parameters())
        self._weights = [weight.detach() for weight in model.parameters()]

    @torch.no_grad()
    def update(self, update: int) -> None:
        """Fold the model's present weights in; `update` counts from 1."""
        torch._foreach_lerp_(self._averages, self._weights, 1 - decay_at(update, self.horizon, self.warmup))
