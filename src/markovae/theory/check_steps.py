"""DDPM's encoder and the Gaussian arithmetic below it: scales, steps, schedules, the endpoint rule, densities."""

from __future__ import annotations

import math
import random
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import pairwise

import torch
from torch import Tensor

from markovae.diffusion import forward
from markovae.diffusion.forward import (
    marginal,
    noise_scale,
    noised,
    posterior_variance,
    signal_scale,
    step_alpha,
    step_variance,
)
from markovae.diffusion.gaussian import FullGaussian, Gaussian
from markovae.diffusion.objective import nats_weight
from markovae.diffusion.reverse import PosteriorVariance
from markovae.diffusion.schedule import LogSNRLinear, constant, cosine, endpoint_levels, endpoint_sigma, linear, time
from markovae.diffusion.target import TARGETS
from markovae.randomness import generator
from markovae.theory.quadrature import even_grid, normal_grid
from markovae.theory.rows import DDPM, REWRITING, Line, Pair, row, rows

_ROUNDING = 1e-12


def grid() -> Tensor:
    """λ_0…λ_20 of the constant σ that leaves 5 % of the signal."""
    return constant(num_levels=20, delta=0.05).logsnr


def _steps() -> list[tuple[Tensor, Tensor]]:
    levels = grid()
    return list(pairwise(levels[1:]))


def _draws(count: int) -> tuple[Tensor, ...]:
    return torch.randn(count, 8, 3, generator=generator(0, "statements", count), dtype=torch.float64).unbind()


def _apart(one: Tensor, other: Tensor) -> float:
    return float(((one - other).abs() / (1 + other.abs())).max())


@row(DDPM, "density", "∫N(x;μ,v)dx = 1, ∫(x−μ)²N(x;μ,v)dx = v", _ROUNDING)
def normal_density() -> Pair:
    """∫ N = 1 and ∫ (x−μ)² N = v: the larger difference is 0."""
    x, weight = _grid()
    distribution = Gaussian(torch.full_like(x, 0.3)[:, None], torch.full_like(x, 0.6)[:, None])
    density = weight * distribution.log_prob(x[:, None]).exp()
    return 0.0, max(abs(float(density.sum()) - 1), abs(float((density * (x - 0.3) ** 2).sum()) - 0.6))


@row(DDPM, "kl", "KL = ½[v/v' − 1 − ln v/v' + (μ−μ')²/v'] = ∫p ln p/q", _ROUNDING)
def normal_divergence() -> Pair:
    """KL of two Gaussians in closed form, and as ∫ p (ln p − ln q), nats."""
    x, weight = _grid()
    p, q = (_wide(x, mean, variance) for mean, variance in ((0.3, 0.6), (-0.1, 0.9)))
    one, other = p.log_prob(x[:, None]), q.log_prob(x[:, None])
    return float((weight * one.exp() * (one - other)).sum()), float(p.kl(q)[0])


@row(DDPM, "density.full", "N(μ, V) along the axes of V is a product of Gaussians", _ROUNDING)
def full_density() -> Pair:
    """A full covariance along its own axes: log-densities and KL against independent Gaussians, largest difference."""
    g = generator(0, "full")
    root = torch.randn(2, 3, 3, generator=g, dtype=torch.float64)
    axes, mean = torch.linalg.qr(root[0])[0], root[1, :1]
    x = torch.randn(5, 3, generator=g, dtype=torch.float64)
    variance, other = torch.tensor([0.5, 1.2, 2.0]).double(), torch.tensor([0.7, 1.0, 0.4]).double()
    full, flat = FullGaussian(mean.expand(5, 3), (axes * variance) @ axes.T), Gaussian(mean @ axes, variance)
    off = (full.log_prob(x) - Gaussian((mean @ axes).expand(5, 3), variance).log_prob(x @ axes)).abs().max()
    second = FullGaussian(torch.zeros(5, 3).double(), (axes * other) @ axes.T)
    kl = full.kl(second)[0] - flat.kl(Gaussian(torch.zeros(1, 3).double(), other))[0]
    return 0.0, max(float(off), float(kl.abs()))


def _grid() -> tuple[Tensor, Tensor]:
    end = torch.tensor(12.0, dtype=torch.float64)
    return even_grid(-end, end, 400)


