r"""DPM-Solver++, multistep: the derivatives of x̂ in h from the calls already made; one call a step.

In all, r_0 = H_0/H and r_1 = H_1/H are the last steps' widths in units of the coming one; the first steps, which
lack a past, are of lower order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

from torch import Tensor

from markovae.forward import noise_scale
from markovae.randomness import Source, normal_like
from markovae.sampling.steppers.base import Look, State, Stepper
from markovae.sampling.steppers.exponential import combine, held_step, leap, moments, retaken


@final
class DPMSolverPP1(Stepper):
    r"""z' = (s'/s) z + a'(1 − e^{−H}) x̂: first order; DDIM with η = 0.

    Source: Lu et al. 2022 (DPM-Solver++), section 4.1.
    """

    def step(self, now: State, past: Sequence[State], logsnr_next: Tensor, look: Look, source: Source) -> Tensor:
        """One step of first order."""
        return held_step(now.z, now.x_hat, now.logsnr, logsnr_next)


@final
class DPMSolverPP2M(Stepper):
    r"""z' = (s'/s) z + a'(1 − e^{−H}) D,  D = x̂ + (x̂ − x̂_1)/(2 r_0): second order.

    Source: Lu et al. 2022 (DPM-Solver++), algorithm 2.
    """

    history: int = 1

    def step(self, now: State, past: Sequence[State], logsnr_next: Tensor, look: Look, source: Source) -> Tensor:
        """One multistep update of second order."""
        return held_step(now.z, extrapolated(now, past, logsnr_next), now.logsnr, logsnr_next)


@final
class DPMSolverPP3M(Stepper):
    r"""z' = (s'/s) z + a' [μ_0 x̂ + μ_1 D_1 + μ_2 D_2], μ_k = ∫₀^H e^{u−H}(u/H)^k du: third order.

    With d_0 = (x̂ − x̂_1)/r_0, d_1 = (x̂_1 − x̂_2)/r_1:  D_2 = (d_0 − d_1)/(r_0 + r_1) = H² x̂''/2, D_1 = d_0 + r_0 D_2.
    Widely copied code weighs D_2 by μ_2/2 (as if it were H² x̂''), which leaves second order.
    Source: Lu et al. 2022 (DPM-Solver++), appendix B.
    """

    history: int = 2

    def step(self, now: State, past: Sequence[State], logsnr_next: Tensor, look: Look, source: Source) -> Tensor:
        """One multistep update of third order."""
        if len(past) < 2:
            return held_step(retaken(now, past), extrapolated(now, past, logsnr_next), now.logsnr, logsnr_next)
        fade, gain, width = leap(now.logsnr, logsnr_next)
        r_0, r_1 = ratio(now, past[0], width), ratio(past[0], past[1], width)
        d_0, d_1 = (now.x_hat - past[0].x_hat) / r_0, (past[0].x_hat - past[1].x_hat) / r_1
        second = (d_0 - d_1) / (r_0 + r_1)
        mu = moments(width, 3)
        first = d_0 + r_0 * second
        return combine(fade, now.z, (gain * mu[0], now.x_hat), (gain * mu[1], first), (gain * mu[2], second))


@final
class SDEDPMSolverPP2M(Stepper):
    r"""z' = (s'/s) e^{−H} z + a'(1 − e^{−2H}) D + s' √(1 − e^{−2H}) ε, D as in 2M: for the reverse SDE.

    Source: Lu et al. 2022 (DPM-Solver++), appendix on SDE-DPM-Solver++(2M).
    """

    history: int = 1
    draws: bool = True

    def step(self, now: State, past: Sequence[State], logsnr_next: Tensor, look: Look, source: Source) -> Tensor:
        """One multistep update with fresh noise."""
        fade, gain, width = leap(now.logsnr, logsnr_next)
        renewed = -math.expm1(-2 * width)
        direction = extrapolated(now, past, logsnr_next)
        z = combine(fade * math.exp(-width), now.z, (gain * renewed, direction))
        return z.add(normal_like(z, source), alpha=float(noise_scale(logsnr_next)) * math.sqrt(renewed))


def ratio(now: State, before: State, width: float) -> float:
    """Width of the step before → now in units of the coming one."""
    return float(now.logsnr - before.logsnr) / (2 * width)


def extrapolated(now: State, past: Sequence[State], logsnr_next: Tensor) -> Tensor:
    """D = x̂ + (x̂ − x̂_1)/(2 r_0): x̂ half a step ahead, (B, *D); x̂ itself without a past."""
    if not past:
        return now.x_hat
    r_0 = ratio(now, past[0], float(logsnr_next - now.logsnr) / 2)
    return combine(1 + 0.5 / r_0, now.x_hat, (-0.5 / r_0, past[0].x_hat))
