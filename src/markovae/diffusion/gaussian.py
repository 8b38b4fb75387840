"""Normal distributions, with independent coordinates or full covariance: draws, log-densities, divergences in nats."""

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
    """View one number per example, (B,) or (), so that it broadcasts against `like`, (B, *D); (B, *D) is left as is."""
    return values if values.ndim in (0, like.ndim) else values.reshape(values.shape[0], *[1] * (like.ndim - 1))


def factor(values: Tensor, like: Tensor) -> Tensor:
    """`expand`, in the type of `like` and on its device; one number of the CPU's stays there, where a product takes it
    up without a copy."""
    if not values.ndim and values.device.type == "cpu":
        return values.to(like.dtype)
    return expand(values, like).to(like)


def variance_cost(variance: Tensor, other: Tensor) -> Tensor:
    """r − 1 − ln r, r = variance/other, float64: twice the divergence of a Gaussian from one of the same mean.

    Nearly equal variances leave no more than rounding errors, and far smaller ones keep their logarithm.
    """
    excess = (variance - other) / other
    near = excess > -0.5
    return excess - torch.where(near, torch.where(near, excess, 0.0).log1p(), variance.log() - other.log())


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
        """mean + √variance · ε, (B, *D).

        Raises:
            ValueError: where a variance is negative.
        """
        if not bool((self.variance >= 0).all()):
            raise ValueError(f"variance={float(self.variance.min()):g} must not be negative")
        deviation = self.variance.sqrt()
        scale = factor(deviation, self.mean) if not deviation.ndim else deviation.to(self.mean)
        return self.mean + scale * normal_like(self.mean, source)

    def log_prob(self, x: Tensor) -> Tensor:
        """ln N(x; mean, variance) in nats, (B,), float64: a log-density.

        Raises:
            ValueError: where a variance is not positive, or x has another shape than the mean.
        """
        mean, variance = self._checked()
        _check_shapes(x, mean)
        mean, variance, x = torch.broadcast_tensors(mean, variance, x.double())
        return -0.5 * sum_dims((x - mean) ** 2 / variance + variance.log() + math.log(2 * math.pi))

    def kl(self, other: Gaussian) -> Tensor:
        r"""KL(self ‖ other) = ½ Σ [ r − 1 − ln r + (μ−μ')²/v' ], r = v/v', in nats, (B,), float64.

        Raises:
            ValueError: where a variance is not positive, or the means differ in shape.
        """
        mean, variance = self._checked()
        other_mean, other_variance = other._checked()
        _check_shapes(mean, other_mean)
        terms = variance_cost(variance, other_variance) + (mean - other_mean) ** 2 / other_variance
        return 0.5 * sum_dims(torch.broadcast_tensors(terms, mean)[0])  # broadcast_shapes loads sympy, for a second

    def _checked(self) -> tuple[Tensor, Tensor]:
        variance = self.variance.double()
        if not bool((variance > 0).all()):
            raise ValueError(f"variance={float(variance.min()):g} must be positive for a density to exist")
        return self.mean.double(), variance


@dataclass(frozen=True)
class FullGaussian:
    """N(mean, covariance) over vectors, one for each example of the batch.

    Args:
        mean: (B, d).
        covariance: symmetric and positive definite, (d, d) or (B, d, d).
    """

    mean: Tensor
    covariance: Tensor

    def sample(self, source: Source) -> Tensor:
        """mean + C ε with C Cᵀ the covariance, (B, d), float64."""
        mean, lower = self._checked()
        return mean + (lower @ normal_like(mean, source)[..., None])[..., 0]

    def log_prob(self, x: Tensor) -> Tensor:
        """ln N(x; mean, covariance) in nats, (B,), float64: a log-density.

        Raises:
            ValueError: where a covariance is not positive definite, or x has another shape than the mean.
        """
        mean, lower = self._checked()
        _check_shapes(x, mean)
        white = _solve(lower, (x.double() - mean)[..., None])[..., 0]
        return -0.5 * ((white**2).sum(1) + _log_det(lower) + mean.shape[1] * math.log(2 * math.pi))

    def kl(self, other: FullGaussian) -> Tensor:
        r"""KL(self ‖ other) = ½ [ tr(V'⁻¹V) − d + ln(|V'|/|V|) + (μ−μ')ᵀ V'⁻¹ (μ−μ') ] in nats, (B,), float64.

        Raises:
            ValueError: where a covariance is not positive definite, or the means differ in shape.
        """
        mean, lower = self._checked()
        other_mean, other_lower = other._checked()
        _check_shapes(mean, other_mean)
        trace = (_solve(other_lower, lower) ** 2).sum((-2, -1))
        white = _solve(other_lower, (mean - other_mean)[..., None])[..., 0]
        return 0.5 * (trace - mean.shape[1] + _log_det(other_lower) - _log_det(lower) + (white**2).sum(1))

    def _checked(self) -> tuple[Tensor, Tensor]:
        return self.mean.double(), cholesky(self.covariance)


def cholesky(covariance: Tensor) -> Tensor:
    """The lower factor C of a covariance C Cᵀ, (…, d, d), float64.

    Raises:
        ValueError: where it is not symmetric or not positive definite.
    """
    lower, failed = torch.linalg.cholesky_ex(symmetric(covariance))
    if bool((failed != 0).any()):
        raise ValueError("covariance is not positive definite: every eigenvalue must exceed 0")
    return lower


def symmetric(covariance: Tensor) -> Tensor:
    """The covariance in float64, (…, d, d), without the asymmetry that rounding left.

    Raises:
        ValueError: where it is off symmetry by more than 1e-9 of its largest entry (1e-6 in single precision).
    """
    slack = 1e-9 if covariance.dtype == torch.float64 else 1e-6
    covariance = covariance.double()
    if covariance.ndim < 2 or covariance.shape[-1] != covariance.shape[-2]:
        raise ValueError(f"covariance of shape {tuple(covariance.shape)} must be square")
    skew = float((covariance - covariance.mT).abs().max())
    if not skew <= slack * float(covariance.abs().max()):
        raise ValueError(f"covariance is off symmetry by {skew:g}: it must equal its transpose")
    return (covariance + covariance.mT) / 2


def _check_shapes(x: Tensor, mean: Tensor) -> None:
    batches = {len(t) for t in (x, mean) if t.ndim} - {1}
    if x.shape[1:] != mean.shape[1:] or len(batches) > 1:
        raise ValueError(f"x of shape {tuple(x.shape)} does not match a Gaussian over {tuple(mean.shape)}")


def _solve(lower: Tensor, right: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(lower, right, upper=False)


def _log_det(lower: Tensor) -> Tensor:
    return 2 * lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
