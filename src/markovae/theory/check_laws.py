"""Beyond the slides: how far a bound of L levels lies above the truth, and information from estimation."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from markovae.diffusion.pixels import Pixels
from markovae.diffusion.schedule import LogSNRLinear, NoiseSchedule, constant
from markovae.theory import gap_statements as claims
from markovae.theory.gaps import ByVariance
from markovae.theory.pixel_mixture import DigitMixture
from markovae.theory.quadrature import extrapolated
from markovae.theory.rows import GAP, TRUTH, Check, Line, Pair, single

KINDS = {
    "step": "variance σ²",
    "posterior": "variance β̃",
    "isotropic": "best isotropic",
    "level_diagonal": "best diagonal a level",
    "diagonal": "best diagonal given z",
    "full": "full covariance",
}


def exact_gaps(schedule: NoiseSchedule) -> Sequence[Pair]:
    """The closed formula and the measured gap of a correlated Gaussian, one pair a variance, nats."""
    return _pairs(*claims.gaussian_gaps(schedule.logsnr[1:]))


def gaussian_limits() -> Sequence[Pair]:
    """Measured over predicted gap as L → ∞ of Gaussian data, all variances but the full one: 1."""
    ratios = claims.limit_ratios(claims.correlated_gaussian(), 512)
    return [(1.0, float(getattr(ratios, name))) for name in _COARSE]


def mixture_limits() -> Sequence[Pair]:
    """The same of a mixture on the line; there the best diagonal given z is the full covariance."""
    ratios = claims.limit_ratios(claims.line_mixture(), 160)
    return [(1.0, float(getattr(ratios, name))) for name in ("step", "posterior", "isotropic", "full")]


def mixture_slopes() -> Sequence[Pair]:
    """Slopes in L on grids even in log-SNR, extrapolated: β̃ and isotropic −1, full −2."""
    toy = claims.line_mixture()
    coarse, fine = (claims.gap_slopes(toy, (count, 2 * count)) for count in (96, 192))
    return [
        (expected, extrapolated(float(getattr(coarse, name)), float(getattr(fine, name))))
        for expected, name in ((-1.0, "posterior"), (-1.0, "isotropic"), (-2.0, "full"))
    ]


def constant_slope() -> Pair:
    """The slope of the full covariance's gap at constant σ, extrapolated from L = 1024, 2048 and 4096: −2."""
    toy = claims.line_mixture()
    slopes = [float(claims.constant_sigma_slopes(toy, (n, 2 * n), count=160).full) for n in (1024, 2048)]
    return -2.0, extrapolated(slopes[0], slopes[1])


def digit_paths() -> Pair:
    """Every path of the true reverse chain of digits costs −ln P(x): the largest difference a dimension is 0."""
    means = torch.tensor([[0.3, -0.3], [-0.5, 0.5]])
    pixels = Pixels(8)
    return claims.exact_chain_nats(
        DigitMixture.discretised(torch.tensor([0.4, 0.6]), means, torch.full((2, 2), 0.2), pixels), 30
    )


def _pairs(expected: ByVariance, measured: ByVariance) -> list[Pair]:
    return [(float(getattr(expected, name)), float(getattr(measured, name))) for name in KINDS]


_COARSE = [name for name in KINDS if name != "full"]
_LAWS = {
    "step": "¼Δγ² E tr(C − 1/(1+γ))²",
    "posterior": "¼Δγ² E tr C²",
    "isotropic": "¼Δγ²(E tr C² − d c̄²)",
    "level_diagonal": "¼Δγ²(E tr C² − Σ(E C_ii)²)",
    "diagonal": "¼Δγ² E[tr C² − ΣC_ii²]",
    "full": "Δγ³ Eκ₃²/12",
}
_EXACT = {
    "step": "½Σ[w − ln(1+w)]",
    "posterior": "½Σ[u − ln(1+u)]",
    "isotropic": "½[d ln(1+ū) − Σln(1+u)]",
    "level_diagonal": "½Σ[ln(1+Δγ C_ii) − ln(1+u)]",
    "diagonal": "½Σ[ln(1+Δγ C_ii) − ln(1+u)]",
    "full": "0",
}


def _exact_lines(where: str, words: str) -> tuple[Line, ...]:
    return tuple(
        Line(f"gap.exact.{where}.{name}", f"Gaussian gap, {KINDS[name]}, {words}: {_EXACT[name]}", 1e-9)
        for name in KINDS
    )


CHECKS = (
    Check(GAP, _exact_lines("even", "even log-SNR"), lambda: exact_gaps(LogSNRLinear(60))),
    Check(GAP, _exact_lines("constant", "constant σ"), lambda: exact_gaps(constant(num_levels=300, delta=0.01))),
    Check(
        GAP,
        tuple(
            Line(f"gap.law.gaussian.{name}", f"Gaussian gap over its law, {KINDS[name]}, {_LAWS[name]} → 1", 0.003)
            for name in _COARSE
        ),
        gaussian_limits,
    ),
    Check(
        GAP,
        tuple(
            Line(f"gap.law.mixture.{name}", f"mixture gap over its law, {KINDS[name]}, {_LAWS[name]} → 1", 0.005)
            for name in ("step", "posterior", "isotropic", "full")
        ),
        mixture_limits,
    ),
    Check(
        GAP,
        (
            Line("gap.slope.posterior", "the gap under β̃ falls as 1/L", 0.005),
            Line("gap.slope.isotropic", "the gap under the best isotropic variance falls as 1/L", 0.005),
            Line("gap.slope.full", "the gap under the full covariance falls as 1/L²", 0.005),
        ),
        mixture_slopes,
    ),
    single(GAP, "gap.slope.constant", "… and at constant σ too", 0.015, constant_slope),
    single(
        GAP, "gap.trap.smooth", "constant σ, β̃, smooth data: ½γ_Euler = 0.2886 nats/dim stay", 2e-4, claims.smooth_trap
    ),
    single(
        GAP, "gap.trap.points", "constant σ, σ², points: ½(1−γ_Euler) = 0.2114 nats/dim stay", 2e-4, claims.point_trap
    ),
    single(
        TRUTH,
        "exact.mixture",
        "with the true P(z_{ℓ−1}|z_ℓ) of a mixture every path costs −ln p(x)",
        1e-10,
        lambda: claims.exact_chain_nats(claims.line_mixture()),
    ),
    single(TRUTH, "exact.digits", "… and of digits, −ln P(x)", 1e-10, digit_paths),
    single(TRUTH, "i-mmse", "H(x) = (d/2)ln 2πe − ½∫[d/(1+γ) − mmse(γ)]dγ", 1e-8, claims.entropy_from_errors),
    single(TRUTH, "i-mmse.point", "−ln p(x) = (d/2)ln 2πe − ½∫[d/(1+γ) − mmse(x,γ)]dγ", 1e-8, claims.nats_from_errors),
)