def _wide(x: Tensor, mean: float, variance: float) -> Gaussian:
    return Gaussian(torch.full_like(x, mean)[:, None], torch.full_like(x, variance)[:, None])


@row(DDPM, "scales", "a = √sigmoid(λ), s = √sigmoid(−λ), a² + s² = 1, a²/s² = e^λ", _ROUNDING)
def scales() -> Pair:
    """a = (1 + e^{−λ})^{−½} and s = (1 + e^λ)^{−½}, so a² + s² = 1 and a²/s² = e^λ: largest relative difference 0."""
    worst = 0.0
    for value in (-12.0, -3.5, 0.0, 1.7, 8.0, 13.3):
        at = torch.tensor(value, dtype=torch.float64)
        a, s = (1 + math.exp(-value)) ** -0.5, (1 + math.exp(value)) ** -0.5
        worst = max(worst, abs(float(signal_scale(at)) / a - 1), abs(float(noise_scale(at)) / s - 1))
    return 0.0, worst


@row(DDPM, "step.unit", "α_ℓ² + σ_ℓ² = 1", _ROUNDING)
def kept_and_added() -> Pair:
    """α_ℓ² + σ_ℓ² = 1 on a grid: the largest difference is 0."""
    logsnr = LogSNRLinear(50).logsnr
    total = step_alpha(logsnr[:-1], logsnr[1:]) ** 2 + step_variance(logsnr[:-1], logsnr[1:])
    return 0.0, float((total - 1).abs().max())


@row(DDPM, "step.digits", "σ_ℓ² = −s_ℓ² expm1(λ_ℓ − λ_{ℓ−1}) against 50 digits at the first levels", _ROUNDING)
def step_without_cancellation(first: float = 13.3, second: float = 13.2767) -> Pair:
    """1 − a_2²/a_1² in 50 digits and `step_variance` in float64, at the top of the default grid."""
    with localcontext() as context:
        context.prec = 50
        before, after = ((1 + (-Decimal(value)).exp()) for value in (first, second))
        exact = float(1 - before / after)
    found = step_variance(torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64))
    return 0.0, float(found) / exact - 1


@row(DDPM, "marginal", "ℓ steps z_ℓ = √(1−σ²) z_{ℓ−1} + σε make N(a_ℓ z_0, s_ℓ²)", _ROUNDING)
def steps_make_the_marginal() -> Pair:
    """z_ℓ = √(1−σ²) z_{ℓ−1} + σ ε, ℓ times: α^ℓ and 1 − α^{2ℓ} against the marginal's mean and variance."""
    levels, one = grid(), torch.ones(1, 1, dtype=torch.float64)
    mean, variance, worst = one, torch.zeros((), dtype=torch.float64), 0.0
    for prev, now in pairwise(levels):
        step, whole = forward.step(mean, prev, now), forward.marginal(one, now)
        mean, variance = step.mean, (1 - step.variance) * variance + step.variance
        worst = max(worst, _apart(mean, whole.mean), _apart(variance, whole.variance))
    return 0.0, worst


@row(DDPM, "marginal.powers", "one σ: z_ℓ = α^ℓ z_0 + √(1−α^{2ℓ}) ε", _ROUNDING)
def powers_of_alpha(sigma: float = 0.2, levels: int = 30) -> Pair:
    """Constant σ: a_ℓ = α^ℓ and s_ℓ² = 1 − α^{2ℓ}: the largest relative difference is 0."""
    schedule = constant(sigma=sigma, num_levels=levels)
    power = (1 - sigma**2) ** torch.arange(1, levels + 1, dtype=torch.float64)
    exact = marginal(torch.ones(levels, 1, dtype=torch.float64), schedule.logsnr[1:])
    off = (exact.mean[:, 0] / power.sqrt() - 1).abs()
    return 0.0, float(torch.maximum(off, (exact.variance[:, 0] / (1 - power) - 1).abs()).max())


