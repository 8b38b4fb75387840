r"""The statements about DDPM's steps and targets as numbers: each function returns (expected, measured).

Small, without training and without noise unless a seed is named; a check and a test call the same function. Where the
expected number is 0 the measured one is a largest difference.
"""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import pairwise

import torch
from torch import Tensor, nn

from markovae.diffusion import forward
from markovae.diffusion.reverse import PosteriorVariance
from markovae.diffusion.schedule import constant, endpoint_levels, endpoint_sigma
from markovae.diffusion.target import DATA, MEAN, STEP_NOISE, TARGETS, noise_ratio, one_step_noise
from markovae.randomness import generator
from markovae.theory.regression import (
    Affine,
    Data,
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

Pair = tuple[float, float]


def gaussian_data() -> Data:
    """Correlated Gaussian data in three dimensions."""
    covariance = torch.tensor([[1.0, 0.4, 0.1], [0.4, 0.5, -0.1], [0.1, -0.1, 0.08]], dtype=torch.float64)
    return Data(torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64), covariance)


def grid() -> Tensor:
    """λ_0…λ_20 of the constant σ that leaves 5 % of the signal."""
    return constant(num_levels=20, delta=0.05).logsnr


# -- the endpoint rule -----------------------------------------------------------------------------------------


def endpoint_at_a_tie() -> Pair:
    """σ = 0.5, δ = 0.75: α² = 0.75 is not below δ, so L = 3."""
    return 3.0, float(endpoint_levels(0.5, 0.75))


def endpoint_against_rationals(count: int = 2000, seed: int = 0) -> Pair:
    """Random (σ, δ): how many L are not the least with (1−σ²)^L < δ², in integers; 0."""
    rng, wrong = random.Random(seed), 0
    for _ in range(count):
        sigma, delta = rng.uniform(0.15, 0.999), rng.uniform(1e-6, 1.0)
        levels = endpoint_levels(sigma, delta)
        wrong += not (_below(sigma, delta, levels) and (levels == 1 or not _below(sigma, delta, levels - 1)))
    return 0.0, float(wrong)


def sigma_of_the_lecture(num_levels: int = 1000, delta: float = 0.01) -> Pair:
    """The smallest σ whose endpoint rule returns L, and √(1 − δ^{2/L})."""
    return (1 - delta ** (2 / num_levels)) ** 0.5, endpoint_sigma(num_levels, delta)


def _below(sigma: float, delta: float, levels: int) -> bool:
    kept, limit = 1 - Fraction(sigma) ** 2, Fraction(delta) ** 2
    return kept.numerator**levels * limit.denominator < limit.numerator * kept.denominator**levels


# -- the encoder -----------------------------------------------------------------------------------------------


def steps_make_the_marginal() -> Pair:
    """z_ℓ = √(1−σ²) z_{ℓ−1} + σ ε, ℓ times: α^ℓ and 1 − α^{2ℓ} against the marginal's mean and variance."""
    levels, one = grid(), torch.ones(1, 1, dtype=torch.float64)
    mean, variance, worst = one, torch.zeros((), dtype=torch.float64), 0.0
    for prev, now in pairwise(levels):
        step, whole = forward.step(mean, prev, now), forward.marginal(one, now)
        mean, variance = step.mean, (1 - step.variance) * variance + step.variance
        worst = max(worst, _apart(mean, whole.mean), _apart(variance, whole.variance))
    return 0.0, worst


def bayes_rule() -> Pair:
    """ln q(z_ℓ|z_{ℓ−1}) + ln q(z_{ℓ−1}|x) against ln q(z_{ℓ−1}|z_ℓ,x) + ln q(z_ℓ|x) at ℓ ≥ 2."""
    worst = 0.0
    for prev, now in _steps():
        x, z_prev, z = _draws(3)
        left = forward.step(z_prev, prev, now).log_prob(z) + forward.marginal(x, prev).log_prob(z_prev)
        right = forward.posterior(x, z, prev, now).log_prob(z_prev) + forward.marginal(x, now).log_prob(z)
        worst = max(worst, _apart(left, right))
    return 0.0, worst


def posterior_moments() -> Pair:
    """[α s'² z + a' σ² x]/s² and σ² s'²/s² against the posterior's mean and variance."""
    worst = 0.0
    for prev, now in _steps():
        x, z = _draws(2)
        alpha, variance = forward.step_alpha(prev, now), forward.step_variance(prev, now)
        s_prev, s = forward.noise_scale(prev) ** 2, forward.noise_scale(now) ** 2
        mean = (alpha * s_prev * z + forward.signal_scale(prev) * variance * x) / s
        law = forward.posterior(x, z, prev, now)
        worst = max(worst, _apart(mean, law.mean), _apart(variance * s_prev / s, law.variance))
    return 0.0, worst


def level_kl() -> Pair:
    """½(γ_{ℓ−1} − γ_ℓ)‖x − x̂‖² and the KL of the two Gaussians with variance β̃, summed over the levels ℓ ≥ 2."""
    expected, measured = 0.0, 0.0
    for prev, now in _steps():
        x, x_hat, z = _draws(3)
        prior = PosteriorVariance().step(x_hat, z, prev, now)
        measured += float(forward.posterior(x, z, prev, now).kl(prior).sum())
        expected += float(0.5 * (prev.exp() - now.exp()) * ((x - x_hat) ** 2).sum())
    return expected, measured


