"""From the μ-prior to the ε-prior: what the network is asked for, and how large its gradients are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from markovae.diffusion.forward import (
    noise_scale,
    noised,
    posterior_variance,
    signal_scale,
    step,
    step_alpha,
    step_variance,
)
from markovae.diffusion.objective import literal_sample
from markovae.diffusion.schedule import LogSNRLinear
from markovae.diffusion.target import MEAN, STEP_NOISE, TARGETS, noise_ratio, one_step_noise
from markovae.randomness import generator
from markovae.theory import target_statements as claims
from markovae.theory.rows import EPSILON, GAUSSIAN, TRAINING, Check, Line, Pair, single

_ROUNDING = 1e-9


def six_maps() -> Sequence[Pair]:
    """x̂ of each target's output by its own formula: the largest difference is 0 for each of the six."""
    z, out = torch.randn(2, 4, 3, generator=generator(0, "maps"), dtype=torch.float64)
    grid = LogSNRLinear(5, 3.0, -3.0).logsnr[1:]
    before, now = (part.unsqueeze(1) for part in (grid[:-1], grid[1:]))
    a, s = (now.exp() / (1 + now.exp())).sqrt(), (1 / (1 + now.exp())).sqrt()
    alpha = a / (before.exp() / (1 + before.exp())).sqrt()
    sigma = (1 - alpha**2).sqrt()
    wanted = {
        "noise": (z - s * out) / a,
        "data": out,
        "velocity": a * z - s * out,
        "score": (z + s**2 * out) / a,
        "step_noise": (z - (s**2 / sigma) * out) / a,
        "mean": (z - (s**2 / sigma**2) * (z - alpha * out)) / a,
    }
    return [
        (0.0, float((target.to_x(out, z, grid[1:], grid[:-1]) - wanted[target.name]).abs().max())) for target in TARGETS
    ]


def ratio_of_noises() -> Pair:
    """ρ = Cov(ε_ℓ, ε̄_ℓ) = σ_ℓ/s_ℓ and ρ² + (1−ρ²) = 1: the larger difference is 0."""
    before, now = _levels()
    rho, rest = noise_ratio(before, now)
    sigma = (1 - (signal_scale(now) / signal_scale(before)) ** 2).sqrt()
    off = (rho - sigma / (1 - signal_scale(now) ** 2).sqrt()).abs()
    return 0.0, float(torch.maximum(off, (rho**2 + rest**2 - 1).abs()).max())


def step_noise_of_the_chain() -> Pair:
    """z_{ℓ−1} = a'x + s'ε', z_ℓ = α z_{ℓ−1} + σ ε: the literal draw's (ε̄, ξ) give back this z_ℓ and this ε."""
    schedule, g = LogSNRLinear(6, 3.0, -3.0), generator(0, "literal")
    x, earlier, fresh = torch.randn(3, 5, 3, generator=g, dtype=torch.float64)
    level = torch.arange(2, 7)
    before, now = schedule.logsnr[level - 1], schedule.logsnr[level]
    draw = literal_sample(level, earlier, fresh, schedule)
    assert draw.fresh is not None
    z = step(noised(x, earlier, before), before, now).mean + step_variance(before, now).sqrt()[:, None] * fresh
    off = (noised(x, draw.noise, now) - z).abs().max()
    return 0.0, max(float(off), float((one_step_noise(draw.noise, draw.fresh, before, now) - fresh).abs().max()))


def mean_of_a_step_sample() -> Pair:
    """E‖μ − z_{ℓ−1}‖² − E‖μ − μ_enc‖² = d β̃: the scatter of the raw μ target, relative difference 0."""
    before, now = _levels()
    spread = MEAN.residual(before, now)[1] ** 2
    precision = 1 / (1 - signal_scale(before) ** 2) + step_alpha(before, now) ** 2 / step_variance(before, now)
    return 0.0, float((spread * precision - 1).abs().max())


def scatter_of_one_noise() -> Pair:
    """Residuals of the ε target: ρ for the mean, 1 − ρ² for its scatter; largest difference 0."""
    before, now = _levels()
    gain, spread = STEP_NOISE.residual(before, now)
    rho = (step_variance(before, now) / noise_scale(now) ** 2).sqrt()
    wanted = posterior_variance(before, now) * step_alpha(before, now) ** 2 / step_variance(before, now)
    return 0.0, float(torch.maximum((gain - rho).abs(), (spread**2 - wanted).abs()).max())


