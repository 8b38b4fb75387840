"""The Markovian VAE that makes no error: the true reverse chain of a toy."""

from __future__ import annotations

from typing import final

from torch import Tensor

from markovae.diffusion import forward
from markovae.diffusion.gaussian import Gaussian
from markovae.diffusion.markovian_vae import Distribution, MarkovianVAE, checked_level
from markovae.diffusion.schedule import NoiseSchedule
from markovae.theory.mixture import Toy


@final
class ExactChain(MarkovianVAE):
    """Prior steps are the true P(z_{ℓ−1}|z_ℓ), its top the true p(z_L), its decoder the true P(z_0|z_1).

    Every path then costs −ln p(z_0) exactly, whatever its noise, so the bound is H(z_0) with no variance.

    Args:
        toy: the data's distribution.
        schedule: the levels.
    """

    def __init__(self, toy: Toy, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.toy, self.schedule, self.num_levels = toy, schedule, schedule.num_levels
        self.logsnr = schedule.logsnr

    def encoder_step(self, z_prev: Tensor, level: int) -> Gaussian:
        """q(z_ℓ | z_{ℓ−1})."""
        level = checked_level(level, self)
        return forward.step(z_prev.double(), self.logsnr[level - 1], self.logsnr[level])

    def marginal(self, x: Tensor, level: int) -> Gaussian:
        """q(z_ℓ | z_0)."""
        return forward.marginal(x.double(), self.logsnr[checked_level(level, self)])

    def posterior(self, x: Tensor, z: Tensor, level: int) -> Gaussian:
        """q(z_{ℓ−1} | z_ℓ, z_0), ℓ ≥ 2."""
        level = checked_level(level, self, 2)
        return forward.posterior(x.double(), z.double(), self.logsnr[level - 1], self.logsnr[level])

    def prior_top(self, batch: int) -> Distribution:
        """p(z_L)."""
        return self.toy.marginal(self.logsnr[-1], batch)

    def prior_step(self, z: Tensor, level: int) -> Distribution:
        """The true P(z_{ℓ−1} | z_ℓ)."""
        level = checked_level(level, self)
        return self.toy.reverse(z, self.logsnr[level - 1], self.logsnr[level])
