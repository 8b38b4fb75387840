"""Student's law, for intervals from few values."""

from __future__ import annotations

import math
from functools import cache

_PANELS = 200
_HALVINGS = 60


@cache
def student_quantile(dof: float) -> float:
    """t with P(|T| ≤ t) = 0.95, for dof ≥ 1 degrees of freedom; infinitely many are the normal law (to 3e-6).

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
