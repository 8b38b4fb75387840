"""Beyond the slides: how far a bound of L levels lies above the truth, and information from estimation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from markovae.diffusion.pixels import Pixels
from markovae.diffusion.reverse import StepVariance
from markovae.diffusion.schedule import LogSNRLinear, NoiseSchedule, constant
from markovae.randomness import Source, generator
from markovae.theory.exact_chain import ExactChain
from markovae.theory.gaps import (
    POINT_LIMIT,
    SMOOTH_LIMIT,
    ByVariance,
    gaussian_exact,
    measured,
    point_gap,
    predicted,
    smooth_gap,
)
from markovae.theory.information import entropy_by_errors, nats_by_errors
from markovae.theory.mixture import Mixture, Toy, correlated_gaussian, line_mixture
from markovae.theory.pixel_mixture import DigitMixture
from markovae.theory.quadrature import extrapolated, slope
from markovae.theory.rows import GAP, TRUTH, Check, Line, Pair, row, rows

KINDS = {
    "step": "variance σ²",
    "posterior": "variance β̃",
    "isotropic": "best isotropic",
    "level_diagonal": "best diagonal a level",
    "diagonal": "best diagonal given z",
    "full": "full covariance",
}
_COARSE = tuple(name for name in KINDS if name != "full")
_LINE = ("step", "posterior", "isotropic", "full")
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


def exact_gaps(schedule: NoiseSchedule) -> Sequence[Pair]:
    """The closed formula and the gap measured by E6 of a correlated Gaussian, one pair a variance, nats."""
    toy, logsnr = correlated_gaussian(), schedule.logsnr[1:]
    covariance = toy.modes.matrix(toy.modes.variance.unsqueeze(0))[0, 0]
    exact, found = gaussian_exact(covariance, logsnr).total(), measured(toy, logsnr)
    return [(float(getattr(exact, name)), float(getattr(found, name))) for name in KINDS]


def _law_lines(data: str, names: Sequence[str], tolerance: float) -> tuple[Line, ...]:
    word = "Gaussian" if data == "gaussian" else data
    return tuple(
        Line(f"gap.law.{data}.{name}", f"{word} gap over its law, {KINDS[name]}, {_LAWS[name]} → 1", tolerance)
        for name in names
    )


def limit_ratios(toy: Mixture, levels: int) -> ByVariance:
    """Measured gap over its law, extrapolated from L and 2L levels to infinitely many: 1 wherever there is a law."""

    def ratios(count: int) -> ByVariance:
        logsnr = LogSNRLinear(count).logsnr[1:]
        law = predicted(toy, logsnr, centred=True)
        return ByVariance(*[m / getattr(law, name) for name, m in vars(measured(toy, logsnr)).items()])

    coarse, fine = vars(ratios(levels)), vars(ratios(2 * levels))
    return ByVariance(*[2 * fine[name] - coarse[name] for name in fine])


@rows(GAP, *_law_lines("gaussian", _COARSE, 0.003))
def gaussian_limits() -> Sequence[Pair]:
    """Measured over predicted gap as L → ∞ of Gaussian data, all variances but the full one: 1."""
    ratios = limit_ratios(correlated_gaussian(), 512)
    return [(1.0, float(getattr(ratios, name))) for name in _COARSE]


@rows(GAP, *_law_lines("mixture", _LINE, 0.005))
def mixture_limits() -> Sequence[Pair]:
    """The same of a mixture on the line; there the best diagonal given z is the full covariance."""
    ratios = limit_ratios(line_mixture(), 160)
    return [(1.0, float(getattr(ratios, name))) for name in _LINE]


def _slope(gaps: Sequence[ByVariance], levels: Sequence[int], name: str) -> float:
    values = torch.stack([getattr(gap, name) for gap in gaps])
    return float(torch.tensor(slope(torch.tensor(levels), values)))  # float32: seven digits of a fitted slope


@rows(
    GAP,
    Line("gap.slope.posterior", "the gap under β̃ falls as 1/L", 0.005),
    Line("gap.slope.isotropic", "the gap under the best isotropic variance falls as 1/L", 0.005),
    Line("gap.slope.full", "the gap under the full covariance falls as 1/L²", 0.005),
)
def mixture_slopes() -> Sequence[Pair]:
    """Slopes in L on grids even in log-SNR, extrapolated: β̃ and isotropic −1, full −2."""
    toy, counts = line_mixture(), (96, 192, 384)
    gaps = [measured(toy, LogSNRLinear(count).logsnr[1:]) for count in counts]
    return [
        (expected, extrapolated(_slope(gaps[:2], counts[:2], name), _slope(gaps[1:], counts[1:], name)))
        for expected, name in ((-1.0, "posterior"), (-1.0, "isotropic"), (-2.0, "full"))
    ]


@row(GAP, "gap.slope.constant", "… and at constant σ too", 0.015)
def constant_slope() -> Pair:
    """The slope of the full covariance's gap at constant σ, extrapolated from L = 1024, 2048 and 4096: −2."""
    toy, counts = line_mixture(), (1024, 2048, 4096)
    gaps = [measured(toy, constant(num_levels=count, delta=0.05).logsnr[1:], 160) for count in counts]
    return -2.0, extrapolated(_slope(gaps[:2], counts[:2], "full"), _slope(gaps[1:], counts[1:], "full"))


