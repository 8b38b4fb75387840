"""Chapters 2 and 3: the Gaussian chain and its closed forms, the endpoint rule and the SDE limit."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from markovae.course.exercise import Draw, Exercise, Mistake
from markovae.diffusion import forward, schedule
from markovae.theory import sde


def _sigmas(draw: Draw) -> tuple[Tensor]:
    return (draw.uniform(0.05, 0.6, draw.whole(2, 7)),)


def _posterior_inputs(draw: Draw) -> tuple[Tensor, ...]:
    return draw.normal(3, 4), draw.normal(3, 4), *draw.falling_logsnr()


def _posterior_mean(x: Tensor, z: Tensor, before: Tensor, now: Tensor) -> Tensor:
    return forward.posterior(x, z, before, now).mean


def _misread(
    x: Tensor,
    z: Tensor,
    before: Tensor,
    now: Tensor,
    *,
    before_z: Callable[[Tensor, Tensor], Tensor] = forward.step_alpha,
    before_x: Callable[[Tensor, Tensor], Tensor] = lambda before, now: forward.signal_scale(before),
    power: float = 2,
    step: float = 1,
    division: float = 1,
) -> Tensor:
    """The posterior's mean with one of its parts taken for another; as it stands it is right."""
    s_prev, s, variance = forward.noise_scale(before), forward.noise_scale(now), forward.step_variance(before, now)
    top = before_z(before, now) * s_prev**power * z + before_x(before, now) * variance**step * x
    return top / s ** (2 * division)


def _swapped_levels(x: Tensor, z: Tensor, before: Tensor, now: Tensor) -> Tensor:
    """The posterior's mean with l and l−1 exchanged, which the library refuses: α > 1."""
    alpha = forward.signal_scale(before) / forward.signal_scale(now)
    top = alpha * torch.sigmoid(-now) * z + forward.signal_scale(now) * (1 - alpha**2) * x
    return top / torch.sigmoid(-before)


def _close_levels(draw: Draw) -> tuple[Tensor, Tensor]:
    """Half of the trials with neighbours so close that 1 − α² loses its digits."""
    before = draw.uniform(-6, 6)
    return before, before - (draw.uniform(0.2, 3) if draw.whole(0, 2) else draw.uniform(1e-10, 1e-9))


def _endpoint(draw: Draw) -> tuple[float, float]:
    """Every fourth trial ties: (1−σ²)^{L/2} = δ for a whole L, which is not below δ."""
    if draw.whole(0, 4) == 0:
        return math.sqrt(0.75), 0.5 ** draw.whole(1, 6)
    return draw.number(0.05, 0.6), draw.number(0.001, 0.2)


def _gaussian_inputs(draw: Draw) -> tuple[Tensor, ...]:
    return draw.normal(3, 4), draw.normal(4), draw.uniform(0.2, 3, 4), draw.uniform(-4, 4)


def _exact_denoiser(z: Tensor, mean: Tensor, variance: Tensor, logsnr: Tensor) -> Tensor:
    a, s = forward.signal_scale(logsnr), forward.noise_scale(logsnr)
    return mean + a * variance / (a**2 * variance + s**2) * (z - a * mean)


