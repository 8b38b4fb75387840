r"""The statements of the limit, the toys and the gaps as numbers: each function returns (expected, measured).

Small, without training and without noise unless a seed is named; a check and a test call the same function.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from markovae.diffusion.forward import step_alpha, step_variance
from markovae.diffusion.reverse import StepVariance
from markovae.diffusion.schedule import LogSNRLinear, constant, time
from markovae.randomness import Source, generator
from markovae.theory.exact_chain import ExactChain
from markovae.theory.gaps import (
    POINT_LIMIT,
    SMOOTH_LIMIT,
    ByVariance,
    gaussian_exact,
    leading_divergences,
    measured,
    point_gap,
    predicted,
    smooth_gap,
    step_divergences,
    step_slopes,
)
from markovae.theory.information import entropy_by_errors, information, mean_error, nats_by_errors
from markovae.theory.mixture import Mixture, Toy
from markovae.theory.quadrature import extrapolated, slope
from markovae.theory.sde import (
    continuous_nats,
    flow,
    logsnr_at,
    moments_at,
    reverse_moments,
    simulate,
    transition,
    weak_order,
)

Pair = tuple[float, float]


def line_mixture() -> Mixture:
    """Three unequal components on the line: skewed, and of no unit variance."""
    return Mixture.line([0.3, 0.5, 0.2], [-1.2, 0.1, 1.1], [0.4, 0.5, 0.3])


def correlated_gaussian() -> Mixture:
    """A Gaussian in three dimensions whose axes are not its coordinates."""
    covariance = torch.tensor([[1.0, 0.4, 0.1], [0.4, 0.5, -0.1], [0.1, -0.1, 0.08]], dtype=torch.float64)
    return Mixture.gaussian(torch.tensor([0.3, -0.2, 0.1]), covariance)


# -- the SDE limit ---------------------------------------------------------------------------------------------


def chain_is_the_process(levels: int = 200, delta: float = 0.05) -> Pair:
    """Each step of the chain is the process's transition over Δt = −½ ln(1−σ²): the largest difference is 0."""
    logsnr = constant(num_levels=levels, delta=delta).logsnr
    clock = time(logsnr)
    law = transition(torch.ones(levels, 1), clock.diff())
    off_mean = (law.mean[:, 0] - step_alpha(logsnr[:-1], logsnr[1:])).abs()
    off_variance = (law.variance[:, 0] - step_variance(logsnr[:-1], logsnr[1:])).abs()
    return 0.0, float(torch.maximum(off_mean, off_variance).max())


def increments_reach_the_marginal(seed: int = 0, count: int = 40_000, steps: int = 50, end: float = 0.7) -> Pair:
    """Simulated steps from one point against e^{−t}x and 1−e^{−2t}: the larger miss in standard errors, below 4."""
    x = torch.full((count, 1), 1.5, dtype=torch.float64)
    increments = torch.full((steps,), end / steps, dtype=torch.float64)
    *_, z = simulate(x, increments, generator(seed, "increments"), exact=True)
    mean, variance = moments_at(x[0, 0], torch.zeros((), dtype=torch.float64), increments.sum())
    off_mean = (z.mean() - mean).abs() / (variance / count).sqrt()
    off_variance = (z.var() - variance).abs() / (variance * math.sqrt(2 / count))
    return 0.0, float(torch.maximum(off_mean, off_variance))


def euler_weak_order() -> Pair:
    """Euler–Maruyama's error in E z² falls as the step: order 1."""
    return 1.0, weak_order(1.0, 0.3, 1.0, (256, 512, 1024))


def reverse_weak_order(counts: tuple[int, ...] = (500, 1000, 2000)) -> Pair:
    """The same for the reverse SDE of Gaussian data, whose variance it must recover at t = 0.05."""
    mean, variance = torch.tensor(0.5, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    _, target = moments_at(mean, variance, torch.tensor(0.05, dtype=torch.float64))
    errors = []
    for count in counts:
        times = torch.linspace(3.0, 0.05, count + 1, dtype=torch.float64)
        errors.append((reverse_moments(mean, variance, times)[1] - target).abs())
    return 1.0, -slope(torch.tensor(counts), torch.stack(errors))


def flow_keeps_quantiles(steps: int = 200) -> Pair:
    """The probability flow carries each quantile of p_t to the same quantile of the data: the largest slip is 0."""
    toy = line_mixture()
    times = torch.linspace(3.0, 0.01, steps + 1, dtype=torch.float64)
    start = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64).unsqueeze(1)
    end = flow(start, times, toy.score)
    before, after = (_cdf(toy, z, logsnr_at(t)) for z, t in ((start, times[0]), (end, times[-1])))
    return 0.0, float((before - after).abs().max())


def continuous_bound(first: float = 13.3, last: float = -10.0) -> Pair:
    """½∫ mmse dγ against I(x; z_1) − I(x; z_L), of a mixture, nats."""
    toy, ends = line_mixture(), torch.tensor([first, last], dtype=torch.float64)
    return information(toy, ends[0]) - information(toy, ends[1]), continuous_nats(
        lambda logsnr: mean_error(toy, logsnr), first, last
    )


def unit_variance_is_kept(variance: float = 1.0) -> Pair:
    """Variance after 100 steps of a constant-σ chain, step by step: 1 stays 1, v becomes 1 + (v − 1) a²."""
    logsnr = constant(num_levels=100, delta=0.1).logsnr
    now = variance
    for before, after in pairwise(logsnr):
        now = float(step_alpha(before, after)) ** 2 * now + float(step_variance(before, after))
    return 1 + (variance - 1) * math.exp(-2 * float(time(logsnr[-1]))), now


