"""The one loop that every sampler runs in."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor

from markovae.networks.condition import Condition
from markovae.randomness import Source
from markovae.sampling.denoiser import Denoiser
from markovae.sampling.steppers import Corrector, State, Stepper


@torch.no_grad()
def trajectory(
    model: Denoiser,
    z: Tensor,
    grid: Tensor,
    stepper: Stepper,
    source: Source,
    condition: Condition | None = None,
    corrector: Corrector | None = None,
) -> Iterator[State]:
    """Walk the grid from its last log-SNR to its first: from noise to data, or, on a rising grid, back.

    Yields the state at each log-SNR that is walked from, and last the end: z_0 = x̂ where the grid begins with λ = ∞,
    else the latent at its first log-SNR, with the x̂ before it; a grid of one log-SNR is walked nowhere. Only the states
    that the sampler reads are alive, so memory does not grow with the number of steps.

    Args:
        model: what guesses x̂ (a model, or a wrapper around one).
        z: latent at grid[-1], (B, *D); its type is the one that the walk is made in.
        grid: (K+1,), float64, monotone; λ = ∞ first, or finite.
        corrector: applied after each call but the first.
    """

    def look(z: Tensor, logsnr: Tensor) -> State:
        return State(logsnr, z, *model.predict(z, logsnr, condition))

    grid = grid.cpu()
    past: deque[State] = deque(maxlen=max(stepper.history, corrector.history if corrector else 0))
    now = look(z, grid[-1])
    yield now
    for place in range(len(grid) - 2, 0, -1):
        z = stepper.step(now, tuple(past), grid[place], look, source)
        past.appendleft(now)
        now = look(z, grid[place])
        if corrector is not None:
            now = corrector.correct(now, tuple(past), look, source)
        yield now
    if torch.isinf(grid[0]):
        yield State(grid[0], now.x_hat, now.x_hat)
    elif len(grid) == 1:
        yield now  # nowhere to go
    else:
        yield State(grid[0], stepper.step(now, tuple(past), grid[0], look, source), now.x_hat)