CHAIN_EXERCISES = (
    Exercise(
        "encoder_step",
        2,
        "z_prev, step_noise, sigma",
        "z_l from z_{l-1}: one step of DDPM's encoder. z_prev, step_noise: (B, D). sigma: the step's noise, a number",
        lambda draw: (draw.normal(3, 4), draw.normal(3, 4), draw.number(0.05, 0.9)),
        lambda z, noise, sigma: math.sqrt(1 - sigma**2) * z + sigma * noise,
        (
            Mistake("the signal is not shrunk: the variance grows", lambda z, noise, sigma: z + sigma * noise),
            Mistake(
                "the noise is scaled by σ²: σ is the standard deviation",
                lambda z, noise, sigma: math.sqrt(1 - sigma**2) * z + sigma**2 * noise,
            ),
            Mistake(
                "the signal is scaled by 1 − σ²: its square root keeps the variance",
                lambda z, noise, sigma: (1 - sigma**2) * z + sigma * noise,
            ),
            Mistake(
                "σ is taken for the variance",
                lambda z, noise, sigma: math.sqrt(1 - sigma) * z + math.sqrt(sigma) * noise,
            ),
        ),
    ),
    Exercise(
        "signal_scale",
        2,
        "sigmas",
        "a_L: what the steps of noise sigmas (L,) leave of the signal together, ()",
        _sigmas,
        lambda sigmas: (1 - sigmas**2).sqrt().prod(),
        (
            Mistake("this is ᾱ = a²: the square root is missing", lambda sigmas: (1 - sigmas**2).prod()),
            Mistake("σ is taken for the variance", lambda sigmas: (1 - sigmas).sqrt().prod()),
            Mistake("the steps' α are added, not multiplied", lambda sigmas: (1 - sigmas**2).sqrt().sum()),
        ),
    ),
    Exercise(
        "noise_scale",
        2,
        "sigmas",
        "s_L: the standard deviation of all the noise that the steps of noise sigmas (L,) leave in z_L, ()",
        _sigmas,
        lambda sigmas: (1 - (1 - sigmas**2).prod()).sqrt(),
        (
            Mistake("this is the variance s²: the square root is missing", lambda sigmas: 1 - (1 - sigmas**2).prod()),
            Mistake(
                "the steps' variances are added: each later step shrinks the earlier noise",
                lambda sigmas: (sigmas**2).sum().sqrt(),
            ),
            Mistake("this is 1 − a: it is a² + s² that is one", lambda sigmas: 1 - (1 - sigmas**2).sqrt().prod()),
        ),
    ),
    Exercise(
        "logsnr",
        2,
        "signal",
        "λ = ln(a²/s²) of signal scales a, (L,), with s² = 1 − a²",
        lambda draw: (draw.uniform(0.02, 0.98, 5),),
        lambda signal: (signal**2 / (1 - signal**2)).log(),
        (
            Mistake("this is ln(a/s): the squares are missing", lambda a: (a / (1 - a**2).sqrt()).log()),
            Mistake("s² is 1 − a², not 1 − a", lambda a: (a / (1 - a)).log()),
            Mistake("this is γ: the logarithm is missing", lambda a: a**2 / (1 - a**2)),
        ),
    ),
    Exercise(
        "scales_of",
        2,
        "logsnr",
        "The pair (a, s) at a log-SNR λ (), as a tuple of two numbers",
        lambda draw: (draw.uniform(-9, 9),),
        lambda logsnr: (forward.signal_scale(logsnr), forward.noise_scale(logsnr)),
        (
            Mistake("a and s are swapped", lambda v: (forward.noise_scale(v), forward.signal_scale(v))),
            Mistake(
                "these are a² and s²: the square roots are missing", lambda v: (torch.sigmoid(v), torch.sigmoid(-v))
            ),
            Mistake(
                "λ is the logarithm of a²/s², not of a/s",
                lambda v: (forward.signal_scale(2 * v), forward.noise_scale(2 * v)),
            ),
        ),
    ),
    Exercise(
        "step_variance",
        2,
        "logsnr_prev, logsnr",
        "σ_l² = 1 − a_l²/a_{l-1}² from two log-SNRs (), right to the last digits where they are a billionth apart",
        _close_levels,
        forward.step_variance,
        (
            Mistake(
                "this is s_{l-1}² times what it should be divided by",
                lambda a, b: -torch.sigmoid(-a) * torch.expm1(b - a),
            ),
            Mistake(
                "right in theory, but digits are lost where neighbours are close: use expm1 of their difference",
                lambda a, b: 1 - torch.sigmoid(b) / torch.sigmoid(a),
            ),
        ),
    ),
    Exercise(
        "posterior_mean",
        2,
        "x, z, logsnr_prev, logsnr",
        "The mean of q(z_{l-1} | z_l, x), (B, D): what the prior must imitate. x, z: (B, D). log-SNRs: ()",
        _posterior_inputs,
        _posterior_mean,
        (
            Mistake("x and z are swapped", lambda x, z, a, b: _posterior_mean(z, x, a, b)),
            Mistake(
                "a_l stands where a_{l-1} belongs, before x",
                partial(_misread, before_x=lambda before, now: forward.signal_scale(now)),
            ),
            Mistake(
                "a_l stands where α_l belongs, before z: α is of one step, a of all",
                partial(_misread, before_z=lambda before, now: forward.signal_scale(now)),
            ),
            Mistake(
                "α_l² stands where α_l belongs, before z: Ho et al.'s α is the square",
                partial(_misread, before_z=lambda before, now: forward.step_alpha(before, now) ** 2),
            ),
            Mistake(
                "a_{l-1}² stands where a_{l-1} belongs, before x: ᾱ for its square root",
                partial(_misread, before_x=lambda before, now: forward.signal_scale(before) ** 2),
            ),
            Mistake("the two log-SNRs are swapped", _swapped_levels),
            Mistake("the division by s_l² is missing", partial(_misread, division=0)),
            Mistake("s_l is not squared", partial(_misread, division=0.5)),
            Mistake("s_{l-1} is not squared", partial(_misread, power=1)),
            Mistake("σ is not squared", partial(_misread, step=0.5)),
        ),
    ),
    Exercise(
        "posterior_variance",
        2,
        "logsnr_prev, logsnr",
        "β̃_l = σ_l² s_{l-1}² / s_l², the variance of q(z_{l-1} | z_l, x), from two log-SNRs ()",
        lambda draw: draw.falling_logsnr(),
        forward.posterior_variance,
        (
            Mistake("this is σ², the variance of the encoder's step", forward.step_variance),
            Mistake(
                "the two noise scales are swapped",
                lambda a, b: forward.step_variance(a, b) * torch.sigmoid(-b) / torch.sigmoid(-a),
            ),
            Mistake(
                "the noise scales are not squared",
                lambda a, b: forward.step_variance(a, b) * forward.noise_scale(a) / forward.noise_scale(b),
            ),
        ),
    ),
    Exercise(
        "gaussian_entropy",
        2,
        "eigenvalues",
        "The differential entropy of a Gaussian with these eigenvalues of its covariance, (D,), nats",
        lambda draw: (draw.uniform(0.1, 4, draw.whole(2, 6)),),
        lambda values: 0.5 * (2 * math.pi * math.e * values).log().sum(),
        (
            Mistake(
                "the e in ½ ln(2πe s) is missing: half a nat a dimension",
                lambda values: 0.5 * (2 * math.pi * values).log().sum(),
            ),
            Mistake(
                "the eigenvalues are variances: their squares are not wanted",
                lambda values: 0.5 * (2 * math.pi * math.e * values**2).log().sum(),
            ),
            Mistake(
                "½ ln 2πe is counted once: every dimension has one",
                lambda values: 0.5 * math.log(2 * math.pi * math.e) + 0.5 * values.log().sum(),
            ),
        ),
    ),
    Exercise(
        "exact_denoiser",
        2,
        "z, mean, variance, logsnr",
        "E[x | z_l] for data N(mean, variance) of independent dimensions, (B, D). mean, variance: (D,). logsnr: ()",
        _gaussian_inputs,
        _exact_denoiser,
        (
            Mistake(
                "z is compared with the mean of x: the mean of z is a times that",
                lambda z, m, v, n: (
                    m + forward.signal_scale(n) * v / (torch.sigmoid(n) * v + torch.sigmoid(-n)) * (z - m)
                ),
            ),
            Mistake(
                "the a of the gain a v/(a² v + s²) is missing",
                lambda z, m, v, n: (
                    m + v / (torch.sigmoid(n) * v + torch.sigmoid(-n)) * (z - forward.signal_scale(n) * m)
                ),
            ),
            Mistake(
                "this is the naive inverse z/a: the prior knowledge of mean and variance is not used",
                lambda z, m, v, n: z / forward.signal_scale(n),
            ),
        ),
    ),
    Exercise(
        "endpoint_levels",
        3,
        "sigma, delta",
        "The endpoint rule: the least whole L with (1 − σ²)^{L/2} < δ. Strictly below: a tie takes one level more",
        _endpoint,
        schedule.endpoint_levels,
        (
            Mistake(
                "(1 − σ²) to the power L, not L/2: α is the square root of 1 − σ²",
                lambda sigma, delta: math.ceil(math.log(delta) / math.log1p(-(sigma**2))),
            ),
            Mistake(
                "right but for ties: where α^L equals δ it is not yet below δ",
                lambda sigma, delta: math.ceil(round(2 * math.log(delta) / math.log1p(-(sigma**2)), 9)),
            ),
            Mistake(
                "rounded down: this L does not reach δ yet",
                lambda sigma, delta: math.floor(round(2 * math.log(delta) / math.log1p(-(sigma**2)), 9)),
            ),
        ),
    ),
    Exercise(
        "time_of",
        3,
        "signal",
        "The time t = −ln a at which the SDE has left the signal scale a, (L,)",
        lambda draw: (draw.uniform(0.02, 0.98, 5),),
        lambda signal: -signal.log(),
        (Mistake("−ln a² is twice the time", lambda signal: -(signal**2).log()),),
    ),
    Exercise(
        "sde_marginal",
        3,
        "x, noise, time",
        "z_t of the SDE from z_0 = x and standard noise, in one leap. (B, D); time: ()",
        lambda draw: (draw.normal(3, 4), draw.normal(3, 4), draw.uniform(0.05, 3)),
        lambda x, noise, time: forward.noised(x, noise, sde.logsnr_at(time)),
        (
            Mistake(
                "the noise's scale is √(1 − e^{−2t}), with a 2",
                lambda x, noise, t: (-t).exp() * x + (1 - (-t).exp()).sqrt() * noise,
            ),
            Mistake(
                "the noise is scaled by its variance: the square root is missing",
                lambda x, noise, t: (-t).exp() * x + (1 - (-2 * t).exp()) * noise,
            ),
            Mistake(
                "√(2t) is the noise of a small t alone", lambda x, noise, t: (-t).exp() * x + (2 * t).sqrt() * noise
            ),
        ),
    ),
    Exercise(
        "sde_step",
        3,
        "z, noise, dt",
        "One Euler–Maruyama step of dz = −z dt + √2 dW: z after dt. z, noise: (B, D). dt: ()",
        lambda draw: (draw.normal(3, 4), draw.normal(3, 4), draw.uniform(0.001, 0.5)),
        lambda z, noise, dt: z - z * dt + (2 * dt).sqrt() * noise,
        (
            Mistake(
                "the drift has the wrong sign: z decays", lambda z, noise, dt: z + z * dt + (2 * dt).sqrt() * noise
            ),
            Mistake("the 2 of √(2 dt) is missing", lambda z, noise, dt: z - z * dt + dt.sqrt() * noise),
            Mistake("noise grows with √dt, not with dt", lambda z, noise, dt: z - z * dt + 2 * dt * noise),
            Mistake(
                "this is the change alone: z itself is missing",
                lambda z, noise, dt: -z * dt + (2 * dt).sqrt() * noise,
            ),
        ),
    ),
)
