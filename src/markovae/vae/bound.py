"""The bound in its terms, and numbers with their standard errors."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from markovae.vae.student import student_quantile


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error; `stderr` is nan where one draw cannot tell it.

    Args:
        dof: degrees of freedom of the standard error: how many independent deviations it was worked out from.
    """

    value: float
    stderr: float
    dof: float = math.inf

    @property
    def ci95(self) -> tuple[float, float]:
        """value ± t stderr, t the 97.5 % quantile of Student's law: 1.96 for many values, 12.7 for two."""
        if math.isnan(self.stderr):
            return math.nan, math.nan
        reach = student_quantile(self.dof) * self.stderr
        return self.value - reach, self.value + reach

    def scaled(self, factor: float) -> Estimate:
        """The number and its error in another unit."""
        return replace(self, value=self.value * factor, stderr=self.stderr * factor)

    def __str__(self) -> str:
        return f"{self.value:.4f} ± {self.stderr:.4f}"


def estimate_mean(values: Tensor) -> Estimate:
    """The mean of independent values, (N,), and its standard error s/√N.

    Raises:
        ValueError: of no values at all.
    """
    if not len(values):
        raise ValueError("a mean needs at least one value: none was given")
    values = values.detach().double()
    if len(values) == 1:
        return Estimate(float(values[0]), math.nan)
    return Estimate(float(values.mean()), float(values.std() / math.sqrt(len(values))), len(values) - 1)


@dataclass(frozen=True)
class Bound:
    """An upper bound on −ln P(z_0), example by example, in its terms (form E6), nats, float64.

    Args:
        prior: KL(q(z_L|z_0) ‖ P_pri(z_L)), (B,).
        levels: KL at level ℓ = 2…L, (B, L−1); column ℓ−2.
        reconstruction: −ln P_pri(z_0|z_1), (B,).
        dims: number of data dimensions, for the per-dim figures.
        discrete: True where P_pri(z_0|z_1) is a probability; a density has no bits until a bin width is named.
    """

    prior: Tensor
    levels: Tensor
    reconstruction: Tensor
    dims: int
    discrete: bool = True

    @property
    def total(self) -> Tensor:
        """The bound on −ln P(z_0), (B,), nats."""
        return self.prior + self.levels.sum(1) + self.reconstruction

    def mean(self) -> Estimate:
        """Mean over the batch ± its standard error, nats per example."""
        return estimate_mean(self.total)

    def bits_per_dim(self) -> Estimate:
        """Mean bits per dimension ± its standard error.

        Raises:
            ValueError: for the density of a continuous variable.
        """
        if not self.discrete:
            raise ValueError("bits per dimension of a density depend on a bin width: use a decoder over digits")
        return self.mean().scaled(1 / (self.dims * math.log(2)))


def stack_bounds(bounds: list[Bound]) -> Bound:
    """One Bound for the examples of several batches of the same model.

    Raises:
        ValueError: for no bounds, or bounds of different models.
    """
    kinds = {(b.dims, b.discrete, b.levels.shape[1]) for b in bounds}
    if len(kinds) != 1:
        raise ValueError(f"bounds of {len(kinds)} kinds cannot be stacked: give batches of one model")
    return Bound(
        torch.cat([b.prior for b in bounds]),
        torch.cat([b.levels for b in bounds]),
        torch.cat([b.reconstruction for b in bounds]),
        bounds[0].dims,
        bounds[0].discrete,
    )
