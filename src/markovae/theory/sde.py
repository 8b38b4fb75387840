r"""The limit of ever smaller steps, σ → 0: the Ornstein–Uhlenbeck process on the clock t = −ln a.

    forward      dz = −z dt + √2 dW,                 z_t = e^{−t} z_0 + √(1−e^{−2t}) ε
    reverse      dz = (z + 2∇ln p_t) dτ + √2 dW      τ runs against t
    flow         dz = (z + ∇ln p_t) dτ               same marginals, no noise
A VP-SDE is the same process on another clock: t = ½∫β.
Source: Song et al. 2021 (score-based SDEs); lecture, "the SDE limit".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from markovae.diffusion.forward import noise_scale, signal_scale
from markovae.diffusion.gaussian import Gaussian, expand
from markovae.randomness import Source
from markovae.theory.quadrature import gauss_legendre, slope

Score = Callable[[Tensor, Tensor], Tensor]
"""∇ln p(z_λ) from (z, log-SNR), (B, *D): that of a toy, or `score_of` a denoiser."""


def logsnr_at(time: Tensor) -> Tensor:
    """λ = −ln(e^{2t} − 1), float64; t = 0 is clean data, λ = +∞.

    Raises:
        ValueError: for t < 0.
    """
    time = time.double()
    if bool((time < 0).any()):
        raise ValueError(f"t={float(time.min()):g} must not be negative: t = 0 is clean data")
    return -2 * time - torch.log(-torch.expm1(-2 * time))


def transition(z: Tensor, step: Tensor) -> Gaussian:
    """p(z_{t+h} | z_t) = N(e^{−h} z, 1 − e^{−2h}), exact for any h ≥ 0; z (B, *D), h () or (B,)."""
    step = _check_steps(step)
    mean = expand((-step).exp(), z) * z.double()
    return Gaussian(mean, expand(-torch.expm1(-2 * step), z))


def euler(z: Tensor, step: Tensor) -> Gaussian:
    """Euler–Maruyama: z − z h + √(2h) ε as N((1−h) z, 2h); z (B, *D), h () or (B,)."""
    step = _check_steps(step)
    return Gaussian(z.double() * (1 - expand(step, z)), expand(2 * step, z))


def simulate(x: Tensor, steps: Tensor, source: Source, *, exact: bool = False) -> Iterator[Tensor]:
    """A path of the forward process from x, state after state: z_0 = x, then one for each of `steps`, (N,).

    Args:
        x: (B, *D); promoted to float64.
        exact: draw from the transition distribution; else by Euler–Maruyama.
    """
    z = x.double()
    yield z
    for step in _check_steps(steps):
        z = (transition(z, step) if exact else euler(z, step)).sample(source)
        yield z


def moments_at(mean: Tensor, variance: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of z_t: e^{−t} m and 1 + (v − 1) e^{−2t}; unit variance is kept, no other is."""
    return (-time).exp() * mean, 1 + (variance - 1) * (-2 * time).exp()