@row(DDPM, "marginal.draw", "z_ℓ = a_ℓ z_0 + s_ℓ ε̄", _ROUNDING)
def noising() -> Pair:
    """z_ℓ = a_ℓ z_0 + s_ℓ ε̄: for three numbers, the largest difference is 0."""
    x, noise = torch.tensor([[1.3], [-0.4], [2.0]]).double(), torch.tensor([[0.2], [-1.1], [0.7]]).double()
    logsnr = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
    a = [(1 + math.exp(-value)) ** -0.5 for value in logsnr.tolist()]
    wanted = [k * float(u) + (1 - k * k) ** 0.5 * float(e) for k, u, e in zip(a, x, noise, strict=True)]
    return 0.0, float((noised(x, noise, logsnr)[:, 0] - torch.tensor(wanted, dtype=torch.float64)).abs().max())


@row(DDPM, "endpoint.lecture", "L is the least integer with α^L < δ: σ = 0.0957…, δ = 0.01", 0.0)
def first_above_and_below(sigma: float = 0.09574996139546181, delta: float = 0.01) -> Pair:
    """The endpoint rule on the lecture's L: ⌈ln δ / ln α⌉ at σ = 0.0957…, δ = 0.01."""
    return 1000.0, float(endpoint_levels(sigma, delta))


@row(DDPM, "endpoint.tie", "α^L < δ is strict: σ = ½, δ = ¾ → L = 3", 0.0)
def endpoint_at_a_tie() -> Pair:
    """σ = 0.5, δ = 0.75: α² = 0.75 is not below δ, so L = 3."""
    return 3.0, float(endpoint_levels(0.5, 0.75))


@row(DDPM, "endpoint.rational", "(1−σ²)^L < δ² in integers, for 500 random (σ, δ): wrong L", 0.0)
def endpoint_against_rationals(count: int = 500, seed: int = 0) -> Pair:
    """Random (σ, δ): how many L are not the least with (1−σ²)^L < δ², in integers; 0."""
    rng, wrong = random.Random(seed), 0
    for _ in range(count):
        sigma, delta = rng.uniform(0.15, 0.999), rng.uniform(1e-6, 1.0)
        levels = endpoint_levels(sigma, delta)
        wrong += not (_below(sigma, delta, levels) and (levels == 1 or not _below(sigma, delta, levels - 1)))
    return 0.0, float(wrong)


def _below(sigma: float, delta: float, levels: int) -> bool:
    kept, limit = 1 - Fraction(sigma) ** 2, Fraction(delta) ** 2
    return kept.numerator**levels * limit.denominator < limit.numerator * kept.denominator**levels


@row(DDPM, "endpoint.sigma", "σ = √(1 − δ^{2/L})", _ROUNDING)
def sigma_of_the_lecture(num_levels: int = 1000, delta: float = 0.01) -> Pair:
    """The smallest σ whose endpoint rule returns L, and √(1 − δ^{2/L})."""
    return (1 - delta ** (2 / num_levels)) ** 0.5, endpoint_sigma(num_levels, delta)


@row(DDPM, "schedule.linear", "σ_ℓ² = β_ℓ (linear)", 1e-9)
def linear_betas() -> Pair:
    """Ho et al.'s schedule: σ_ℓ² = β_ℓ rising linearly from 1e-4 to 0.02: largest relative difference 0."""
    logsnr = linear(1000).logsnr
    betas = 1e-4 + (0.02 - 1e-4) * torch.arange(1000, dtype=torch.float64) / 999
    return 0.0, float((step_variance(logsnr[:-1], logsnr[1:]) / betas - 1).abs().max())


@row(DDPM, "schedule.cosine", "a_ℓ² = cos²(…)/cos²(…) (cosine)", 1e-9)
def cosine_signal() -> Pair:
    """The cosine schedule: a² ∝ cos²((t + .008)/1.008 · π/2) while β ≤ .999: largest relative difference 0."""
    t = torch.arange(0, 990, dtype=torch.float64) / 1000
    signal = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    found = signal_scale(cosine(1000).logsnr[1:990]) ** 2
    return 0.0, float((found / (signal[1:] / signal[0]) - 1).abs().max())


@row(DDPM, "schedule.logsnr", "λ_ℓ falls in even steps (log-SNR-linear)", _ROUNDING)
def even_logsnr() -> Pair:
    """The default schedule: λ_ℓ = 13.3 − 23.3 (ℓ−1)/(L−1): the largest difference is 0."""
    wanted = 13.3 - 23.3 * torch.arange(1000, dtype=torch.float64) / 999
    return 0.0, float((LogSNRLinear(1000).logsnr[1:] - wanted).abs().max())


