r"""Euler and Heun on dy/dσ = (y − x̂)/σ, y = z/a, σ = s/a: the probability flow in Karras et al.'s variables.

With r = σ'/σ every step is an affine combination of y and the x̂'s, so nothing small is divided by something small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

from torch import Tensor

from markovae.randomness import Source
from markovae.sampling.steppers.base import Look, State, Stepper
from markovae.sampling.steppers.exponential import combine, leap


@final
class Euler(Stepper):
    r"""y' = y + (σ' − σ)(y − x̂)/σ = r y + (1 − r) x̂: first order, and the same step as DDIM with η = 0.

    Source: Karras et al. 2022, algorithm 1 without its lines 6–8.
    """

    def step(self, now: State, past: Sequence[State], logsnr_next: Tensor, look: Look, source: Source) -> Tensor:
        """One Euler step."""
        return _euler(now, logsnr_next)


@final
class Heun(Stepper):
    r"""The trapezoid rule: y' = y + ½(σ' − σ)(d + d'), d = (y − x̂)/σ, d' taken at Euler's y'; second order.

    = r y + ½(1 − r)[(2 − 1/r) x̂ + x̂'/r]: two calls a step.
    Source: Karras et al. 2022, algorithm 1.
    """

    calls_per_step: int = 2

    def step(self, now: State, past: Sequence[State], logsnr_next: Tensor, look: Look, source: Source) -> Tensor:
        """One Heun step."""
        ahead = look(_euler(now, logsnr_next), logsnr_next)
        fade, gain, width = leap(now.logsnr, logsnr_next)
        ratio = math.exp(-width)
        half = -0.5 * gain * math.expm1(-width)
        return combine(fade, now.z, (half * (2 - 1 / ratio), now.x_hat), (half / ratio, ahead.x_hat))


def _euler(now: State, logsnr_next: Tensor) -> Tensor:
    fade, gain, width = leap(now.logsnr, logsnr_next)
    return combine(fade, now.z, (gain * (1 - math.exp(-width)), now.x_hat))
