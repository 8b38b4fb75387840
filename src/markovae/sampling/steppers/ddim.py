"""DDIM: the family of chains with the encoder's marginals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from torch import Tensor

from markovae.forward import noise_scale, posterior_variance, signal_scale
from markovae.randomness import Source, normal_like
from markovae.sampling.steppers.base import Look, State, Stepper
from markovae.sampling.steppers.exponential import combine


@final
class DDIM(Stepper):
    r"""z' = a' x̂ + √(s'² − η²β̃) ε̂ + η √β̃ ε, with ε̂ = (z − a x̂)/s.

    Args:
        eta: 0 is deterministic, of first order; 1 has the ancestral step's variance β̃.
    Source: Song, Meng & Ermon 2021, eq. 12.
    """

    def __init__(self, eta: float = 0.0) -> None:
        if not 0 <= eta <= 1:
            raise ValueError(f"eta={eta:g} must lie in [0, 1]: 0 is deterministic, 1 ancestral")
        self.eta, self.draws = eta, eta > 0

    def step(self, now: State, past: Sequence[State], logsnr_next: Tensor, look: Look, source: Source) -> Tensor:
        """One DDIM step."""
        fresh = self.eta**2 * posterior_variance(logsnr_next, now.logsnr) if self.eta else 0.0
        # z' = c_z z + c_x x̂: no division of a small difference by a small s.
        c_z = (noise_scale(logsnr_next) ** 2 - fresh).sqrt() / noise_scale(now.logsnr)
        c_x = signal_scale(logsnr_next) - c_z * signal_scale(now.logsnr)
        z = combine(float(c_z), now.z, (float(c_x), now.x_hat))
        return z.add(normal_like(z, source), alpha=float(fresh) ** 0.5) if self.eta else z
