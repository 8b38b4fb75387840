"""Chapters 8 and 9: samplers as solvers, and guidance."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from markovae.course.exercise import Draw, Exercise, Mistake
from markovae.diffusion.forward import noise_scale, posterior, posterior_variance, signal_scale, step_variance
from markovae.sampling.samplers import held_step


def _step(draw: Draw) -> tuple[Tensor, ...]:
    """z, x_hat, logsnr, logsnr_next: towards data the log-SNR rises."""
    later, now = draw.falling_logsnr()
    return draw.normal(3, 4), draw.normal(3, 4), now, later


def _noisy_step(draw: Draw) -> tuple[Tensor, ...]:
    z, x_hat, now, later = _step(draw)
    return z, x_hat, draw.normal(3, 4), now, later


def _ddim(z: Tensor, x_hat: Tensor, now: Tensor, later: Tensor) -> Tensor:
    noise = (z - signal_scale(now) * x_hat) / noise_scale(now)
    return signal_scale(later) * x_hat + noise_scale(later) * noise


def _ancestral(z: Tensor, x_hat: Tensor, noise: Tensor, now: Tensor, later: Tensor) -> Tensor:
    mean = posterior(x_hat, z, later, now).mean
    return mean + posterior_variance(later, now).sqrt() * noise


def _second_order(draw: Draw) -> tuple[Tensor, ...]:
    now, before = draw.normal(3, 4), draw.normal(3, 4)
    return now, before, draw.uniform(0.2, 2), draw.uniform(0.2, 2)


SAMPLING_EXERCISES = (
    Exercise(
        "ddim_step",
        8,
        "z, x_hat, logsnr, logsnr_next",
        "One deterministic DDIM step: z at logsnr_next, keeping the noise that x_hat implies. (B, D); log-SNRs: ()",
        _step,
        held_step,
        (
            Mistake(
                "noise is implied by z − x̂: the signal scale a before x̂ is missing",
                lambda z, x, n, m: signal_scale(m) * x + noise_scale(m) * (z - x) / noise_scale(n),
            ),
            Mistake(
                "the noise is not divided by s of the present level",
                lambda z, x, n, m: signal_scale(m) * x + noise_scale(m) * (z - signal_scale(n) * x),
            ),
            Mistake(
                "z itself stands for the noise: take x̂ off, and divide by s",
                lambda z, x, n, m: signal_scale(m) * x + noise_scale(m) * z,
            ),
            Mistake("the two log-SNRs are swapped", lambda z, x, n, m: _ddim(z, x, m, n)),
            Mistake("this is the mean of the ancestral step", lambda z, x, n, m: posterior(x, z, m, n).mean),
            Mistake(
                "the result is x̂ at the present level's signal scale: use the next one's",
                lambda z, x, n, m: signal_scale(n) * x + noise_scale(m) * (z - signal_scale(n) * x) / noise_scale(n),
            ),
        ),
    ),
    Exercise(
        "ancestral_step",
        8,
        "z, x_hat, noise, logsnr, logsnr_next",
        "A draw of p_pri(z_{l-1} | z_l) with variance β̃ and this standard noise; logsnr is of l, logsnr_next of l−1. "
        "(B, D); log-SNRs: ()",
        _noisy_step,
        _ancestral,
        (
            Mistake("no noise is added: this is the mean", lambda z, x, e, n, m: posterior(x, z, m, n).mean),
            Mistake(
                "the noise is scaled by the variance β̃: take its square root",
                lambda z, x, e, n, m: posterior(x, z, m, n).mean + posterior_variance(m, n) * e,
            ),
            Mistake(
                "the variance is σ², the encoder's: β̃ was asked for",
                lambda z, x, e, n, m: posterior(x, z, m, n).mean + step_variance(m, n).sqrt() * e,
            ),
        ),
    ),
    Exercise(
        "extrapolated_x",
        8,
        "x_hat, x_hat_before, width, width_before",
        "DPM-Solver++(2M)'s D = x̂ + (x̂ − x̂_1)/(2 r), r = width_before/width: x̂ half a step ahead. (B, D); widths in "
        "log-SNR: ()",
        _second_order,
        lambda now, before, width, width_before: now + (now - before) * width / (2 * width_before),
        (
            Mistake("the two widths are swapped", lambda now, before, w, v: now + (now - before) * v / (2 * w)),
            Mistake(
                "the half is missing: this looks a whole step ahead",
                lambda now, before, w, v: now + (now - before) * w / v,
            ),
            Mistake(
                "the slope has the wrong sign: this looks backwards",
                lambda now, before, w, v: now - (now - before) * w / (2 * v),
            ),
        ),
    ),
    Exercise(
        "flow_drift",
        8,
        "z, x_hat",
        "dz/dt of the probability-flow ODE in the time t = −ln a, from x_hat at log-SNR 0 (so a² = s² = ½): "
        "−z − score, with the score (a x̂ − z)/s². (B, D)",
        lambda draw: (draw.normal(3, 4), draw.normal(3, 4)),
        lambda z, x_hat: -z - (math.sqrt(0.5) * x_hat - z) / 0.5,
        (
            Mistake(
                "that is the reverse SDE's: the ODE has one score, not two",
                lambda z, x: -z - 2 * (math.sqrt(0.5) * x - z) / 0.5,
            ),
            Mistake("the score is added", lambda z, x: -z + (math.sqrt(0.5) * x - z) / 0.5),
            Mistake("the sign of z is wrong: z decays", lambda z, x: z - (math.sqrt(0.5) * x - z) / 0.5),
            Mistake(
                "the score is halved, as on a VP-SDE's own clock: in the time t = −ln a it is whole",
                lambda z, x: -z - 0.5 * (math.sqrt(0.5) * x - z) / 0.5,
            ),
        ),
    ),
    Exercise(
        "guided",
        9,
        "x_hat, x_hat_null, weight",
        "Classifier-free guidance: weight 0 is the unconditional x̂, 1 the conditional; more goes beyond. (B, D)",
        lambda draw: (draw.normal(3, 4), draw.normal(3, 4), draw.number(0.0, 5.0)),
        lambda x_hat, null, weight: torch.lerp(null, x_hat, weight),
        (
            Mistake(
                "this is Ho & Salimans' 1 + w: their weight 0 is the conditional one",
                lambda x, null, w: (1 + w) * x - w * null,
            ),
            Mistake("conditional and unconditional are swapped", lambda x, null, w: x + w * (null - x)),
        ),
    ),
)
