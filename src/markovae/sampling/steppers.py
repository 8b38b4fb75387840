r"""One step of each sampler, from log-SNR λ to the next, λ' > λ (less noise); λ' = ∞ is the data itself.

Each is a function of what one network call gives; none draws a number that its source does not hold.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from markovae.forward import noise_scale, posterior_variance, signal_scale
from markovae.randomness import Source, normal_like
from markovae.reverse import ReverseVariance


@dataclass(frozen=True)
class State:
    """Where a sample is on its way: what is shown of a trajectory.

    Args:
        logsnr: λ, (), float64.   z: latent, (B, *D).   x_hat: the network's guess of z_0, (B, *D).
        head: the network's second half, if the reverse variance is learned.
    """

    logsnr: Tensor
    z: Tensor
    x_hat: Tensor
    head: Tensor | None = None


class Stepper(ABC):
    """A rule that takes a state to the latent at the next log-SNR."""

    @abstractmethod
    def step(self, now: State, past: State | None, logsnr_next: Tensor, source: Source) -> Tensor:
        """z at `logsnr_next`, (B, *D); `past` is the state before `now`, None at the first step."""


@final
class Ancestral(Stepper):
    """A draw from P_pri(z_{ℓ−1}|z_ℓ), and the decoder's mode at the end.

    Args:
        reverse: the prior's variance.
    Source: Ho et al. 2020, algorithm 2; lecture, "Generating".
    """

    def __init__(self, reverse: ReverseVariance) -> None:
        self.reverse = reverse

    def step(self, now: State, past: State | None, logsnr_next: Tensor, source: Source) -> Tensor:
        """P_pri(z_{ℓ−1}|z_ℓ).sample()."""
        if torch.isinf(logsnr_next):
            return now.x_hat
        return self.reverse.step(now.x_hat, now.z, logsnr_next, now.logsnr, now.head).sample(source)


@final
class DDIM(Stepper):
    r"""z' = a' x̂ + √(s'² − η²β̃) ε̂ + η √β̃ ε, with ε̂ = (z − a x̂)/s.

    Args:
        eta: 0 is deterministic; 1 has the ancestral step's variance β̃.
    Source: Song, Meng & Ermon 2021, eq. 12.
    """

    def __init__(self, eta: float = 0.0) -> None:
        if not 0 <= eta <= 1:
            raise ValueError(f"eta={eta:g} must lie in [0, 1]: 0 is deterministic, 1 ancestral")
        self.eta = eta

    def step(self, now: State, past: State | None, logsnr_next: Tensor, source: Source) -> Tensor:
        """One DDIM step."""
        if torch.isinf(logsnr_next):
            return now.x_hat
        a_next, s_next = signal_scale(logsnr_next), noise_scale(logsnr_next)
        fresh = self.eta**2 * posterior_variance(logsnr_next, now.logsnr)
        # z' = c_z z + c_x x̂: no division of a small difference by a small s.
        c_z = (s_next**2 - fresh).sqrt() / noise_scale(now.logsnr)
        c_x = a_next - c_z * signal_scale(now.logsnr)
        z = c_z.to(now.z) * now.z + c_x.to(now.z) * now.x_hat
        return z + fresh.sqrt().to(z) * normal_like(z, source) if self.eta else z


@final
class DPMSolverPP2M(Stepper):
    r"""DPM-Solver++(2M): z' = (s'/s) z − a' (e^{−h} − 1) D, h = (λ' − λ)/2, D = x̂ + (x̂ − x̂_past)/(2r).

    r = (λ − λ_past)/(λ' − λ); the first and the last step are of first order (then it is DDIM).
    Source: Lu et al. 2022, algorithm 2.
    """

    def step(self, now: State, past: State | None, logsnr_next: Tensor, source: Source) -> Tensor:
        """One multistep update of second order."""
        if torch.isinf(logsnr_next):
            return now.x_hat
        half = (logsnr_next - now.logsnr) / 2
        direction = now.x_hat
        if past is not None:
            ratio = (now.logsnr - past.logsnr) / (logsnr_next - now.logsnr)
            direction = direction + (now.x_hat - past.x_hat) / (2 * ratio).to(direction)
        c_z = noise_scale(logsnr_next) / noise_scale(now.logsnr)
        c_x = -signal_scale(logsnr_next) * torch.expm1(-half)
        return c_z.to(now.z) * now.z + c_x.to(now.z) * direction
