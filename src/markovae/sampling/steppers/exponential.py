r"""The exponential integrator under the probability flow, in half log-SNR h = λ/2 = ln(a/s).

The flow has the solution  z' = (s'/s) z + a' ∫₀^H e^{u−H} x̂(h+u) du,  H = h' − h:
its linear part is exact, and a solver only chooses how to stand in for x̂ along the way. Every step is then
c z + Σ c_j x̂_j with coefficients formed in float64: no (z − a x̂)/s is ever taken, whose digits cancel near the data.
Source: Lu et al. 2022 (DPM-Solver++), eq. 8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from markovae.forward import noise_scale, signal_scale
from markovae.sampling.steppers.base import State


def leap(logsnr: Tensor, logsnr_next: Tensor) -> tuple[float, float, float]:
    """(s'/s, a', H) of the step λ -> λ'; H < 0 towards noise."""
    fade = float(noise_scale(logsnr_next) / noise_scale(logsnr))
    return fade, float(signal_scale(logsnr_next)), float(logsnr_next - logsnr) / 2


def combine(fade: float, z: Tensor, *terms: tuple[float, Tensor]) -> Tensor:
    """fade·z + Σ c_j x̂_j, (B, *D), in the type of `z`."""
    total = fade * z
    for weight, x_hat in terms:
        total = total.add(x_hat, alpha=weight)
    return total


def held_step(now_z: Tensor, x_hat: Tensor, logsnr: Tensor, logsnr_next: Tensor) -> Tensor:
    """One step with x̂ held: z' = (s'/s) z + a' (1 − e^{−H}) x̂, (B, *D); first order, and DDIM with η = 0."""
    fade, gain, width = leap(logsnr, logsnr_next)
    return combine(fade, now_z, (-gain * math.expm1(-width), x_hat))


def moments(width: float, count: int) -> list[float]:
    r"""μ_k = ∫₀^H e^{u−H} (u/H)^k du for k = 0…count−1.

    μ_0 = 1 − e^{−H}, μ_k = 1 − k μ_{k−1}/H; for |H| < 1 the series H Σ_j (−H)^j k!/(k+j+1)! loses no digits.
    """
    if abs(width) < 1:
        return [_series(width, k) for k in range(count)]
    values = [-math.expm1(-width)]
    for k in range(1, count):
        values.append(1 - k * values[-1] / width)
    return values


def weights(nodes: Sequence[float], width: float) -> list[float]:
    r"""w_j = ∫₀^H e^{u−H} ℓ_j(u/H) du: the integral of the polynomial through x̂ at `nodes`, in units of H from now.

    ℓ_j(v) = ∏_{i≠j} (v − v_i)/(v_j − v_i) is multiplied out, and v^k integrates to μ_k. (Plain numbers: a solve of a
    3×3 system by tensors costs as much time as the rest of a step.)
    """
    mu = moments(width, len(nodes))
    found = []
    for j, own in enumerate(nodes):
        polynomial, scale = [1.0], 1.0
        for i, other in enumerate(nodes):
            if i != j:
                shifted, constant = [0.0, *polynomial], [*(-other * c for c in polynomial), 0.0]
                polynomial = [a + b for a, b in zip(shifted, constant, strict=True)]
                scale *= own - other
        found.append(sum(c * m for c, m in zip(polynomial, mu, strict=True)) / scale)
    return found


def retaken(now: State, past: Sequence[State]) -> Tensor:
    """z of `now`, where the first step led to it: that step again by the trapezoid rule, (B, *D); else z as it is.

    A first step holds x̂, an error of second order in its width that would bound a third-order solver which starts
    part-way down the chain. x̂ at its end, known by then, mends it at no further call.
    """
    if len(past) != 1:
        return now.z
    start = past[0]
    fade, gain, width = leap(start.logsnr, now.logsnr)
    mu_0, mu_1 = moments(width, 2)
    return combine(fade, start.z, (gain * (mu_0 - mu_1), start.x_hat), (gain * mu_1, now.x_hat))


def _series(width: float, k: int) -> float:
    term = width / (k + 1)
    total = term
    for j in range(1, 20):
        term *= -width / (k + j + 1)
        total += term
    return total