@row(DDPM, "clock", "t_ℓ = −ln a_ℓ = −ℓ ln α", _ROUNDING)
def clock() -> Pair:
    """t = −ln a = −ℓ ln α at constant σ: largest relative difference 0."""
    logsnr = constant(sigma=0.2, num_levels=30).logsnr[1:]
    wanted = -0.5 * math.log(1 - 0.04) * torch.arange(1, 31, dtype=torch.float64)
    return 0.0, float((time(logsnr) / wanted - 1).abs().max())


@row(REWRITING, "bayes", "q(z_ℓ|z_{ℓ−1}) q(z_{ℓ−1}|z_0) = q(z_{ℓ−1}|z_ℓ,z_0) q(z_ℓ|z_0), ℓ ≥ 2", _ROUNDING)
def bayes_rule() -> Pair:
    """ln q(z_ℓ|z_{ℓ−1}) + ln q(z_{ℓ−1}|x) against ln q(z_{ℓ−1}|z_ℓ,x) + ln q(z_ℓ|x) at ℓ ≥ 2."""
    worst = 0.0
    for prev, now in _steps():
        x, z_prev, z = _draws(3)
        left = forward.step(z_prev, prev, now).log_prob(z) + forward.marginal(x, prev).log_prob(z_prev)
        right = forward.posterior(x, z, prev, now).log_prob(z_prev) + forward.marginal(x, now).log_prob(z)
        worst = max(worst, _apart(left, right))
    return 0.0, worst


@row(
    REWRITING,
    "posterior",
    "mean [α_ℓ s_{ℓ−1}² z_ℓ + a_{ℓ−1} σ_ℓ² z_0]/s_ℓ², variance β̃_ℓ = σ_ℓ² s_{ℓ−1}²/s_ℓ²",
    _ROUNDING,
)
def posterior_moments() -> Pair:
    """[α s'² z + a' σ² x]/s² and σ² s'²/s² against the posterior's mean and variance."""
    worst = 0.0
    for prev, now in _steps():
        x, z = _draws(2)
        alpha, variance = forward.step_alpha(prev, now), forward.step_variance(prev, now)
        s_prev, s = forward.noise_scale(prev) ** 2, forward.noise_scale(now) ** 2
        mean = (alpha * s_prev * z + forward.signal_scale(prev) * variance * x) / s
        distribution = forward.posterior(x, z, prev, now)
        worst = max(worst, _apart(mean, distribution.mean), _apart(variance * s_prev / s, distribution.variance))
    return 0.0, worst


@row(REWRITING, "posterior.width", "1/β̃_ℓ = 1/s_{ℓ−1}² + α_ℓ²/σ_ℓ²", _ROUNDING)
def posterior_width() -> Pair:
    """β̃_ℓ = 1/(1/s_{ℓ−1}² + α_ℓ²/σ_ℓ²): precisions add; largest relative difference 0."""
    logsnr = LogSNRLinear(40, 6.0, -6.0).logsnr[1:]
    before, now = logsnr[:-1], logsnr[1:]
    precision = 1 / noise_scale(before) ** 2 + step_alpha(before, now) ** 2 / step_variance(before, now)
    return 0.0, float((posterior_variance(before, now) * precision - 1).abs().max())


@row(REWRITING, "level-kl", "KL with variance β̃ = ½(γ_{ℓ−1} − γ_ℓ)‖z_0 − ẑ_0‖²", 1e-9)
def level_kl() -> Pair:
    """½(γ_{ℓ−1} − γ_ℓ)‖x − x̂‖² and the KL of the two Gaussians with variance β̃, summed over the levels ℓ ≥ 2."""
    expected, measured = 0.0, 0.0
    for prev, now in _steps():
        x, x_hat, z = _draws(3)
        prior = PosteriorVariance().step(x_hat, z, prev, now)
        measured += float(forward.posterior(x, z, prev, now).kl(prior).sum())
        expected += float(0.5 * (prev.exp() - now.exp()) * ((x - x_hat) ** 2).sum())
    return expected, measured


