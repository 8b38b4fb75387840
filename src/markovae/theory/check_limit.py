"""The SDE limit: the process, its reverse, its flow, and how near a true reverse step is to a Gaussian."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from markovae.diffusion.forward import noise_scale, posterior_coefficients, posterior_variance, signal_scale
from markovae.theory import gap_statements as claims
from markovae.theory.gaps import gaussian_levels, logsnr_before
from markovae.theory.quadrature import extrapolated, gauss_legendre
from markovae.theory.rows import PIXELS, SDE, Check, Line, Pair, single
from markovae.theory.sde import (
    LinearVP,
    continuous_nats,
    euler,
    flow_drift,
    logsnr_at,
    moments_at,
    reverse_euler,
    score_of,
    transition,
)


def transition_moments() -> Pair:
    """e^{−h} z and 1 − e^{−2h} in plain numbers: the larger relative difference is 0."""
    law = transition(torch.tensor([[1.5]], dtype=torch.float64), torch.tensor(0.3))
    h = float(torch.tensor(0.3).double())
    off = float(law.mean) / (1.5 * math.exp(-h)) - 1, float(law.variance) / (1 - math.exp(-2 * h)) - 1
    return 0.0, max(map(abs, off))


def marginal_at() -> Pair:
    """z_t = e^{−t} z_0 + √(1−e^{−2t}) ε: signal and noise of the log-SNR at t, largest relative difference 0."""
    t = torch.tensor([1e-4, 0.1, 0.7, 3.0], dtype=torch.float64)
    logsnr = logsnr_at(t)
    signal = (signal_scale(logsnr) * t.exp() - 1).abs()
    noise = (noise_scale(logsnr) ** 2 / -torch.expm1(-2 * t) - 1).abs()
    return 0.0, float(torch.maximum(signal, noise).max())


def one_increment() -> Pair:
    """Δz = −z Δt + √(2Δt) ε of one Euler step: drift and variance, the larger relative difference is 0."""
    law = euler(torch.tensor([[1.5]], dtype=torch.float64), torch.tensor(0.25, dtype=torch.float64))
    return 0.0, max(abs((float(law.mean) - 1.5) / (-1.5 * 0.25) - 1), abs(float(law.variance) / 0.5 - 1))


def reverse_drift() -> Pair:
    """(z − E[z_{t−h}|z_t]) of the true reverse step, to first order in h, against one reverse Euler step.

    The true drift is taken at two h and extrapolated.
    """
    toy, t = claims.line_mixture(), torch.tensor(0.6, dtype=torch.float64)
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


def reverse_width(logsnr: float = 1.0) -> Pair:
    """Std of the true P(z_{ℓ−1}|z_ℓ) over σ, averaged over z_ℓ, in the limit: 1. The variance is σ², not σ."""
    toy, now = claims.line_mixture(), torch.tensor(logsnr, dtype=torch.float64)
    z, weight = toy.nodes(now.reshape(1), 300)
    covariance = toy.covariance(z[0], now)[:, 0, 0]
    ratios = []
    for sigma in (0.02, 0.01):
        before = logsnr_before(now, sigma)
        c_x = posterior_coefficients(before, now)[1]
        std = (posterior_variance(before, now) + c_x**2 * covariance).sqrt() / sigma
        ratios.append(float((weight[0] * std).sum()))
    return 1.0, extrapolated(ratios[0], ratios[1], 2)


def displacement(logsnr: float = 1.0) -> Pair:
    """Mean square of (E[z_{ℓ−1}|z_ℓ] − z_ℓ)/σ², in the limit, against E(z/2 + ∇ln p)²: small against the std σ."""
    toy, now = claims.line_mixture(), torch.tensor(logsnr, dtype=torch.float64)
    z, weight = toy.nodes(now.reshape(1), 300)
    z, weight = z[0], weight[0]
    expected = float((weight * (0.5 * z + toy.score(z, now))[:, 0] ** 2).sum())
    found = []
    for sigma in (0.02, 0.01):
        c_z, c_x = posterior_coefficients(logsnr_before(now, sigma), now)
        shift = ((c_z - 1) * z + c_x * toy.denoise(z, now)) / sigma**2
        found.append(float((weight * shift[:, 0] ** 2).sum()))
    return expected, extrapolated(found[0], found[1], 2)


def score_is_the_gradient() -> Pair:
    """(a x̂ − z)/s² against the derivative of ln p(z_λ): the largest difference is 0."""
    toy, logsnr = claims.line_mixture(), torch.tensor(0.8, dtype=torch.float64)
    z = torch.linspace(-2, 2, 9, dtype=torch.float64).unsqueeze(1).requires_grad_()
    gradient = torch.autograd.grad(toy.marginal(logsnr, 9).log_prob(z).sum(), z)[0]
    found = score_of(toy.denoise)(z.detach(), logsnr.expand(9))
    return 0.0, float((found - gradient).abs().max())


def flow_of_a_gaussian() -> Pair:
    """dz/dt of the flow keeps (z − m_t)/√v_t: against its derivative in time, N(0.5, 0.3) data."""
    mean, variance = torch.tensor(0.5, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    t = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    m, v = moments_at(mean, variance, t)
    path = m + 1.3 * v.sqrt()
    (speed,) = torch.autograd.grad(path, t)
    z = path.detach().reshape(1, 1)
    law = moments_at(mean, variance, t.detach())
    return float(speed), float(flow_drift(z, t.detach(), lambda at, _: (law[0] - at) / law[1]))


def vp_clock() -> Pair:
    """t = ½∫β du of the linear VP-SDE, by quadrature."""
    process = LinearVP()
    u, weight = gauss_legendre(0.0, 0.7, 8)
    return 0.5 * float((weight * (0.1 + 19.9 * u)).sum()), float(process.time(torch.tensor(0.7, dtype=torch.float64)))


def vp_steps() -> Pair:
    """Euler steps ½β(u)Δu of the linear VP-SDE add up to its clock: to first order, extrapolated."""
    process, totals = LinearVP(), []
    for count in (200, 400):
        totals.append(float(process.euler_steps(torch.linspace(0, 1, count + 1, dtype=torch.float64)).sum()))
    return 0.5 * (0.1 + 19.9 / 2), extrapolated(totals[0], totals[1])


def continuous_gaussian() -> Pair:
    """½∫ E‖x − x̂‖² dγ of a Gaussian in three dimensions: ½Σ ln[(1+γ_1 s)/(1+γ_L s)]."""
    toy = claims.correlated_gaussian()
    values = toy.modes.variance[0]
    return gaussian_levels(values, 6.0, -6.0), continuous_nats(lambda at: claims.mean_error(toy, at), 6.0, -6.0)


def unit_interval() -> Pair:
    """The largest variance data in [0, 1] have at levels 0…L against 1 − ¾a_ℓ²: the largest difference is 0."""
    found = claims.unit_interval_variance(100)
    signal = 0.01 ** (torch.arange(101, dtype=torch.float64) / 100)  # a² falls from 1 to δ² = 0.01
    # σ is a float64 whose endpoint rule returns L exactly, so a² misses δ^{2ℓ/L} by rounding alone.
    return 0.0, float((found - (1 - 0.75 * signal)).abs().max())


def _orders() -> Sequence[Pair]:
    return [*claims.step_orders(), *claims.step_constants()]


_STEP = Check(
    SDE,
    (
        Line("step.order.plain", "KL( P(z_{ℓ−1}|z_ℓ) ‖ N(z_ℓ, σ²) ) ∝ σ²", 0.02),
        Line("step.order.mean", "KL( P(z_{ℓ−1}|z_ℓ) ‖ N(true mean, σ²) ) ∝ σ⁴", 0.02),
        Line("step.order.full", "KL( P(z_{ℓ−1}|z_ℓ) ‖ N(true mean, true variance) ) ∝ σ⁶", 0.02),
        Line("step.constant.plain", "KL to N(z_ℓ, σ²) / ½σ²E(z/2 + ∇ln p)² → 1", 0.003),
        Line("step.constant.mean", "KL to N(true mean, σ²) / ¼Δγ²E(C − s²)² → 1", 0.003),
        Line("step.constant.full", "KL to N(true mean, true variance) / Δγ³Eκ₃²/12 → 1", 0.003),
    ),
    _orders,
)
CHECKS = (
    single(SDE, "process.marginal", "z_t = e^{−t} z_0 + √(1−e^{−2t}) ε", 1e-12, marginal_at),
    single(SDE, "process.transition", "z_{t+h} = e^{−h} z_t + √(1−e^{−2h}) ε", 1e-12, transition_moments),
    single(SDE, "process.chain", "each step of the chain is the process", 1e-12, claims.chain_is_the_process),
    single(SDE, "process.euler", "Δz = −z Δt + √(2Δt) ε", 1e-12, one_increment),
    single(
        SDE,
        "process.simulated",
        "simulated increments reach e^{−t} x and 1−e^{−2t}: within 4 standard errors",
        4.0,
        lambda: claims.increments_reach_the_marginal(count=800_000, steps=25),
    ),
    single(SDE, "process.order", "Euler–Maruyama's error in E z² is of order 1", 0.005, claims.euler_weak_order),
    single(SDE, "reverse.drift", "reverse drift z + 2∇ln p_t", 1e-4, reverse_drift),
    single(SDE, "reverse.order", "the reverse SDE recovers the data with order 1", 0.009, claims.reverse_weak_order),
    single(SDE, "reverse.std", "P(z_{ℓ−1}|z_ℓ) has standard deviation σ (not variance σ)", 1e-5, reverse_width),
    single(SDE, "reverse.shift", "its mean moves by σ²(z/2 + ∇ln p), small against σ", 1e-4, displacement),
    _STEP,
    single(SDE, "score", "∇ln p(z) = (a x̂ − z)/s²", 1e-10, score_is_the_gradient),
    single(SDE, "flow.drift", "dz/dt = −(z + ∇ln p_t)", 1e-10, flow_of_a_gaussian),
    single(SDE, "flow.quantiles", "the flow keeps quantiles", 1e-5, claims.flow_keeps_quantiles),
    single(SDE, "vp.clock", "a VP-SDE is the process on the clock t = ½∫β", 1e-12, vp_clock),
    single(SDE, "vp.steps", "½Σβ Δu → t", 1e-10, vp_steps),
    single(SDE, "continuous", "½∫mmse dγ = I(x;z_1) − I(x;z_L)", 1e-8, claims.continuous_bound),
    single(SDE, "continuous.gaussian", "½∫mmse dγ = ½Σ ln[(1+γ_1 s)/(1+γ_L s)]", 1e-8, continuous_gaussian),
    single(PIXELS, "variance.kept", "unit variance is kept by every step", 1e-12, claims.unit_variance_is_kept),
    single(
        PIXELS,
        "variance.other",
        "another variance v becomes 1 + (v−1) a²",
        1e-12,
        lambda: claims.unit_variance_is_kept(0.25),
    ),
    single(PIXELS, "variance.unit-interval", "[0,1] scaling: variance ≤ 1 − ¾a_ℓ², not 1", 1e-12, unit_interval),
)
