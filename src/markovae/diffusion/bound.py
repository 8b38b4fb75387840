"""`Bound`: its terms in nats per image; `Estimate`: a mean with its standard error and its interval."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache

from torch import Tensor

_PANELS = 200
_HALVINGS = 60


@cache
def student_quantile(dof: float) -> float:
    """t with P(|T| ≤ t) = 0.95, for dof ≥ 1 degrees of freedom; infinitely many are the normal distribution (to 3e-6).

    T = √ν tan θ turns the density into cos^{ν−1} θ · Γ((ν+1)/2)/(√π Γ(ν/2)) on (−π/2, π/2).

    Raises:
        ValueError: for fewer than one degree of freedom.
    Source: Student 1908.
    """
    if not dof >= 1:
        raise ValueError(f"dof={dof:g} must be at least 1: an error is worked out from two values or more")
    dof = min(dof, 1e6)
    scale = 2 * math.exp(math.lgamma((dof + 1) / 2) - math.lgamma(dof / 2)) / math.sqrt(math.pi)
    low, high = 0.0, math.atan(13 / math.sqrt(dof))  # no quantile exceeds that of one degree of freedom, 12.7
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if scale * _cosine_power(dof - 1, middle) < 0.95 else (low, middle)
    return math.sqrt(dof) * math.tan((low + high) / 2)


def _cosine_power(power: float, end: float) -> float:
    """∫_0^end cos^power, by Simpson's rule."""
    values = [math.cos(end * i / _PANELS) ** power for i in range(_PANELS + 1)]
    return end / _PANELS / 3 * (values[0] + 4 * math.fsum(values[1:-1:2]) + 2 * math.fsum(values[2:-1:2]) + values[-1])


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
        """value ± t stderr, t the 97.5 % quantile of Student's distribution: 1.96 for many values, 12.7 for two."""
        if math.isnan(self.stderr):
            return math.nan, math.nan
        reach = student_quantile(self.dof) * self.stderr
        return self.value - reach, self.value + reach

    def scaled(self, factor: float) -> Estimate:
        """The number and its error in another unit."""
        return replace(self, value=self.value * factor, stderr=self.stderr * factor)

    def __float__(self) -> float:
        return self.value

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
class Band:
    """What one band of a cascade costs, nats, float64.

    Args:
        size: height and width of the band.
        prior: its top level, (B,).
        levels: all its levels, (B,).
    """

    size: tuple[int, ...]
    prior: Tensor
    levels: Tensor


def html_table(rows: Iterable[tuple[str, object]]) -> str:
    """Names and figures as an HTML table: how records show themselves in notebooks."""
    lines = (f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(figure))}</td></tr>" for name, figure in rows)
    return f"<table>{''.join(lines)}</table>"


@dataclass(frozen=True, repr=False)
class Bound:
    """An upper bound on −ln P(z_0), example by example, in its terms (form E6), nats, float64.

        bound = model.bound(images[:2])
        bound.bits_per_dim(), bound.total

    Args:
        prior: KL(q(z_L|z_0) ‖ P_pri(z_L)), (B,).
        levels: KL at level ℓ = 2…L, (B, L−1); column ℓ−2.
        reconstruction: −ln P_pri(z_0|z_1), (B,).
        dims: number of data dimensions, for the per-dim figures.
        discrete: True where P_pri(z_0|z_1) is a probability; a density has no bits until a bin width is named.
        bands: of a cascade, coarse first; they add up to `prior` and `levels`.
    """

    prior: Tensor
    levels: Tensor
    reconstruction: Tensor
    dims: int
    discrete: bool = True
    bands: tuple[Band, ...] = ()

    def __repr__(self) -> str:
        return f"Bound({self._figure}, {len(self.prior):,} examples)"

    def _repr_html_(self) -> str:
        """The terms as a table, for notebooks."""
        terms = {"prior": self.prior, "levels": self.levels.sum(1), "reconstruction": self.reconstruction}
        return html_table([("bound", self._figure), *((f"{k}, nats", f"{v.mean():.4f}") for k, v in terms.items())])

    @property
    def _figure(self) -> str:
        return f"{self.bits_per_dim()} bits/dim" if self.discrete else f"{self.mean()} nats"

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
            raise ValueError("bits per dimension of a density depend on a bin width: use a decoder over pixel values")
        return self.mean().scaled(1 / (self.dims * math.log(2)))