def unit_interval_variance(levels: int = 100) -> Tensor:
    """The largest variance data in [0, 1] can have at levels 0…L, (L+1,): 1 − ¾a_ℓ², below 1 at every level.

    No law on [0, 1] has more variance than a fair coin's ¼ (Popoviciu), so "about unit variance" fails at the data
    by a factor of four or more.
    """
    clock = time(constant(num_levels=levels, delta=0.1).logsnr)
    return moments_at(torch.tensor(0.5), torch.tensor(0.25, dtype=torch.float64), clock)[1]


# -- the toys --------------------------------------------------------------------------------------------------


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


def entropy_from_errors() -> Pair:
    """I-MMSE: the entropy of a mixture from its denoiser's mean error, nats."""
    toy = line_mixture()
    return toy.entropy(), entropy_by_errors(toy)


def nats_from_errors(x: float = 0.7) -> Pair:
    """I-MMSE at a point: −ln p(x) from the denoiser's error there, nats."""
    toy, point = line_mixture(), torch.tensor([[x]], dtype=torch.float64)
    return -float(toy.log_prob(point)), float(nats_by_errors(toy, point))


# -- the gaps --------------------------------------------------------------------------------------------------


def gaussian_gaps(logsnr: Tensor) -> tuple[ByVariance, ByVariance]:
    """(exact formulas, measured by E6) of a correlated Gaussian on any grid λ_1…λ_L, nats."""
    toy = correlated_gaussian()
    covariance = toy.modes.matrix(toy.modes.variance.unsqueeze(0))[0, 0]
    return gaussian_exact(covariance, logsnr).total(), measured(toy, logsnr)


def law_ratios(toy: Mixture, levels: int, start: float = 13.3, end: float = -10.0, *, centred: bool) -> ByVariance:
    """Measured gap over predicted, for each reverse variance; nan where there is no gap (a Gaussian's `full`)."""
    logsnr = LogSNRLinear(levels, start, end).logsnr[1:]
    law = predicted(toy, logsnr, centred=centred)
    return ByVariance(*[m / getattr(law, name) for name, m in vars(measured(toy, logsnr)).items()])


def limit_ratios(toy: Mixture, levels: int = 256) -> ByVariance:
    """Measured gap over its law, extrapolated from L and 2L levels to infinitely many: 1 wherever there is a law."""
    coarse, fine = (vars(law_ratios(toy, n, centred=True)) for n in (levels, 2 * levels))
    return ByVariance(*[2 * fine[name] - coarse[name] for name in fine])


def gap_slopes(toy: Mixture, levels: tuple[int, ...] = (256, 512, 1024)) -> ByVariance:
    """The slopes in L of the measured gaps on a log-SNR-linear grid: −1, and −2 for the full covariance."""
    return _slopes(levels, [measured(toy, LogSNRLinear(count).logsnr[1:]) for count in levels])


def constant_sigma_slopes(
    toy: Mixture, levels: tuple[int, ...] = (2048, 4096, 8192), delta: float = 0.05, count: int = 300
) -> ByVariance:
    """The same at constant σ with δ fixed: −2 for the full covariance; β̃ has none, for it keeps ½γ_Euler."""
    grids = [constant(num_levels=n, delta=delta).logsnr[1:] for n in levels]
    return _slopes(levels, [measured(toy, logsnr, count) for logsnr in grids])


def smooth_trap(levels: int = 20_000, delta: float = 0.01) -> Pair:
    """β̃ at constant σ on smooth data: ½γ_Euler = 0.2886 nats/dim, from L and 2L levels."""
    return SMOOTH_LIMIT, extrapolated(smooth_gap(levels, delta), smooth_gap(2 * levels, delta))


def point_trap(levels: int = 20_000, delta: float = 0.01) -> Pair:
    """σ² at constant σ on point masses: ½(1 − γ_Euler) = 0.2114 nats/dim, from L and 2L levels."""
    coarse, fine = (
        point_gap(StepVariance(), constant(num_levels=n, delta=delta).logsnr[1:]) for n in (levels, 2 * levels)
    )
    return POINT_LIMIT, extrapolated(coarse, fine)


def step_orders(logsnr: float = 1.0) -> tuple[Pair, Pair, Pair]:
    """KL of a true step to N(z, σ²), N(μ, σ²), N(μ, v): orders 2, 4 and 6 in σ."""
    found = step_slopes(line_mixture(), torch.tensor(logsnr, dtype=torch.float64))
    return (2.0, found[0]), (4.0, found[1]), (6.0, found[2])


def step_constants(logsnr: float = 1.0, sigma: float = 0.02) -> tuple[Pair, Pair, Pair]:
    """The three KLs against their leading terms, nats: ratios 1 + O(σ²)."""
    toy, lam = line_mixture(), torch.tensor(logsnr, dtype=torch.float64)
    ratio = step_divergences(toy, lam, sigma) / leading_divergences(toy, lam, sigma)
    return (1.0, float(ratio[0])), (1.0, float(ratio[1])), (1.0, float(ratio[2]))


def _slopes(levels: tuple[int, ...], gaps: list[ByVariance]) -> ByVariance:
    def fitted(name: str) -> Tensor:
        values = torch.stack([getattr(gap, name) for gap in gaps])
        # A Gaussian has no gap under its full covariance: what is left is rounding, and has no slope.
        return torch.tensor(slope(torch.tensor(levels), values) if bool((values > 1e-12).all()) else math.nan)

    return ByVariance(*[fitted(name) for name in vars(gaps[0])])


def _cdf(toy: Mixture, z: Tensor, logsnr: Tensor) -> Tensor:
    noised = toy.noised(logsnr)
    unit = (z - noised.means.T) / noised.modes.variance.T.sqrt()
    return (noised.weights * torch.special.ndtr(unit)).sum(1)