@row(GAP, "gap.trap.smooth", "constant σ, β̃, smooth data: ½γ_Euler = 0.2886 nats/dim stay", 2e-4)
def smooth_trap() -> Pair:
    """β̃ at constant σ on smooth data: ½γ_Euler = 0.2886 nats/dim, from L and 2L levels."""
    return SMOOTH_LIMIT, extrapolated(smooth_gap(20_000, 0.01), smooth_gap(40_000, 0.01))


@row(GAP, "gap.trap.points", "constant σ, σ², points: ½(1−γ_Euler) = 0.2114 nats/dim stay", 2e-4)
def point_trap() -> Pair:
    """σ² at constant σ on point masses: ½(1 − γ_Euler) = 0.2114 nats/dim, from L and 2L levels."""
    coarse, fine = (point_gap(StepVariance(), constant(num_levels=n, delta=0.01).logsnr[1:]) for n in (20_000, 40_000))
    return POINT_LIMIT, extrapolated(coarse, fine)


def exact_chain_nats(toy: Toy, levels: int = 100, batch: int = 16, seed: int = 0) -> Pair:
    """Every path of the true reverse chain costs −ln p(x): the largest difference a dimension is 0."""
    chain, source = ExactChain(toy, LogSNRLinear(levels)), generator(seed, "paths")
    x = toy.sample(batch, source)
    return 0.0, float((path_nats(chain, x, source) + toy.log_prob(x)).abs().max()) / toy.dims


def path_nats(chain: ExactChain, x: Tensor, source: Source) -> Tensor:
    """−ln [ p(z_0…z_L) / q(z_1…z_L|z_0) ] along one path from each x, (B,), nats."""
    path = chain.encode(x, source)
    nats = -chain.prior_top(len(x)).log_prob(path[-1])
    for level in range(1, chain.num_levels + 1):
        nats = nats - chain.prior_step(path[level], level).log_prob(path[level - 1])
        nats = nats + chain.encoder_step(path[level - 1], level).log_prob(path[level])
    return nats


@row(TRUTH, "exact.digits", "… and of digits, −ln P(x)", 1e-10)
def digit_paths() -> Pair:
    """Every path of the true reverse chain of digits costs −ln P(x): the largest difference a dimension is 0."""
    means = torch.tensor([[0.3, -0.3], [-0.5, 0.5]])
    pixels = Pixels(8)
    return exact_chain_nats(
        DigitMixture.discretised(torch.tensor([0.4, 0.6]), means, torch.full((2, 2), 0.2), pixels), 30
    )


@row(TRUTH, "i-mmse", "H(x) = (d/2)ln 2πe − ½∫[d/(1+γ) − mmse(γ)]dγ", 1e-8)
def entropy_from_errors() -> Pair:
    """I-MMSE: the entropy of a mixture from its denoiser's mean error, nats."""
    toy = line_mixture()
    return toy.entropy(), entropy_by_errors(toy)


@row(TRUTH, "i-mmse.point", "−ln p(x) = (d/2)ln 2πe − ½∫[d/(1+γ) − mmse(x,γ)]dγ", 1e-8)
def nats_from_errors() -> Pair:
    """I-MMSE at a point: −ln p(x) from the denoiser's error there, nats."""
    toy, point = line_mixture(), torch.tensor([[0.7]], dtype=torch.float64)
    return -float(toy.log_prob(point)), float(nats_by_errors(toy, point))


CHECKS = (
    Check(GAP, _exact_lines("even", "even log-SNR"), lambda: exact_gaps(LogSNRLinear(60))),
    Check(GAP, _exact_lines("constant", "constant σ"), lambda: exact_gaps(constant(num_levels=300, delta=0.01))),
    gaussian_limits,
    mixture_limits,
    mixture_slopes,
    constant_slope,
    smooth_trap,
    point_trap,
    row(TRUTH, "exact.mixture", "with the true P(z_{ℓ−1}|z_ℓ) of a mixture every path costs −ln p(x)", 1e-10)(
        lambda: exact_chain_nats(line_mixture())
    ),
    digit_paths,
    entropy_from_errors,
    nats_from_errors,
)
