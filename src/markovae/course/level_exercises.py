"""Chapter 5: what the network may be asked for. Six targets that are affine maps of one another."""

from __future__ import annotations

import torch
from torch import Tensor

from markovae.course.exercise import Draw, Exercise, Mistake
from markovae.diffusion import target
from markovae.diffusion.forward import noise_scale, posterior, signal_scale, step_alpha, step_variance


def _one(draw: Draw) -> tuple[Tensor, ...]:
    return draw.normal(3, 4), draw.normal(3, 4), draw.uniform(-5, 5)


def _two(draw: Draw) -> tuple[Tensor, ...]:
    return draw.normal(3, 4), draw.normal(3, 4), *draw.falling_logsnr()


def _mean_of_x(z: Tensor, x_hat: Tensor, before: Tensor, now: Tensor) -> Tensor:
    return posterior(x_hat, z, before, now).mean


LEVEL_EXERCISES = (
    Exercise(
        "x_from_noise",
        5,
        "z, noise, logsnr",
        "x from a latent z = a x + s ε and its cumulative noise ε, (B, D); logsnr: ()",
        _one,
        lambda z, noise, logsnr: target.NOISE.to_x(noise, z, logsnr),
        (
            Mistake(
                "the noise is added: it must be taken away", lambda z, e, n: (z + noise_scale(n) * e) / signal_scale(n)
            ),
            Mistake("the division by a is missing", lambda z, e, n: z - noise_scale(n) * e),
            Mistake("the noise is not scaled by s", lambda z, e, n: (z - e) / signal_scale(n)),
            Mistake(
                "s² stands where s belongs: the variance for the scale",
                lambda z, e, n: (z - torch.sigmoid(-n) * e) / signal_scale(n),
            ),
            Mistake(
                "a² stands where a belongs: ᾱ for its square root",
                lambda z, e, n: (z - noise_scale(n) * e) / torch.sigmoid(n),
            ),
        ),
    ),
    Exercise(
        "velocity",
        5,
        "x, noise, logsnr",
        "The velocity v = a ε − s x of an example and its noise, (B, D); logsnr: ()",
        _one,
        lambda x, noise, logsnr: target.VELOCITY.of(x, noise, logsnr),
        (
            Mistake("a and s are swapped", lambda x, e, n: noise_scale(n) * e - signal_scale(n) * x),
            Mistake("it is a difference, not a sum", lambda x, e, n: signal_scale(n) * e + noise_scale(n) * x),
            Mistake(
                "a² and s² stand where a and s belong: the square roots are missing",
                lambda x, e, n: torch.sigmoid(n) * e - torch.sigmoid(-n) * x,
            ),
            Mistake("this is z itself", lambda x, e, n: signal_scale(n) * x + noise_scale(n) * e),
        ),
    ),
    Exercise(
        "x_from_velocity",
        5,
        "z, velocity, logsnr",
        "x from a latent and its velocity v = a ε − s x, (B, D); logsnr: ()",
        _one,
        lambda z, v, logsnr: target.VELOCITY.to_x(v, z, logsnr),
        (
            Mistake(
                "a and s are swapped: this is the noise's side",
                lambda z, v, n: noise_scale(n) * z - signal_scale(n) * v,
            ),
            Mistake("the sign of v is wrong", lambda z, v, n: signal_scale(n) * z + noise_scale(n) * v),
            Mistake("this is ε = s z + a v", lambda z, v, n: noise_scale(n) * z + signal_scale(n) * v),
        ),
    ),
    Exercise(
        "score",
        5,
        "x, z, logsnr",
        "The gradient of ln q(z | x) = ln N(z; a x, s²) by z, (B, D); logsnr: ()",
        _one,
        lambda x, z, logsnr: -(z - signal_scale(logsnr) * x) / noise_scale(logsnr) ** 2,
        (
            Mistake(
                "this is −ε = −(z − a x)/s: divide by s once more",
                lambda x, z, n: -(z - signal_scale(n) * x) / noise_scale(n),
            ),
            Mistake("the mean of z is a x, not x", lambda x, z, n: -(z - x) / torch.sigmoid(-n)),
            Mistake("the division by s² is missing", lambda x, z, n: signal_scale(n) * x - z),
        ),
    ),
    Exercise(
        "expected_step_noise",
        5,
        "noise, logsnr_prev, logsnr",
        "E[ε_l | x, z_l], the best guess of one step's noise from the cumulative noise ε̄, (B, D); log-SNRs: ()",
        lambda draw: (draw.normal(3, 4), *draw.falling_logsnr()),
        lambda noise, before, now: target.noise_ratio(before, now)[0] * noise,
        (
            Mistake(
                "it is σ/s, not σ: one step's share of the standard deviation of all noise",
                lambda e, p, n: step_variance(p, n).sqrt() * e,
            ),
            Mistake(
                "the ratio is of standard deviations: ρ = σ/s, not its square",
                lambda e, p, n: target.noise_ratio(p, n)[0] ** 2 * e,
            ),
            Mistake("one step's noise is not the cumulative noise: a factor ρ = σ/s is missing", lambda e, p, n: e),
            Mistake(
                "divided by ρ = σ/s: one step's part of the noise is the smaller",
                lambda e, p, n: e / target.noise_ratio(p, n)[0],
            ),
        ),
    ),
    Exercise(
        "mean_from_step_noise",
        5,
        "z, step_noise, sigma",
        "μ_pri = z_{l-1} from z_l and the noise of this one step, of standard deviation sigma, a number. (B, D)",
        lambda draw: (draw.normal(3, 4), draw.normal(3, 4), draw.number(0.05, 0.9)),
        lambda z, noise, sigma: (z - sigma * noise) / (1 - sigma**2) ** 0.5,
        (
            Mistake("the division by √(1 − σ²) is missing", lambda z, e, sigma: z - sigma * e),
            Mistake(
                "divided by 1 − σ²: its square root undoes the step",
                lambda z, e, sigma: (z - sigma * e) / (1 - sigma**2),
            ),
            Mistake(
                "multiplied by √(1 − σ²): dividing undoes the step",
                lambda z, e, sigma: (z - sigma * e) * (1 - sigma**2) ** 0.5,
            ),
            Mistake(
                "σ² stands where σ belongs, before the noise",
                lambda z, e, sigma: (z - sigma**2 * e) / (1 - sigma**2) ** 0.5,
            ),
            Mistake(
                "the noise is added: it must be taken away", lambda z, e, sigma: (z + sigma * e) / (1 - sigma**2) ** 0.5
            ),
        ),
    ),
    Exercise(
        "mean_from_noise",
        5,
        "z, noise, logsnr_prev, logsnr",
        "Ho et al.'s mean of p_pri(z_{l-1} | z_l) from a prediction of the cumulative noise, (B, D); log-SNRs: ()",
        _two,
        lambda z, noise, before, now: _mean_of_x(z, target.NOISE.to_x(noise, z, now), before, now),
        (
            Mistake(
                "the cumulative noise is taken for one step's: the weight is σ²/s, not σ",
                lambda z, e, p, n: (z - step_variance(p, n).sqrt() * e) / step_alpha(p, n),
            ),
            Mistake(
                "the weight of the noise is σ²/s: s is missing",
                lambda z, e, p, n: (z - step_variance(p, n) * e) / step_alpha(p, n),
            ),
            Mistake(
                "divided by a of all steps: it is α of this one",
                lambda z, e, p, n: (z - step_variance(p, n) / noise_scale(n) * e) / signal_scale(n),
            ),
        ),
    ),
    Exercise(
        "gradient_ratio",
        5,
        "rho, error",
        "R = 1 + (1 − ρ²)/(ρ² m): how much larger the second moment of the raw one-step gradient is than after "
        "Rao–Blackwell. rho: ρ = σ/s, a number. error: m, the cumulative noise's squared error per dimension, a number",
        lambda draw: (draw.number(0.05, 0.9), draw.number(0.02, 1.0)),
        lambda rho, error: 1 + (1 - rho**2) / (rho**2 * error),
        (
            Mistake("the one is missing", lambda rho, error: (1 - rho**2) / (rho**2 * error)),
            Mistake("ρ is not squared", lambda rho, error: 1 + (1 - rho) / (rho * error)),
        ),
    ),
)