# -- the targets -----------------------------------------------------------------------------------------------


def mean_onto_a_sample() -> Pair:
    """The best affine μ on the posterior mean and on z_{ℓ−1} itself: the largest difference is 0."""
    data = gaussian_data()
    return 0.0, max(_differ(on_mean(data, MEAN, *step), on_previous(data, *step)) for step in _steps())


def noise_onto_a_sample() -> Pair:
    """The best affine ε on ρ ε̄ and on the one-step noise itself: the largest difference is 0."""
    data = gaussian_data()
    return 0.0, max(_differ(on_mean(data, STEP_NOISE, *step), on_step_noise(data, *step)) for step in _steps())


def mean_from_noise() -> Pair:
    """μ = (z − σ ε)/√(1−σ²) of the best affine ε, against the best affine μ: the largest difference is 0."""
    data, worst = gaussian_data(), 0.0
    for prev, now in _steps():
        sigma, alpha = forward.step_variance(prev, now).sqrt(), forward.step_alpha(prev, now)
        noise = on_step_noise(data, prev, now)
        weight = (torch.eye(3, dtype=torch.float64) - sigma * noise.weight) / alpha
        worst = max(worst, _differ(Affine(weight, -sigma * noise.offset / alpha), on_previous(data, prev, now)))
    return 0.0, worst


def six_targets_one_denoiser() -> Pair:
    """x̂ of the best affine predictor of each target against that of the data: the largest difference is 0."""
    data = gaussian_data()
    return 0.0, max(
        _differ(on_mean(data, target, *step).as_x(target, *step), on_mean(data, DATA, *step))
        for step in _steps()
        for target in TARGETS
    )


def six_targets_one_nats() -> Pair:
    """Nats of the levels ℓ ≥ 2 with one x̂ told in six ways: of the data target, and the farthest of the others."""
    totals = dict.fromkeys([target.name for target in TARGETS], 0.0)
    for prev, now in _steps():
        x, x_hat, noise = _draws(3)
        z = forward.noised(x, noise, now)
        for target in TARGETS:
            told = target.to_x(target.of_x(x_hat, z, now, prev), z, now, prev)
            totals[target.name] += float(PosteriorVariance().kl(x, told, prev, now).mean())
    return totals["data"], max(totals.values(), key=lambda nats: abs(nats - totals["data"]))


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


def sampled_targets(seed: int = 0, count: int = 20_000, level: int = 10) -> Pair:
    """Least squares on drawn one-step noises: the largest miss in predicted standard errors, below 4."""
    data, g = gaussian_data(), generator(seed, "sampled targets")
    prev, now = grid()[level - 1], grid()[level]
    white, noise, fresh = torch.randn(3, count, 3, generator=g, dtype=torch.float64)
    x = data.mean + white @ torch.linalg.cholesky(data.covariance).T
    raw = STEP_NOISE.of_sample(x, noise, fresh, now, prev)
    fit = least_squares(forward.noised(x, noise, now), raw)
    return 0.0, float(fit.deviation(on_step_noise(data, prev, now)).abs().max())


# -- the gradients ---------------------------------------------------------------------------------------------


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


def parameter_gradients(level: int = 12, count: int = 16) -> Pair:
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


def raw_gradients_are_equal(levels: int = 1000, delta: float = 0.01, error: float = 0.3) -> Pair:
    """The lecture's claim: over levels ℓ > 20 the raw ε gradients' second moments stay within 4 %; largest/smallest."""
    raw = noise_loss_gradient(constant(num_levels=levels, delta=delta), torch.full((levels,), error).double()).raw[20:]
    return 1.0, float(raw.max() / raw.min())


def mean_gradients_fall(levels: int = 1000, delta: float = 0.01, error: float = 0.3) -> Pair:
    """But means scale with ρ²: first over last level, by ρ² and by the second moments of the mean gradients."""
    schedule = constant(num_levels=levels, delta=delta)
    s = forward.noise_scale(schedule.logsnr)
    mean = noise_loss_gradient(schedule, torch.full((levels,), error).double()).mean
    return float((s[-1] / s[1]) ** 2), float(mean[0] / mean[-1])


def mean_loss_is_the_noise_loss(levels: int = 1000, delta: float = 0.01, error: float = 0.3) -> Pair:
    """At constant σ the μ loss is no less even: its gradient is that of the ε loss times 1/(2ασ), at every level."""
    schedule = constant(num_levels=levels, delta=delta)
    errors = torch.full((levels,), error).double()
    ratio = mean_loss_gradient(schedule, errors).raw[1:] / noise_loss_gradient(schedule, errors).raw[1:]
    expected = 1 / (4 * schedule.sigma**2 * (1 - schedule.sigma**2))
    return expected, float(ratio[(ratio - expected).abs().argmax()])


def _steps() -> list[tuple[Tensor, Tensor]]:
    levels = grid()
    return list(pairwise(levels[1:]))


def _draws(count: int) -> tuple[Tensor, ...]:
    return torch.randn(count, 8, 3, generator=generator(0, "statements", count), dtype=torch.float64).unbind()


def _apart(one: Tensor, other: Tensor) -> float:
    return float(((one - other).abs() / (1 + other.abs())).max())


def _differ(one: Affine, other: Affine) -> float:
    return max(_apart(one.weight, other.weight), _apart(one.offset, other.offset))


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
