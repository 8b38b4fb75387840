r"""Exponential Adams–Bashforth: the polynomial through the last x̂'s, integrated exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from torch import Tensor

from markovae.randomness import Source
from markovae.sampling.steppers.base import Look, State, Stepper
from markovae.sampling.steppers.exponential import combine, leap, retaken, weights


@final
class AdamsBashforth(Stepper):
    r"""z' = (s'/s) z + a' Σ_j w_j x̂_j, w_j = ∫₀^H e^{u−H} ℓ_j(u) du over the last `order` states; one call a step.

    DEIS fits its polynomial to ε̂ in time; this one to x̂ in half log-SNR, in which x̂ is smooth at both ends. It is
    also UniP of the same order, solved exactly (then its free function B(h) drops out), and at order 3 it is
    DPM-Solver++(3M).

    Args:
        order: number of states, 1…3; 1 is DDIM with η = 0.
    Source: Zhang & Chen 2023 (DEIS), section 3.3; Hochbruck & Ostermann 2010, section 2.5.
    """

    def __init__(self, order: int) -> None:
        if not 1 <= order <= 3:
            raise ValueError(f"order={order} must lie in 1…3: higher extrapolations only amplify the network's error")
        self.order, self.history = order, order - 1

    def step(self, now: State, past: Sequence[State], logsnr_next: Tensor, look: Look, source: Source) -> Tensor:
        """One multistep update of `order`, lower at the start."""
        fade, gain, width = leap(now.logsnr, logsnr_next)
        states = [now, *past[: self.order - 1]]
        nodes = [float(state.logsnr - now.logsnr) / (2 * width) for state in states]
        terms = [(gain * w, state.x_hat) for w, state in zip(weights(nodes, width), states, strict=True)]
        return combine(fade, now.z if self.order < 3 else retaken(now, past), *terms)
