"""From the μ-prior to the ε-prior: what the network is asked for, and how large its gradients are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from markovae.diffusion import forward
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
from markovae.diffusion.reverse import PosteriorVariance
from markovae.diffusion.schedule import LogSNRLinear, constant
from markovae.diffusion.target import DATA, FLOW, MEAN, STEP_NOISE, TARGETS, noise_ratio, one_step_noise
from markovae.randomness import generator
from markovae.theory.check_steps import _apart, _draws, _steps, grid
from markovae.theory.regression import (
    Affine,
    gaussian_data,
    jacobian_squares,
    least_squares,
    mean_loss_gradient,
    noise_loss_gradient,
    on_mean,
    on_previous,
    on_step_noise,
    output_ratio,
    parameter_ratio,
)
from markovae.theory.rows import EPSILON, GAUSSIAN, TRAINING, Line, Pair, row, rows

_ROUNDING = 1e-9


def _levels() -> tuple[Tensor, Tensor]:
    logsnr = LogSNRLinear(30, 4.0, -4.0).logsnr[1:]
    return logsnr[:-1], logsnr[1:]


def _differ(one: Affine, other: Affine) -> float:
    return max(_apart(one.weight, other.weight), _apart(one.offset, other.offset))


@row(GAUSSIAN, "mean.onto-sample", "argmin E‖μ_pri − μ_enc‖² = argmin E‖μ_pri − z_{ℓ−1}‖²", _ROUNDING)
def mean_onto_a_sample() -> Pair:
    """The best affine μ on the posterior mean and on z_{ℓ−1} itself: the largest difference is 0."""
    data = gaussian_data()
    return 0.0, max(_differ(on_mean(data, MEAN, *step), on_previous(data, *step)) for step in _steps())


@row(GAUSSIAN, "mean.scatter", "E‖μ − z_{ℓ−1}‖² − E‖μ − μ_enc‖² = d β̃_ℓ", _ROUNDING)
def mean_of_a_step_sample() -> Pair:
    """E‖μ − z_{ℓ−1}‖² − E‖μ − μ_enc‖² = d β̃: the scatter of the raw μ target, relative difference 0."""
    before, now = _levels()
    spread = MEAN.residual(before, now)[1] ** 2
    precision = 1 / (1 - signal_scale(before) ** 2) + step_alpha(before, now) ** 2 / step_variance(before, now)
    return 0.0, float((spread * precision - 1).abs().max())


@row(EPSILON, "mean.from-noise", "μ_pri = (z_ℓ − σ ε_pri)/√(1−σ²)", _ROUNDING)
def mean_from_noise() -> Pair:
    """μ = (z − σ ε)/√(1−σ²) of the best affine ε, against the best affine μ: the largest difference is 0."""
    data, worst = gaussian_data(), 0.0
    for prev, now in _steps():
        sigma, alpha = forward.step_variance(prev, now).sqrt(), forward.step_alpha(prev, now)
        noise = on_step_noise(data, prev, now)
        weight = (torch.eye(3, dtype=torch.float64) - sigma * noise.weight) / alpha
        worst = max(worst, _differ(Affine(weight, -sigma * noise.offset / alpha), on_previous(data, prev, now)))
    return 0.0, worst


@rows(
    EPSILON,
    Line("map.noise", "x̂ = (z − s ε̄)/a", _ROUNDING),
    Line("map.data", "x̂ = out", _ROUNDING),
    Line("map.velocity", "x̂ = a z − s v", _ROUNDING),
    Line("map.flow", "x̂ = (z − s (ε − x))/(a + s)", _ROUNDING),
    Line("map.score", "x̂ = (z + s² ∇ln p)/a", _ROUNDING),
    Line("map.step-noise", "x̂ = (z − (s²/σ) ε_ℓ)/a", _ROUNDING),
    Line("map.mean", "x̂ = (z − (s²/σ²)(z − α μ))/a", _ROUNDING),
)
def maps() -> Sequence[Pair]:
    """x̂ of each target's output by its own formula: the largest difference is 0 for each."""
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
        "flow": (z - s * out) / (a + s),
        "score": (z + s**2 * out) / a,
        "step_noise": (z - (s**2 / sigma) * out) / a,
        "mean": (z - (s**2 / sigma**2) * (z - alpha * out)) / a,
    }
    return [
        (0.0, float((target.to_x(out, z, grid[1:], grid[:-1]) - wanted[target.name]).abs().max())) for target in TARGETS
    ]


