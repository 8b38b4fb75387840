"""The endpoint rule of constant σ, exact: L is the least integer with α^L < δ, α = √(1−σ²).

Floats are rationals, so (1−σ²)^L < δ² has one right answer. Logarithms with 100 digits decide it unless the two
sides may be equal; equality needs few binary digits, and is then settled with integers.
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from fractions import Fraction

MAX_LEVELS = 1_000_000
_DIGITS = 100
_CLOSE = Decimal(10) ** -60


def endpoint_levels(sigma: float, delta: float) -> int:
    """The least L with (1−σ²)^{L/2} < δ.

    Args:
        sigma: standard deviation of one step's noise, in (0, 1).
        delta: limit on the signal left at level L, in (0, 1).
    Raises:
        ValueError: outside (0, 1), or when L would exceed MAX_LEVELS (1,000,000).
    Source: lecture, "DDPM": the endpoint.
    """
    sigma, delta = float(sigma), float(delta)  # numbers of numpy and torch too
    _check_unit("sigma", sigma, "it is the noise of one step")
    _check_unit("delta", delta, "it is the signal left at level L")
    quotient = _log_ratio(sigma, delta)
    if quotient >= MAX_LEVELS:
        raise ValueError(
            f"sigma={sigma:g} needs more than {MAX_LEVELS} levels to reach delta={delta:g}: raise sigma or delta"
        )
    nearest = int(quotient.to_integral_value())
    if abs(quotient - nearest) > _CLOSE:
        return math.ceil(quotient)
    # Within 1e-60 of an integer: a tie (then α^L = δ is not below δ) or a value that ties cannot explain.
    return nearest + 1 if _is_tie(sigma, delta, nearest) else math.ceil(quotient)


def endpoint_sigma(num_levels: int, delta: float) -> float:
    """The smallest float64 σ whose endpoint rule returns `num_levels`.

    Raises:
        ValueError: for num_levels outside 1…MAX_LEVELS, δ outside (0, 1), or when no float64 σ gives that L.
    """
    delta = float(delta)
    if not 1 <= num_levels <= MAX_LEVELS or num_levels != int(num_levels):
        raise ValueError(f"num_levels={num_levels} must be a whole number in 1…{MAX_LEVELS}")
    _check_unit("delta", delta, "it is the signal left at level L")
    sigma = math.sqrt(-math.expm1(2 * math.log(delta) / num_levels))
    sigma = min(max(sigma, math.nextafter(0.0, 1.0)), math.nextafter(1.0, 0.0))
    while not _reaches(sigma, delta, num_levels):
        sigma = math.nextafter(sigma, 1.0)
        if sigma >= 1.0:
            raise ValueError(
                f"no float64 sigma below 1 reaches delta={delta:g} in {num_levels} levels: use more levels"
            )
    while _reaches(smaller := math.nextafter(sigma, 0.0), delta, num_levels):
        sigma = smaller
    if endpoint_levels(sigma, delta) != num_levels:
        raise ValueError(f"no float64 sigma has exactly {num_levels} levels at delta={delta!r}: use fewer levels")
    return sigma


def _reaches(sigma: float, delta: float, num_levels: int) -> bool:
    try:
        return endpoint_levels(sigma, delta) <= num_levels
    except ValueError:
        return False


def _log_ratio(sigma: float, delta: float) -> Decimal:
    """ln δ² / ln(1−σ²): the real number of levels, to about 100 digits over the range that is accepted."""
    with localcontext() as context:
        context.prec = _DIGITS
        kept = 1 - Decimal(sigma) ** 2
        return Decimal("Infinity") if kept == 1 else 2 * Decimal(delta).ln() / kept.ln()


def _is_tie(sigma: float, delta: float, levels: int) -> bool:
    kept, limit = 1 - Fraction(sigma) ** 2, Fraction(delta) ** 2
    # (p/2^k)^L = q/2^m in lowest terms needs kL = m; only then is the power worth forming.
    if (kept.denominator.bit_length() - 1) * levels != limit.denominator.bit_length() - 1:
        return False
    return kept**levels == limit


def _check_unit(name: str, value: float, meaning: str) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name}={value!r} must lie in (0, 1): {meaning}")
