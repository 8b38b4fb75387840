"""The SDE limit: the process, its reverse, its flow, and how near a true reverse step is to a Gaussian."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from markovae.diffusion.forward import (
    noise_scale,
    posterior_coefficients,
    posterior_variance,
    signal_scale,
    step_alpha,
    step_variance,
)
from markovae.diffusion.schedule import constant, time
from markovae.randomness import generator
from markovae.theory.gaps import (
    gaussian_levels,
    leading_divergences,
    logsnr_before,
    step_divergences,
    step_slopes,
)
from markovae.theory.information import information, mean_error
from markovae.theory.mixture import Mixture, correlated_gaussian, line_mixture
from markovae.theory.quadrature import extrapolated, gauss_legendre, slope
from markovae.theory.rows import PIXELS, SDE, Line, Pair, row, rows
from markovae.theory.sde import (
    LinearVP,
    continuous_nats,
    euler,
    flow,
    flow_drift,
    logsnr_at,
    moments_at,
    reverse_euler,
    reverse_moments,
    score_of,
    simulate,
    transition,
    weak_order,
)


@row(SDE, "process.marginal", "z_t = e^{−t} z_0 + √(1−e^{−2t}) ε", 1e-12)
def marginal_at() -> Pair:
    """z_t = e^{−t} z_0 + √(1−e^{−2t}) ε: signal and noise of the log-SNR at t, largest relative difference 0."""
    t = torch.tensor([1e-4, 0.1, 0.7, 3.0], dtype=torch.float64)
    logsnr = logsnr_at(t)
    signal = (signal_scale(logsnr) * t.exp() - 1).abs()
    noise = (noise_scale(logsnr) ** 2 / -torch.expm1(-2 * t) - 1).abs()
    return 0.0, float(torch.maximum(signal, noise).max())


@row(SDE, "process.transition", "z_{t+h} = e^{−h} z_t + √(1−e^{−2h}) ε", 1e-12)
def transition_moments() -> Pair:
    """e^{−h} z and 1 − e^{−2h} in plain numbers: the larger relative difference is 0."""
    distribution = transition(torch.tensor([[1.5]], dtype=torch.float64), torch.tensor(0.3))
    h = float(torch.tensor(0.3).double())
    off = float(distribution.mean) / (1.5 * math.exp(-h)) - 1, float(distribution.variance) / (1 - math.exp(-2 * h)) - 1
    return 0.0, max(map(abs, off))


@row(SDE, "process.chain", "each step of the chain is the process", 1e-12)
def chain_is_the_process(levels: int = 200, delta: float = 0.05) -> Pair:
    """Each step of the chain is the process's transition over Δt = −½ ln(1−σ²): the largest difference is 0."""
    logsnr = constant(num_levels=levels, delta=delta).logsnr
    clock = time(logsnr)
    distribution = transition(torch.ones(levels, 1), clock.diff())
    off_mean = (distribution.mean[:, 0] - step_alpha(logsnr[:-1], logsnr[1:])).abs()
    off_variance = (distribution.variance[:, 0] - step_variance(logsnr[:-1], logsnr[1:])).abs()
    return 0.0, float(torch.maximum(off_mean, off_variance).max())


@row(SDE, "process.euler", "Δz = −z Δt + √(2Δt) ε", 1e-12)
def one_increment() -> Pair:
    """Δz = −z Δt + √(2Δt) ε of one Euler step: drift and variance, the larger relative difference is 0."""
    distribution = euler(torch.tensor([[1.5]], dtype=torch.float64), torch.tensor(0.25, dtype=torch.float64))
    return 0.0, max(
        abs((float(distribution.mean) - 1.5) / (-1.5 * 0.25) - 1), abs(float(distribution.variance) / 0.5 - 1)
    )


@row(SDE, "process.simulated", "simulated increments reach e^{−t} x and 1−e^{−2t}: within 4 standard errors", 4.0)
def increments_reach_the_marginal(seed: int = 0, count: int = 800_000, steps: int = 25, end: float = 0.7) -> Pair:
    """Simulated steps from one point against e^{−t}x and 1−e^{−2t}: the larger miss in standard errors, below 4."""
    x = torch.full((count, 1), 1.5, dtype=torch.float64)
    increments = torch.full((steps,), end / steps, dtype=torch.float64)
    *_, z = simulate(x, increments, generator(seed, "increments"), exact=True)
    mean, variance = moments_at(x[0, 0], torch.zeros((), dtype=torch.float64), increments.sum())
    off_mean = (z.mean() - mean).abs() / (variance / count).sqrt()
    off_variance = (z.var() - variance).abs() / (variance * math.sqrt(2 / count))
    return 0.0, float(torch.maximum(off_mean, off_variance))