@rows(
    REWRITING,
    Line("rao-blackwell.mean", "E[ln q/p_pri | z_ℓ, z_0] = KL: E5's log-ratio has E6's mean", 1e-8),
    Line("rao-blackwell.variance", "Var[ln q/p_pri | z_ℓ, z_0] = 2 KL with variance β̃, and E6 has none of it", 1e-8),
)
def ratio_moments() -> list[Pair]:
    """KL and 2 KL against mean and variance of ln q − ln p_pri over z_{ℓ−1}, by quadrature, over all levels ℓ ≥ 2."""
    noise, weight = normal_grid()
    mean, variance, divergence = 0.0, 0.0, 0.0
    for prev, now in _steps():
        x, x_hat, z = (part[:, :1] for part in _draws(3))
        encoder, prior = forward.posterior(x, z, prev, now), PosteriorVariance().step(x_hat, z, prev, now)
        drawn = [encoder.mean + encoder.variance.sqrt() * value for value in noise]
        ratio = torch.stack([encoder.log_prob(before) - prior.log_prob(before) for before in drawn], 1)
        center = ratio @ weight
        mean += float(center.sum())
        variance += float(((ratio - center[:, None]) ** 2 @ weight).sum())
        divergence += float(encoder.kl(prior).sum())
    return [(divergence, mean), (2 * divergence, variance)]


@row(
    REWRITING,
    "rao-blackwell.ratio",
    "ln of Var of a level's nats by sampled log-ratios over that by KL = ln(1 + 2 E[KL]/Var[KL])",
    0.006,
)
def variance_ratio(count: int = 200_000) -> Pair:
    """By the moments of the KL, and of samples: images of 12 pixels, errors of x̂ that differ by image."""
    levels, g = grid(), generator(0, "rao-blackwell")
    x, error, noise = torch.randn(3, count, 12, generator=g, dtype=torch.float64)
    z = noised(x, noise, levels[8])
    x_hat = x + 0.6 * error * torch.rand(count, 1, generator=g, dtype=torch.float64)
    encoder = forward.posterior(x, z, levels[7], levels[8])
    prior = PosteriorVariance().step(x_hat, z, levels[7], levels[8])
    before = encoder.sample(g)
    sampled, divergence = encoder.log_prob(before) - prior.log_prob(before), encoder.kl(prior)
    expected = 1 + 2 * divergence.mean() / divergence.var()
    return math.log(expected), math.log(sampled.var() / divergence.var())


@row(REWRITING, "weights", "w_ℓ ‖target − out‖² = ½(γ_{ℓ−1} − γ_ℓ)‖z_0 − ẑ_0‖²", 1e-9)
def weights_are_nats() -> Pair:
    """½(γ_{ℓ−1} − γ_ℓ)‖x − x̂‖² as a weight on each target's squared error: the largest relative difference is 0."""
    schedule, worst = LogSNRLinear(12, 4.0, -4.0), 0.0
    x, x_hat, noise = torch.randn(3, 11, 4, generator=generator(0, "weights"), dtype=torch.float64)
    before, now = schedule.logsnr[1:-1], schedule.logsnr[2:]
    z = noised(x, noise, now)
    nats = 0.5 * (before.exp() - now.exp()) * ((x - x_hat) ** 2).sum(1)
    for target in TARGETS:
        error = ((target.of_x(x, z, now, before) - target.of_x(x_hat, z, now, before)) ** 2).sum(1)
        worst = max(worst, float((nats_weight(target, schedule)[1:] * error / nats - 1).abs().max()))
    return 0.0, worst


CHECKS = (
    normal_density,
    normal_divergence,
    full_density,
    scales,
    kept_and_added,
    step_without_cancellation,
    steps_make_the_marginal,
    powers_of_alpha,
    noising,
    first_above_and_below,
    endpoint_at_a_tie,
    endpoint_against_rationals,
    sigma_of_the_lecture,
    linear_betas,
    cosine_signal,
    even_logsnr,
    clock,
    bayes_rule,
    posterior_moments,
    posterior_width,
    level_kl,
    ratio_moments,
    variance_ratio,
    weights_are_nats,
)
