"""The prior's own steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from torch import Tensor

from markovae.randomness import Source
from markovae.reverse import ReverseVariance
from markovae.sampling.steppers.base import Look, State, Stepper


@final
class Ancestral(Stepper):
    """A draw from P_pri(z_{ℓ−1}|z_ℓ); the loop ends with the decoder's mode.

    Args:
        reverse: the prior's variance, any.
    Source: Ho et al. 2020, algorithm 2; lecture, "Generating".
    """

    draws: bool = True

    def __init__(self, reverse: ReverseVariance) -> None:
        self.reverse = reverse

    def step(self, now: State, past: Sequence[State], logsnr_next: Tensor, look: Look, source: Source) -> Tensor:
        """P_pri(z_{ℓ−1}|z_ℓ).sample()."""
        device = now.z.device
        law = self.reverse.step(now.x_hat, now.z, logsnr_next.to(device), now.logsnr.to(device), now.head)
        return law.sample(source).to(now.z.dtype)
