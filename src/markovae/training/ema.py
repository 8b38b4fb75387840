"""The running average of the weights: parameters only, never buffers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from markovae.diffusion.cascade import Model
from markovae.diffusion.model import load_weights
from markovae.training.sharding import full_tensor, is_sharded, local_shard, shard_like, shard_tables


def decay_at(update: int, horizon: float, warmup: float) -> float:
    """d_t of w̄ ← d_t w̄ + (1 − d_t) w at update t = 1, 2…: min(1 − 1/horizon, (t−1)/(t−1+warmup)).

    The first update copies (warmup > 0); while warming up the average looks back about t/warmup updates.
    """
    return min(1 - 1 / horizon, (update - 1) / (update - 1 + warmup) if warmup else 1.0)


@final
class EMA:
    """The running average of a model's weights; `model` is a copy that holds it, to sample, measure and save.

        ema = mv.EMA(model)
        for images in loader:
            ...
            optimizer.step()
            ema.update()
        mv.sample(ema.model, 16)

    Where the weights in training are spread over processes (`spread`), so is the average, and the model holds it
    after a `gather` only, on the first process alone.

    Args:
        model: the model in training.
        horizon: updates that the average looks back.
        warmup: it looks back no further than about 1/warmup of the updates so far; 0 is none (see `decay_at`).
    """

    def __init__(self, model: Model, horizon: float = 1000.0, warmup: float = 10.0) -> None:
        self.horizon, self.warmup, self._updates = horizon, warmup, 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._averages: dict[str, Tensor] = dict(self.model.named_parameters())
        self._weights = {name: weight.detach() for name, weight in model.named_parameters()}

    def spread(self, model: Model, first: bool) -> None:
        """Hold the rows alone that this process holds of the weights of `model`; all but the first drop the copy."""
        self._weights = {name: weight.detach() for name, weight in model.named_parameters()}
        self._averages = {
            name: shard_like(value, self._weights[name]).clone() for name, value in self._averages.items()
        }
        if not first:
            self.model.to("meta")

    @property
    def held(self) -> dict[str, Tensor]:
        """What this process holds of the average, by the weights' names."""
        return {name: local_shard(value) for name, value in self._averages.items()}

    @torch.no_grad()
    def update(self, update: int | None = None) -> None:
        """Fold the model's present weights in; `update` counts from 1, and None counts by itself."""
        self._updates = update = self._updates + 1 if update is None else update
        weights = [local_shard(weight) for weight in self._weights.values()]
        torch._foreach_lerp_(list(self.held.values()), weights, 1 - decay_at(update, self.horizon, self.warmup))

    @torch.no_grad()
    def gather(self) -> None:
        """Bring the first process's model up to date; every process must call this, where the average is spread."""
        for name, weight in self.model.named_parameters():
            if is_sharded(self._averages[name]):
                weight.copy_(full_tensor(self._averages[name]))

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take these as the average.

        Raises:
            ValueError: for tensors that do not fit the model.
        """
        load_weights(self.model, tensors)
        for name, value in shard_tables(tensors, self._averages).items():
            if is_sharded(value):
                self._averages[name] = value.to(self._averages[name].dtype).clone()