@row(EPSILON, "flow-matching", "λ = 2 ln((1−t)/t): an Euler step of dx_t/dt = ε̂ − x̂ is the step a'x̂ + s'ε̂", _ROUNDING)
def flow_is_on_another_clock() -> Pair:
    """x_t + (t'−t)(ε̂ − x̂) over √((1−t')² + t'²) against a'x̂ + s'ε̂ at log-SNR 2 ln((1−t')/t'): the largest
    difference is 0."""
    x, noise, out = _draws(3)
    worst = 0.0
    for start, end in ((0.99, 0.7), (0.6, 0.5), (0.3, 0.001)):
        t, later = torch.tensor([start, end], dtype=torch.float64)
        now, after = (2 * torch.log((1 - time) / time) for time in (t, later))
        mixed = (1 - t) * x + t * noise
        z = mixed / (t**2 + (1 - t) ** 2).sqrt()
        x_hat = FLOW.to_x(out, z, now)
        noise_hat = (z - signal_scale(now) * x_hat) / noise_scale(now)
        euler = (mixed + (later - t) * out) / (later**2 + (1 - later) ** 2).sqrt()
        worst = max(worst, _apart(z, noised(x, noise, now)), _apart(euler, noised(x_hat, noise_hat, after)))
    return 0.0, worst


@row(EPSILON, "rho", "ρ_ℓ = σ_ℓ/s_ℓ", _ROUNDING)
def ratio_of_noises() -> Pair:
    """ρ = Cov(ε_ℓ, ε̄_ℓ) = σ_ℓ/s_ℓ and ρ² + (1−ρ²) = 1: the larger difference is 0."""
    before, now = _levels()
    rho, rest = noise_ratio(before, now)
    sigma = (1 - (signal_scale(now) / signal_scale(before)) ** 2).sqrt()
    off = (rho - sigma / (1 - signal_scale(now) ** 2).sqrt()).abs()
    return 0.0, float(torch.maximum(off, (rho**2 + rest**2 - 1).abs()).max())


@row(EPSILON, "raw-targets", "ε_ℓ = ρ ε̄ + √(1−ρ²) ξ is the noise of z_{ℓ−1} = (z_ℓ − σ ε_ℓ)/α", _ROUNDING)
def chain_makes_the_raw_targets() -> Pair:
    """ε_ℓ = ρ ε̄ + √(1−ρ²) ξ put into z_{ℓ−1} = (z_ℓ − σ ε_ℓ)/α: the raw μ target, largest difference 0."""
    worst = 0.0
    for prev, now in _steps():
        x, noise, fresh = _draws(3)
        step = one_step_noise(noise, fresh, prev, now)
        sigma, alpha = forward.step_variance(prev, now).sqrt(), forward.step_alpha(prev, now)
        z_prev = (forward.noised(x, noise, now) - sigma * step) / alpha
        worst = max(worst, _apart(MEAN.of_sample(x, noise, fresh, now, prev), z_prev))
    return 0.0, worst


@row(EPSILON, "noise.onto-mean", "argmin E‖ε_pri − ε_ℓ‖² = argmin E‖ε_pri − ρ ε̄‖² (Rao–Blackwell)", _ROUNDING)
def noise_onto_a_sample() -> Pair:
    """The best affine ε on ρ ε̄ and on the one-step noise itself: the largest difference is 0."""
    data = gaussian_data()
    return 0.0, max(_differ(on_mean(data, STEP_NOISE, *step), on_step_noise(data, *step)) for step in _steps())


