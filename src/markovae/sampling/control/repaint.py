"""RePaint: inpainting by writing the known pixels into each latent and going to and fro."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from markovae import forward
from markovae.randomness import Source, normal_like
from markovae.sampling.steppers import Look, State, Stepper


@final
class RePaint(Stepper):
    r"""z' from the inner step, its known pixels replaced by a draw of q(z'|x); then back by q(z|z') and again.

    Going back and forth lets the unknown pixels meet the known ones: the error falls with `resampling`, at as many
    calls a step. One step is also the jump; on a grid of few, wide steps this is the paper's longer jump.

    Args:
        inner: the step without knowledge; its past is not read, for the latents it comes from are replaced.
        x: the known image, (B, *D).   known: True where it is known, broadcastable to (B, *D).
        resampling: times that each step is taken, ≥ 1.
    Source: Lugmayr et al. 2022, algorithm 1.
    """

    draws: bool = True

    def __init__(self, inner: Stepper, x: Tensor, known: Tensor, resampling: int = 10) -> None:
        if resampling < 1:
            raise ValueError(f"resampling={resampling} must be at least 1: it is how often each step is taken")
        self.inner, self.x, self.known, self.resampling = inner, x, known.bool(), resampling
        self.calls_per_step = resampling * inner.calls_per_step

    def step(self, now: State, past: Sequence[State], logsnr_next: Tensor, look: Look, source: Source) -> Tensor:
        """z at `logsnr_next`, its known pixels those of the noised image."""
        z = self._step(now, logsnr_next, look, source)
        for _ in range(self.resampling - 1):
            again = forward.step(z, logsnr_next, now.logsnr).sample(source)
            z = self._step(look(again, now.logsnr), logsnr_next, look, source)
        return z

    def _step(self, now: State, logsnr_next: Tensor, look: Look, source: Source) -> Tensor:
        z = self.inner.step(now, (), logsnr_next, look, source)
        known = forward.noised(self.x.to(z), normal_like(z, source), logsnr_next)
        return torch.where(self.known.to(z.device), known, z)
