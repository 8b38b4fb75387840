"""The normal distribution with independent coordinates: draws, log-densities and divergences in nats."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from markovae.randomness import Source, normal_like


def sum_dims(values: Tensor) -> Tensor:
    """Sum over all but the first dimension: (B, *D) -> (B,)."""
    return values.flatten(1).sum(1) if values.ndim > 1 else values


def expand(values: Tensor, like: Tensor) -> Tensor:
    """View one number an example, (B,) or (), so that it broadcasts against `like`, (B, *D); (B, *D) is left as is."""
    return values if values.ndim in (0, like.ndim) else values.reshape(values.shape[0], *[1] * (like.ndim - 1))


@dataclass(frozen=True)
class Gaussian:
    """N(mean, diag(variance)) over (*D), one for each example of the batch.

    Args:
        mean: (B, *D).
        variance: positive, broadcastable to (B, *D); zero only where the Gaussian is merely sampled.
    """

    mean: Tensor
    variance: Tensor

    def sample(self, source: Source) -> Tensor:
        """mean + √variance · ε, (B, *D)."""
        return self.mean + self.variance.sqrt().to(self.mean) * normal_like(self.mean, source)

    def log_prob(self, x: Tensor) -> Tensor:
        """ln N(x; mean, variance) in nats, (B,), float64: a log-density.

        Raises:
            ValueError: where a variance is not positive.
        """
        mean, variance = self._checked()
        mean, variance, x = torch.broadcast_tensors(mean, variance, x.double())
        return -0.5 * sum_dims((x - mean) ** 2 / variance + variance.log() + math.log(2 * math.pi))

    def kl(self, other: Gaussian) -> Tensor:
        r"""KL(self ‖ other) = ½ Σ [ r − 1 − ln r + (μ−μ')²/v' ], r = v/v', in nats, (B,), float64.

        r − 1 − ln r is taken through log1p, so nearly equal variances lose no digits.
        """
        mean, variance = self._checked()
        other_mean, other_variance = other._checked()
        excess = (variance - other_variance) / other_variance
        terms = excess - excess.log1p() + (mean - other_mean) ** 2 / other_variance
        return 0.5 * sum_dims(terms.expand(torch.broadcast_shapes(mean.shape, terms.shape)))

    def _checked(self) -> tuple[Tensor, Tensor]:
        variance = self.variance.double()
        if not bool((variance > 0).all()):
            raise ValueError(f"variance={float(variance.min()):g} must be positive for a density to exist")
        return self.mean.double(), variance