@row(EPSILON, "noise.scatter", "ε_ℓ − ρ ε̄ has variance 1 − ρ²", _ROUNDING)
def scatter_of_one_noise() -> Pair:
    """Residuals of the ε target: ρ for the mean, 1 − ρ² for its scatter; largest difference 0."""
    before, now = _levels()
    gain, spread = STEP_NOISE.residual(before, now)
    rho = (step_variance(before, now) / noise_scale(now) ** 2).sqrt()
    wanted = posterior_variance(before, now) * step_alpha(before, now) ** 2 / step_variance(before, now)
    return 0.0, float(torch.maximum((gain - rho).abs(), (spread**2 - wanted).abs()).max())


@row(EPSILON, "noise.sampled", "least squares on a million drawn ε_ℓ: within 4 predicted standard errors", 4.0)
def sampled_targets(seed: int = 0, count: int = 1_000_000, level: int = 10) -> Pair:
    """Least squares on drawn one-step noises: the largest miss in predicted standard errors, below 4."""
    data, g = gaussian_data(), generator(seed, "sampled targets")
    prev, now = grid()[level - 1], grid()[level]
    white, noise, fresh = torch.randn(3, count, 3, generator=g, dtype=torch.float64)
    x = data.mean + white @ torch.linalg.cholesky(data.covariance).T
    raw = STEP_NOISE.of_sample(x, noise, fresh, now, prev)
    fit = least_squares(forward.noised(x, noise, now), raw)
    return 0.0, float(fit.deviation(on_step_noise(data, prev, now)).abs().max())


@row(EPSILON, "targets.denoiser", "all targets, one best affine x̂", _ROUNDING)
def targets_one_denoiser() -> Pair:
    """x̂ of the best affine predictor of each target against that of the data: the largest difference is 0."""
    data = gaussian_data()
    return 0.0, max(
        _differ(on_mean(data, target, *step).as_x(target, *step), on_mean(data, DATA, *step))
        for step in _steps()
        for target in TARGETS
    )


@row(EPSILON, "targets.nats", "all targets, one x̂, one number of nats", _ROUNDING)
def targets_one_nats() -> Pair:
    """Nats of the levels ℓ ≥ 2 with one x̂ in all parameterizations: of the data target, and the farthest other."""
    totals = dict.fromkeys([target.name for target in TARGETS], 0.0)
    for prev, now in _steps():
        x, x_hat, noise = _draws(3)
        z = forward.noised(x, noise, now)
        for target in TARGETS:
            restored = target.to_x(target.of_x(x_hat, z, now, prev), z, now, prev)
            totals[target.name] += float(PosteriorVariance().kl(x, restored, prev, now).mean())
    return totals["data"], max(totals.values(), key=lambda nats: abs(nats - totals["data"]))


@row(TRAINING, "draw", "the literal draw (z_0, ℓ, z_{ℓ−1}, ε)", _ROUNDING)
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


@row(TRAINING, "gradient.output", "R_ℓ = 1 + (1−ρ²)/(ρ² m_ℓ)", _ROUNDING)
def output_gradients(variance: float = 0.5, gain: float = 0.8) -> Pair:
    """R_ℓ against E(ε_ℓ − ρ ε̂)²/E(ρ ε̄ − ρ ε̂)² of ε̂ = gain·s·z, from Cov(ε_ℓ, z_ℓ) = σ: the largest ratio is 1."""
    prev, now = grid()[:-1], grid()[1:]
    rho, s = noise_ratio(prev, now)[0], forward.noise_scale(now)
    latent = variance * forward.signal_scale(now) ** 2 + s**2
    error = 1 - 2 * gain * s**2 + (gain * s) ** 2 * latent
    sigma = forward.step_variance(prev, now).sqrt()
    raw = 1 - 2 * rho * gain * s * sigma + (rho * gain * s) ** 2 * latent
    ratio = output_ratio(rho, error) * rho**2 * error / raw
    return 1.0, float(ratio[(ratio - 1).abs().argmax()])


