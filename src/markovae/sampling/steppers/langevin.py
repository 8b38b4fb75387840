"""Langevin corrections: steps that leave the marginal at one log-SNR as it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

from markovae.forward import noise_scale, signal_scale
from markovae.randomness import Source, normal_like
from markovae.sampling.steppers.base import Corrector, Look, State
from markovae.sampling.steppers.exponential import combine


@final
class Langevin(Corrector):
    r"""z ← z + δ ∇ln p(z) + √(2δ) ε with δ = f s²: z ← (1 − f) z + f a x̂ + s √(2f) ε, `calls` times.

    Song et al. set δ = 2 (r ‖ε‖/‖∇ln p‖)² from norms over a batch; the score has norm ≈ ‖ε‖/s, which gives
    f = 2 r² and leaves the examples of a batch alone.

    Args:
        calls: corrections at each log-SNR, one call each.   ratio: Song et al.'s signal-to-noise ratio r.
    Source: Song et al. 2021 (score SDE), algorithms 4 and 5.
    """

    draws: bool = True

    def __init__(self, calls: int = 1, ratio: float = 0.16) -> None:
        if calls < 1:
            raise ValueError(f"calls={calls} must be at least 1: each is one correction")
        if not 0 < ratio < 0.7:
            raise ValueError(f"ratio={ratio:g} must lie in (0, 0.7): beyond, a step overshoots")
        self.calls, self.ratio = calls, ratio

    def correct(self, now: State, past: Sequence[State], look: Look, source: Source) -> State:
        """The state after `calls` Langevin steps."""
        a, s = float(signal_scale(now.logsnr)), float(noise_scale(now.logsnr))
        fraction = 2 * self.ratio**2
        for _ in range(self.calls):
            z = combine(1 - fraction, now.z, (fraction * a, now.x_hat))
            now = look(z.add(normal_like(z, source), alpha=s * math.sqrt(2 * fraction)), now.logsnr)
        return now