def _levels() -> tuple[Tensor, Tensor]:
    logsnr = LogSNRLinear(30, 4.0, -4.0).logsnr[1:]
    return logsnr[:-1], logsnr[1:]


_MAPS = Check(
    EPSILON,
    (
        Line("map.noise", "x̂ = (z − s ε̄)/a", _ROUNDING),
        Line("map.data", "x̂ = out", _ROUNDING),
        Line("map.velocity", "x̂ = a z − s v", _ROUNDING),
        Line("map.score", "x̂ = (z + s² ∇ln p)/a", _ROUNDING),
        Line("map.step-noise", "x̂ = (z − (s²/σ) ε_ℓ)/a", _ROUNDING),
        Line("map.mean", "x̂ = (z − (s²/σ²)(z − α μ))/a", _ROUNDING),
    ),
    six_maps,
)
CHECKS = (
    single(
        GAUSSIAN,
        "mean.onto-sample",
        "argmin E‖μ_pri − μ_enc‖² = argmin E‖μ_pri − z_{ℓ−1}‖²",
        _ROUNDING,
        claims.mean_onto_a_sample,
    ),
    single(GAUSSIAN, "mean.scatter", "E‖μ − z_{ℓ−1}‖² − E‖μ − μ_enc‖² = d β̃_ℓ", _ROUNDING, mean_of_a_step_sample),
    single(EPSILON, "mean.from-noise", "μ_pri = (z_ℓ − σ ε_pri)/√(1−σ²)", _ROUNDING, claims.mean_from_noise),
    _MAPS,
    single(EPSILON, "rho", "ρ_ℓ = σ_ℓ/s_ℓ", _ROUNDING, ratio_of_noises),
    single(
        EPSILON,
        "raw-targets",
        "ε_ℓ = ρ ε̄ + √(1−ρ²) ξ is the noise of z_{ℓ−1} = (z_ℓ − σ ε_ℓ)/α",
        _ROUNDING,
        claims.chain_makes_the_raw_targets,
    ),
    single(
        EPSILON,
        "noise.onto-mean",
        "argmin E‖ε_pri − ε_ℓ‖² = argmin E‖ε_pri − ρ ε̄‖² (Rao–Blackwell)",
        _ROUNDING,
        claims.noise_onto_a_sample,
    ),
    single(EPSILON, "noise.scatter", "ε_ℓ − ρ ε̄ has variance 1 − ρ²", _ROUNDING, scatter_of_one_noise),
    single(
        EPSILON,
        "noise.sampled",
        "least squares on a million drawn ε_ℓ: within 4 predicted standard errors",
        4.0,
        lambda: claims.sampled_targets(count=1_000_000),
    ),
    single(EPSILON, "targets.denoiser", "six targets, one best affine x̂", _ROUNDING, claims.six_targets_one_denoiser),
    single(EPSILON, "targets.nats", "six targets, one x̂, one number of nats", _ROUNDING, claims.six_targets_one_nats),
    single(TRAINING, "draw", "the literal draw (z_0, ℓ, z_{ℓ−1}, ε)", _ROUNDING, step_noise_of_the_chain),
    single(
        TRAINING,
        "gradient.output",
        "R_ℓ = 1 + (1−ρ²)/(ρ² m_ℓ)",
        _ROUNDING,
        claims.output_gradients,
    ),
    single(
        TRAINING,
        "gradient.parameters",
        "1 + (1−ρ²)E‖J‖²/(ρ²E‖Jᵀe‖²), by autograd",
        _ROUNDING,
        lambda: claims.parameter_gradients(count=4),
    ),
    single(
        TRAINING,
        "gradient.raw",
        "raw ε gradients keep one scale over levels ℓ > 20: largest over smallest",
        0.04,
        claims.raw_gradients_are_equal,
    ),
    single(TRAINING, "gradient.mean", "mean gradients scale with ρ²", 1e-6, claims.mean_gradients_fall),
    single(
        TRAINING,
        "gradient.mu",
        "at constant σ the μ loss is as even: gradients 1/(2ασ) times as large",
        1e-6,
        claims.mean_loss_is_the_noise_loss,
    ),
)