@row(SDE, "process.order", "Euler–Maruyama's error in E z² is of order 1", 0.005)
def euler_weak_order() -> Pair:
    """Euler–Maruyama's error in E z² falls as the step: order 1."""
    return 1.0, weak_order(1.0, 0.3, 1.0, (256, 512, 1024))


@row(SDE, "reverse.drift", "reverse drift z + 2∇ln p_t", 1e-4)
def reverse_drift() -> Pair:
    """(z − E[z_{t−h}|z_t]) of the true reverse step, to first order in h, against one reverse Euler step.

    The true drift is taken at two h and extrapolated.
    """
    toy, t = line_mixture(), torch.tensor(0.6, dtype=torch.float64)
    z = torch.tensor([[0.7]], dtype=torch.float64)
    rates = []
    for h in (1e-3, 5e-4):
        before, now = logsnr_at(t - h), logsnr_at(t)
        c_z, c_x = posterior_coefficients(before, now)
        mean = c_z * z + c_x * toy.denoise(z, now)
        rates.append(float((mean - z) / h))
    width = torch.tensor(1e-3, dtype=torch.float64)
    drift = (reverse_euler(z, t, width, toy.score).mean - z) / width
    return extrapolated(rates[0], rates[1]), float(drift)


@row(SDE, "reverse.order", "the reverse SDE recovers the data with order 1", 0.009)
def reverse_weak_order(counts: tuple[int, ...] = (500, 1000, 2000)) -> Pair:
    """The same for the reverse SDE of Gaussian data, whose variance it must recover at t = 0.05."""
    mean, variance = torch.tensor(0.5, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    _, target = moments_at(mean, variance, torch.tensor(0.05, dtype=torch.float64))
    errors = []
    for count in counts:
        times = torch.linspace(3.0, 0.05, count + 1, dtype=torch.float64)
        errors.append((reverse_moments(mean, variance, times)[1] - target).abs())
    return 1.0, -slope(torch.tensor(counts), torch.stack(errors))


@row(SDE, "reverse.std", "P(z_{ℓ−1}|z_ℓ) has standard deviation σ (not variance σ)", 1e-5)
def reverse_width(logsnr: float = 1.0) -> Pair:
    """Std of the true P(z_{ℓ−1}|z_ℓ) over σ, averaged over z_ℓ, in the limit: 1. The variance is σ², not σ."""
    toy, now = line_mixture(), torch.tensor(logsnr, dtype=torch.float64)
    z, weight = toy.nodes(now.reshape(1), 300)
    covariance = toy.covariance(z[0], now)[:, 0, 0]
    ratios = []
    for sigma in (0.02, 0.01):
        before = logsnr_before(now, sigma)
        c_x = posterior_coefficients(before, now)[1]
        std = (posterior_variance(before, now) + c_x**2 * covariance).sqrt() / sigma
        ratios.append(float((weight[0] * std).sum()))
    return 1.0, extrapolated(ratios[0], ratios[1], 2)


@row(SDE, "reverse.shift", "its mean moves by σ²(z/2 + ∇ln p), small against σ", 1e-4)
def displacement(logsnr: float = 1.0) -> Pair:
    """Mean square of (E[z_{ℓ−1}|z_ℓ] − z_ℓ)/σ², in the limit, against E(z/2 + ∇ln p)²: small against the std σ."""
    toy, now = line_mixture(), torch.tensor(logsnr, dtype=torch.float64)
    z, weight = toy.nodes(now.reshape(1), 300)
    z, weight = z[0], weight[0]
    expected = float((weight * (0.5 * z + toy.score(z, now))[:, 0] ** 2).sum())
    found = []
    for sigma in (0.02, 0.01):
        c_z, c_x = posterior_coefficients(logsnr_before(now, sigma), now)
        shift = ((c_z - 1) * z + c_x * toy.denoise(z, now)) / sigma**2
        found.append(float((weight * shift[:, 0] ** 2).sum()))
    return expected, extrapolated(found[0], found[1], 2)


def step_orders(logsnr: float = 1.0) -> tuple[Pair, Pair, Pair]:
    """KL of a true step to N(z, σ²), N(μ, σ²), N(μ, v): orders 2, 4 and 6 in σ."""
    found = step_slopes(line_mixture(), torch.tensor(logsnr, dtype=torch.float64))
    return (2.0, found[0]), (4.0, found[1]), (6.0, found[2])


def step_constants(logsnr: float = 1.0, sigma: float = 0.02) -> tuple[Pair, Pair, Pair]:
    """The three KLs against their leading terms, nats: ratios 1 + O(σ²)."""
    toy, lam = line_mixture(), torch.tensor(logsnr, dtype=torch.float64)
    ratio = step_divergences(toy, lam, sigma) / leading_divergences(toy, lam, sigma)
    return (1.0, float(ratio[0])), (1.0, float(ratio[1])), (1.0, float(ratio[2]))


@rows(
    SDE,
    Line("step.order.plain", "KL( P(z_{ℓ−1}|z_ℓ) ‖ N(z_ℓ, σ²) ) ∝ σ²", 0.02),
    Line("step.order.mean", "KL( P(z_{ℓ−1}|z_ℓ) ‖ N(true mean, σ²) ) ∝ σ⁴", 0.02),
    Line("step.order.full", "KL( P(z_{ℓ−1}|z_ℓ) ‖ N(true mean, true variance) ) ∝ σ⁶", 0.02),
    Line("step.constant.plain", "KL to N(z_ℓ, σ²) / ½σ²E(z/2 + ∇ln p)² → 1", 0.003),
    Line("step.constant.mean", "KL to N(true mean, σ²) / ¼Δγ²E(C − s²)² → 1", 0.003),
    Line("step.constant.full", "KL to N(true mean, true variance) / Δγ³Eκ₃²/12 → 1", 0.003),
)
def _orders() -> Sequence[Pair]:
    return [*step_orders(), *step_constants()]


@row(SDE, "score", "∇ln p(z) = (a x̂ − z)/s²", 1e-10)
def score_is_the_gradient() -> Pair:
    """(a x̂ − z)/s² against the derivative of ln p(z_λ): the largest difference is 0."""
    toy, logsnr = line_mixture(), torch.tensor(0.8, dtype=torch.float64)
    z = torch.linspace(-2, 2, 9, dtype=torch.float64).unsqueeze(1).requires_grad_()
    gradient = torch.autograd.grad(toy.marginal(logsnr, 9).log_prob(z).sum(), z)[0]
    found = score_of(toy.denoise)(z.detach(), logsnr.expand(9))
    return 0.0, float((found - gradient).abs().max())


@row(SDE, "flow.drift", "dz/dt = −(z + ∇ln p_t)", 1e-10)
def flow_of_a_gaussian() -> Pair:
    """dz/dt of the flow keeps (z − m_t)/√v_t: against its derivative in time, N(0.5, 0.3) data."""
    mean, variance = torch.tensor(0.5, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    t = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    m, v = moments_at(mean, variance, t)
    path = m + 1.3 * v.sqrt()
    (speed,) = torch.autograd.grad(path, t)
    z = path.detach().reshape(1, 1)
    distribution = moments_at(mean, variance, t.detach())
    return float(speed), float(flow_drift(z, t.detach(), lambda at, _: (distribution[0] - at) / distribution[1]))


@row(SDE, "flow.quantiles", "the flow keeps quantiles", 1e-5)
def flow_keeps_quantiles(steps: int = 200) -> Pair:
    """The probability flow carries each quantile of p_t to the same quantile of the data: the largest slip is 0."""
    toy = line_mixture()
    times = torch.linspace(3.0, 0.01, steps + 1, dtype=torch.float64)
    start = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64).unsqueeze(1)
    end = flow(start, times, toy.score)
    before, after = (_cdf(toy, z, logsnr_at(t)) for z, t in ((start, times[0]), (end, times[-1])))
    return 0.0, float((before - after).abs().max())


def _cdf(toy: Mixture, z: Tensor, logsnr: Tensor) -> Tensor:
    noised = toy.noised(logsnr)
    unit = (z - noised.means.T) / noised.modes.variance.T.sqrt()
    return (noised.weights * torch.special.ndtr(unit)).sum(1)


@row(SDE, "vp.clock", "a VP-SDE is the process on the clock t = ½∫β", 1e-12)
def vp_clock() -> Pair:
    """t = ½∫β du of the linear VP-SDE, by quadrature."""
    process = LinearVP()
    u, weight = gauss_legendre(0.0, 0.7, 8)
    return 0.5 * float((weight * (0.1 + 19.9 * u)).sum()), float(process.time(torch.tensor(0.7, dtype=torch.float64)))


@row(SDE, "vp.steps", "½Σβ Δu → t", 1e-10)
def vp_steps() -> Pair:
    """Euler steps ½β(u)Δu of the linear VP-SDE add up to its clock: to first order, extrapolated."""
    process, totals = LinearVP(), []
    for count in (200, 400):
        totals.append(float(process.euler_steps(torch.linspace(0, 1, count + 1, dtype=torch.float64)).sum()))
    return 0.5 * (0.1 + 19.9 / 2), extrapolated(totals[0], totals[1])


@row(SDE, "continuous", "½∫mmse dγ = I(x;z_1) − I(x;z_L)", 1e-8)
def continuous_bound(first: float = 13.3, last: float = -10.0) -> Pair:
    """½∫ mmse dγ against I(x; z_1) − I(x; z_L), of a mixture, nats."""
    toy, ends = line_mixture(), torch.tensor([first, last], dtype=torch.float64)
    return information(toy, ends[0]) - information(toy, ends[1]), continuous_nats(
        lambda logsnr: mean_error(toy, logsnr), first, last
    )


@row(SDE, "continuous.gaussian", "½∫mmse dγ = ½Σ ln[(1+γ_1 s)/(1+γ_L s)]", 1e-8)
def continuous_gaussian() -> Pair:
    """½∫ E‖x − x̂‖² dγ of a Gaussian in three dimensions: ½Σ ln[(1+γ_1 s)/(1+γ_L s)]."""
    toy = correlated_gaussian()
    values = toy.modes.variance[0]
    return gaussian_levels(values, 6.0, -6.0), continuous_nats(lambda at: mean_error(toy, at), 6.0, -6.0)


def unit_variance_is_kept(variance: float = 1.0) -> Pair:
    """Variance after 100 steps of a constant-σ chain, step by step: 1 stays 1, v becomes 1 + (v − 1) a²."""
    logsnr = constant(num_levels=100, delta=0.1).logsnr
    now = variance
    for before, after in pairwise(logsnr):
        now = float(step_alpha(before, after)) ** 2 * now + float(step_variance(before, after))
    return 1 + (variance - 1) * math.exp(-2 * float(time(logsnr[-1]))), now


def unit_interval_variance(levels: int = 100) -> Tensor:
    """The largest variance data in [0, 1] can have at levels 0…L, (L+1,): 1 − ¾a_ℓ², below 1 at every level.

    No distribution on [0, 1] has more variance than a fair coin's ¼ (Popoviciu), so "about unit variance" fails at the
    data by a factor of four or more.
    """
    clock = time(constant(num_levels=levels, delta=0.1).logsnr)
    return moments_at(torch.tensor(0.5), torch.tensor(0.25, dtype=torch.float64), clock)[1]


@row(PIXELS, "variance.unit-interval", "[0,1] scaling: variance ≤ 1 − ¾a_ℓ², not 1", 1e-12)
def unit_interval() -> Pair:
    """The largest variance data in [0, 1] have at levels 0…L against 1 − ¾a_ℓ²: the largest difference is 0."""
    found = unit_interval_variance(100)
    signal = 0.01 ** (torch.arange(101, dtype=torch.float64) / 100)  # a² falls from 1 to δ² = 0.01
    # σ is a float64 whose endpoint rule returns L exactly, so a² misses δ^{2ℓ/L} by rounding alone.
    return 0.0, float((found - (1 - 0.75 * signal)).abs().max())


CHECKS = (
    marginal_at,
    transition_moments,
    chain_is_the_process,
    one_increment,
    increments_reach_the_marginal,
    euler_weak_order,
    reverse_drift,
    reverse_weak_order,
    reverse_width,
    displacement,
    _orders,
    score_is_the_gradient,
    flow_of_a_gaussian,
    flow_keeps_quantiles,
    vp_clock,
    vp_steps,
    continuous_bound,
    continuous_gaussian,
    row(PIXELS, "variance.kept", "unit variance is kept by every step", 1e-12)(lambda: unit_variance_is_kept(1.0)),
    row(PIXELS, "variance.other", "another variance v becomes 1 + (v−1) a²", 1e-12)(
        lambda: unit_variance_is_kept(0.25)
    ),
    unit_interval,
)