def euler_moments(mean: Tensor, variance: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance after Euler–Maruyama steps (N,), without noise: m ← (1−h) m, v ← (1−h)² v + 2h."""
    for step in _check_steps(steps):
        mean, variance = (1 - step) * mean, (1 - step) ** 2 * variance + 2 * step
    return mean, variance


def weak_order(mean: float, variance: float, time: float, counts: tuple[int, ...] = (64, 128, 256, 512)) -> float:
    """The order of Euler–Maruyama's error in E z_t², from its exact moments at `counts` steps: 1 in the limit."""
    clock, start = torch.tensor(time, dtype=torch.float64), torch.tensor([mean, variance], dtype=torch.float64)
    true_mean, true_variance = moments_at(start[0], start[1], clock)
    errors = []
    for count in counts:
        m, v = euler_moments(start[0], start[1], (clock / count).expand(count))
        errors.append((m**2 + v - true_mean**2 - true_variance).abs())
    return -slope(torch.tensor(counts), torch.stack(errors))


@dataclass(frozen=True)
class LinearVP:
    """The VP-SDE dz = −½β(u) z du + √β dW with β(u) = first + u (last − first), u ∈ [0, 1].

    Args:
        first, last: β at u = 0 and 1, positive.
    Source: Song et al. 2021, eq. 11 (0.1 and 20).
    """

    first: float = 0.1
    last: float = 20.0

    def __post_init__(self) -> None:
        if not (self.first > 0 and self.last > 0):
            raise ValueError(f"beta={self.first:g}…{self.last:g} must be positive: it is the rate of the noise")

    def beta(self, u: Tensor) -> Tensor:
        """β(u)."""
        return self.first + u.double() * (self.last - self.first)

    def time(self, u: Tensor) -> Tensor:
        """t = ½∫₀^u β: the clock of the Ornstein–Uhlenbeck process."""
        u = u.double()
        return 0.5 * (self.first * u + 0.5 * u**2 * (self.last - self.first))

    def euler_steps(self, grid: Tensor) -> Tensor:
        """h = ½β(u_k)(u_{k+1} − u_k), (N,): with these, `euler` and `simulate` are Euler–Maruyama of this SDE."""
        return 0.5 * self.beta(grid[:-1]) * grid.double().diff()


# -- against time ----------------------------------------------------------------------------------------------


def score_of(denoise: Score) -> Score:
    """The score that a denoiser x̂(z, λ) implies: (a x̂ − z)/s²."""

    def score(z: Tensor, logsnr: Tensor) -> Tensor:
        a, s = expand(signal_scale(logsnr), z), expand(noise_scale(logsnr), z)
        return (a * denoise(z, logsnr) - z) / s**2

    return score


def reverse_euler(z: Tensor, time: Tensor, step: Tensor, score: Score) -> Gaussian:
    """One step of the reverse SDE from t to t − h: N(z + h(z + 2∇ln p_t), 2h); z (B, *D), t and h ()."""
    return Gaussian(z + step * (z + 2 * score(z, logsnr_at(time))), 2 * step)


def reverse(z: Tensor, times: Tensor, score: Score, source: Source) -> Tensor:
    """z at times[-1] from z at times[0] by Euler–Maruyama on the reverse SDE, times falling, (N+1,)."""
    z, times = z.double(), _check_falling(times)
    for now, after in pairwise(times):
        z = reverse_euler(z, now, now - after, score).sample(source)
    return z


def flow(z: Tensor, times: Tensor, score: Score) -> Tensor:
    """z at times[-1] from z at times[0] by the probability flow, either way in time, (N+1,); Runge–Kutta, order 4.

    Raises:
        ValueError: for times down to 0, where data on points or planes have no score.
    """
    z, times = z.double(), times.double()
    if not bool((times > 0).all()):
        raise ValueError("times must be above 0: the flow ends a little before the data, which may have no score")
    for now, after in pairwise(times):
        h = after - now
        first = flow_drift(z, now, score)
        second = flow_drift(z + h / 2 * first, now + h / 2, score)
        third = flow_drift(z + h / 2 * second, now + h / 2, score)
        fourth = flow_drift(z + h * third, after, score)
        z = z + h / 6 * (first + 2 * second + 2 * third + fourth)
    return z


def flow_drift(z: Tensor, time: Tensor, score: Score) -> Tensor:
    """dz/dt of the probability flow: −(z + ∇ln p_t), (B, *D)."""
    return -(z + score(z, logsnr_at(time)))


def reverse_moments(mean: Tensor, variance: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance at times[-1] of the reverse Euler chain for N(m, v) data, from the true moments at times[0].

    The score is linear, so the moments follow without noise: A = 1 + h(1 − 2/V), m_z ← A m_z + 2h a m/V,
    v_z ← A² v_z + 2h, V the true variance at t.
    """
    times = _check_falling(times)
    m_z, v_z = moments_at(mean, variance, times[0])
    for now, after in pairwise(times):
        centre, width = moments_at(mean, variance, now)
        h = now - after
        gain = 1 + h * (1 - 2 / width)
        m_z, v_z = gain * m_z + 2 * h * centre / width, gain**2 * v_z + 2 * h
    return m_z, v_z


# -- the bound -------------------------------------------------------------------------------------------------


def continuous_nats(error: Callable[[Tensor], Tensor], first: float, last: float, count: int = 64) -> float:
    r"""½ ∫ E‖x − x̂‖² dγ between two log-SNRs: the bound's levels in the limit, nats an example.

    With the exact denoiser it is I(x; z_first) − I(x; z_last).

    Args:
        error: E‖x − x̂‖² at log-SNRs, (N,) -> (N,).
        first, last: log-SNR of the levels 1 and L, first > last.
        count: Gauss–Legendre nodes, even in log-SNR units of the interval.
    Raises:
        ValueError: for first ≤ last.
    Source: Kingma et al. 2021, eq. 18.
    """
    if not (math.isfinite(first) and math.isfinite(last) and first > last):
        raise ValueError(f"log-SNR must fall from level 1 to level L: first={first:g} must exceed last={last:g}")
    logsnr, weight = gauss_legendre(last, first, count)
    return 0.5 * float((weight * logsnr.exp() * error(logsnr)).sum())


def _check_steps(steps: Tensor) -> Tensor:
    steps = steps.double()
    if not bool((steps >= 0).all()):
        raise ValueError(f"step={float(steps.min()):g} must not be negative: the process runs forward")
    return steps


def _check_falling(times: Tensor) -> Tensor:
    times = times.double()
    if not bool((times.diff() < 0).all() and times[-1] >= 0):
        raise ValueError("times must fall towards 0: the reverse process runs from noise to data")
    return times