@row(TRAINING, "gradient.parameters", "1 + (1−ρ²)E‖J‖²/(ρ²E‖Jᵀe‖²), by autograd", _ROUNDING)
def parameter_gradients(level: int = 12, count: int = 4) -> Pair:
    """The parameters' ratio by its formula, and by autograd over ξ = ±√d e_i, whose second moments are exact."""
    network, d = _small_network(), 3
    x, noise = torch.randn(2, count, d, generator=generator(0, "parameters"), dtype=torch.float64)
    prev, now = grid()[level - 1], grid()[level]
    rho, rest = noise_ratio(prev, now)
    z = forward.noised(x, noise, now)
    whole, pulled = jacobian_squares(network, (z,), (noise - network(z)).detach())
    corners = d**0.5 * torch.cat([torch.eye(d), -torch.eye(d)]).double()
    raw = sum(_gradient_square(network, z, rho * noise + rest * corner, rho) for corner in corners) / len(corners)
    mean = _gradient_square(network, z, rho * noise, rho)
    return float(parameter_ratio(rho, whole.mean(), pulled.mean())), raw / mean


def _small_network() -> nn.Sequential:
    network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    g = generator(0, "network")
    for parameter in network.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=g, dtype=torch.float64)
    return network


def _gradient_square(network: nn.Module, z: Tensor, wanted: Tensor, rho: Tensor) -> float:
    total = 0.0
    for one, target in zip(z, wanted, strict=True):
        loss = ((target - rho * network(one[None])[0]) ** 2).sum()
        total += sum(float((g**2).sum()) for g in torch.autograd.grad(loss, list(network.parameters())))
    return total / len(z)


@row(TRAINING, "gradient.raw", "raw ε gradients keep one scale over levels ℓ > 20: largest over smallest", 0.04)
def raw_gradients_are_equal(levels: int = 1000, delta: float = 0.01, error: float = 0.3) -> Pair:
    """The lecture's claim: over levels ℓ > 20 the raw ε gradients' second moments stay within 4 %; largest/smallest."""
    raw = noise_loss_gradient(constant(num_levels=levels, delta=delta), torch.full((levels,), error).double()).raw[20:]
    return 1.0, float(raw.max() / raw.min())


@row(TRAINING, "gradient.mean", "mean gradients scale with ρ²", 1e-6)
def mean_gradients_fall(levels: int = 1000, delta: float = 0.01, error: float = 0.3) -> Pair:
    """But means scale with ρ²: first over last level, by ρ² and by the second moments of the mean gradients."""
    schedule = constant(num_levels=levels, delta=delta)
    s = forward.noise_scale(schedule.logsnr)
    mean = noise_loss_gradient(schedule, torch.full((levels,), error).double()).mean
    return float((s[-1] / s[1]) ** 2), float(mean[0] / mean[-1])


@row(TRAINING, "gradient.mu", "at constant σ the μ loss is as even: gradients 1/(2ασ) times as large", 1e-6)
def mean_loss_is_the_noise_loss(levels: int = 1000, delta: float = 0.01, error: float = 0.3) -> Pair:
    """At constant σ the μ loss is no less even: its gradient is that of the ε loss times 1/(2ασ), at every level."""
    schedule = constant(num_levels=levels, delta=delta)
    errors = torch.full((levels,), error).double()
    ratio = mean_loss_gradient(schedule, errors).raw[1:] / noise_loss_gradient(schedule, errors).raw[1:]
    expected = 1 / (4 * schedule.sigma**2 * (1 - schedule.sigma**2))
    return expected, float(ratio[(ratio - expected).abs().argmax()])


CHECKS = (
    mean_onto_a_sample,
    mean_of_a_step_sample,
    mean_from_noise,
    maps,
    flow_is_on_another_clock,
    ratio_of_noises,
    chain_makes_the_raw_targets,
    noise_onto_a_sample,
    scatter_of_one_noise,
    sampled_targets,
    targets_one_denoiser,
    targets_one_nats,
    step_noise_of_the_chain,
    output_gradients,
    parameter_gradients,
    raw_gradients_are_equal,
    mean_gradients_fall,
    mean_loss_is_the_noise_loss,
)
