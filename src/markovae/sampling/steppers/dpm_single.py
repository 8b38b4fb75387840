r"""DPM-Solver++, singlestep: the derivatives of x̂ in h from calls within the step; no past is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

from torch import Tensor

from markovae.randomness import Source
from markovae.sampling.steppers.base import Look, State, Stepper
from markovae.sampling.steppers.exponential import combine, held_step, leap, moments


@final
class DPMSolverPP2S(Stepper):
    r"""u at h + H/2 by first order, then z' = (s'/s) z + a'(1 − e^{−H}) x̂(u): the midpoint rule, two calls a step.

    Source: Lu et al. 2022 (DPM-Solver++), algorithm 1 with r = 1/2.
    """

    calls_per_step: int = 2

    def step(self, now: State, past: Sequence[State], logsnr_next: Tensor, look: Look, source: Source) -> Tensor:
        """One singlestep update of second order."""
        middle = (now.logsnr + logsnr_next) / 2
        half = look(held_step(now.z, now.x_hat, now.logsnr, middle), middle)
        return held_step(now.z, half.x_hat, now.logsnr, logsnr_next)


@final
class DPMSolverPP3S(Stepper):
    r"""Stages at h + H/3 and h + 2H/3; three calls a step, third order.

    u_1 = first order to H/3;  u_2 = first order to 2H/3 plus 2 a_2 μ_1(2H/3) (x̂_1 − x̂);
    z' = (s'/s) z + a' [μ_0 x̂ + (3/2) μ_1 (x̂_2 − x̂)].
    Source: Lu et al. 2022 (DPM-Solver++), singlestep third order; Lu et al. 2022 (DPM-Solver), algorithm 2.
    """

    calls_per_step: int = 3

    def step(self, now: State, past: Sequence[State], logsnr_next: Tensor, look: Look, source: Source) -> Tensor:
        """One singlestep update of third order."""
        third, two_thirds = (now.logsnr + part * (logsnr_next - now.logsnr) for part in (1 / 3, 2 / 3))
        one = look(held_step(now.z, now.x_hat, now.logsnr, third), third)
        fade, gain, width = leap(now.logsnr, two_thirds)
        bend = 2 * gain * moments(width, 2)[1]
        start = -gain * math.expm1(-width)
        two = look(combine(fade, now.z, (start - bend, now.x_hat), (bend, one.x_hat)), two_thirds)
        fade, gain, width = leap(now.logsnr, logsnr_next)
        mu = moments(width, 2)
        bend = 1.5 * gain * mu[1]
        return combine(fade, now.z, (gain * mu[0] - bend, now.x_hat), (bend, two.x_hat))
