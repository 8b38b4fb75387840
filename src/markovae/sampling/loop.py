"""The one loop that every sampler runs in."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from markovae.diffusion import Diffusion
from markovae.networks.condition import Condition
from markovae.randomness import Source
from markovae.sampling.steppers import State, Stepper


@torch.no_grad()
def trajectory(
    model: Diffusion,
    z: Tensor,
    grid: Tensor,
    stepper: Stepper,
    source: Source,
    condition: Condition | None = None,
) -> Iterator[State]:
    """Walk from the noisiest log-SNR of the grid to the data, one network call a step.

    Yields the state at each log-SNR of the grid, noisiest first, and last the data itself (λ = ∞, z = x̂ = z_0).
    Only two states are alive at a time, so memory does not grow with the number of steps.

    Args:
        z: latent at grid[-1], (B, *D).
        grid: λ = ∞ first, then decreasing, (K+1,), float64.
    """
    past: State | None = None
    for place in range(len(grid) - 1, 0, -1):
        logsnr, logsnr_next = grid[place], grid[place - 1]
        x_hat, head = model.predict(z, logsnr, condition)
        now = State(logsnr, z, x_hat, head)
        yield now
        z = stepper.step(now, past, logsnr_next, source)
        past = now
    yield State(grid[0], z, z)
