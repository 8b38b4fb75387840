"""What a sampler is made of: states, the rule from one log-SNR to the next, and corrections at one log-SNR."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from markovae.randomness import Source


@dataclass(frozen=True)
class State:
    """Where a sample is on its way: what is shown of a trajectory.

    Args:
        logsnr: λ, (), float64, on the CPU.   z: latent, (B, *D).   x_hat: the network's guess of z_0, (B, *D).
        head: the network's second half, if the reverse variance is learned.
    """

    logsnr: Tensor
    z: Tensor
    x_hat: Tensor
    head: Tensor | None = None


Look = Callable[[Tensor, Tensor], State]
"""look(z, λ): one call of the denoiser, and what it makes of z."""


class Stepper(ABC):
    """A rule that takes a state to the latent at the next log-SNR; the loop itself ends at λ = ∞ with z_0 = x̂.

    `history` is how many earlier states it reads; `calls_per_step` counts the denoiser's calls in a step, the one
    that made `now` among them; `draws` says whether it draws random numbers.
    """

    history: int = 0
    calls_per_step: int = 1
    draws: bool = False

    @abstractmethod
    def step(self, now: State, past: Sequence[State], logsnr_next: Tensor, look: Look, source: Source) -> Tensor:
        """z at the finite `logsnr_next`, (B, *D).

        Args:
            now: the state to step from.   past: earlier states, newest first; fewer than `history` at the start.
            logsnr_next: (), float64.   look: for further calls.   source: of every random number.
        """


class Corrector(ABC):
    """A rule that betters a state at its own log-SNR, after a step and before the next.

    `history` and `calls` count the earlier states it reads and the denoiser's calls it adds; `draws` says whether it
    draws random numbers.
    """

    history: int = 0
    calls: int = 0
    draws: bool = False

    @abstractmethod
    def correct(self, now: State, past: Sequence[State], look: Look, source: Source) -> State:
        """The bettered state at now.logsnr; `past` holds earlier states, newest first."""
