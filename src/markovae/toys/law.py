r"""What a toy is: a law of the data whose posterior given a latent is known, and all that follows from it.

With z = a x + s ε̄ and the posterior law P(x|z) known, so are the denoiser E[x|z], Cov[x|z], the score, the marginal
P(z_ℓ), and the true reverse step: P(z_{ℓ−1}|z_ℓ) is the law of c_z z_ℓ + c_x x + √β̃ ξ with x ~ P(x|z_ℓ).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor, nn

from markovae.forward import noise_scale, posterior_coefficients, posterior_variance, signal_scale
from markovae.gaussian import expand
from markovae.randomness import Source
from markovae.vae import Distribution


class Law(ABC):
    """A batch of laws of x, (B, *D); a batch of one broadcasts. Everything in float64, densities in nats."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """ln P(x), (B,)."""

    @abstractmethod
    def sample(self, source: Source) -> Tensor:
        """A draw, (B, *D)."""

    @abstractmethod
    def mean(self) -> Tensor:
        """E[x], (B, *D)."""

    @abstractmethod
    def covariance(self) -> Tensor:
        """Cov[x], (B, d, d)."""

    @abstractmethod
    def blurred(self, shift: Tensor, gain: Tensor, variance: Tensor) -> Distribution:
        """The law of shift + gain·x + √variance·ξ; shift (B, *D), gain and variance (B,), variance > 0."""

    @abstractmethod
    def posterior(self, z: Tensor, logsnr: Tensor) -> Law:
        """P(x | a x + s ε̄ = z), z (B, *D), logsnr (B,)."""


class Toy(ABC):
    """Data whose truth is known.

    `shape` is D of one example; every method takes log-SNRs as () or (B,) and promotes its input to float64.
    """

    shape: tuple[int, ...]

    @abstractmethod
    def law(self, batch: int) -> Law:
        """The law of the data, for a batch."""

    @abstractmethod
    def entropy(self) -> float:
        """H(x) in nats an example: differential, or discrete where the data are digits."""

    @property
    def dims(self) -> int:
        """Number of data dimensions d."""
        return math.prod(self.shape)

    def sample(self, batch: int, source: Source) -> Tensor:
        """A batch of data, (B, *D), float64."""
        return self.law(batch).sample(source)

    def log_prob(self, x: Tensor) -> Tensor:
        """ln p(x) in nats, (B,), float64."""
        return self.law(len(x)).log_prob(self._checked(x))

    def marginal(self, logsnr: Tensor, batch: int = 1) -> Distribution:
        """p(z_ℓ) = ∫ p(x) N(z_ℓ; a x, s²), for a batch; logsnr finite, () or (B,)."""
        logsnr = logsnr.double().expand(batch)
        zero = torch.zeros(batch, *self.shape, dtype=torch.float64)
        return self.law(batch).blurred(zero, signal_scale(logsnr), noise_scale(logsnr) ** 2)

    def posterior(self, z: Tensor, logsnr: Tensor) -> Law:
        """P(x | z_ℓ = z), z (B, *D): responsibilities and the components' own posteriors."""
        return self.law(len(z)).posterior(self._checked(z), logsnr.double().expand(len(z)))

    def reverse(self, z: Tensor, logsnr_prev: Tensor, logsnr: Tensor) -> Distribution:
        """The true P(z_{ℓ−1} | z_ℓ = z), () log-SNRs; at logsnr_prev = inf it is P(x|z)."""
        posterior = self.posterior(z, logsnr)
        if bool(torch.isinf(logsnr_prev)):
            return posterior
        c_z, c_x = posterior_coefficients(logsnr_prev, logsnr)
        count = len(z)
        return posterior.blurred(
            c_z * z.double(), c_x.expand(count), posterior_variance(logsnr_prev, logsnr).expand(count)
        )

    def denoise(self, z: Tensor, logsnr: Tensor) -> Tensor:
        """E[x | z_ℓ = z], (B, *D): the best x̂ there is."""
        return self.posterior(z, logsnr).mean()

    def covariance(self, z: Tensor, logsnr: Tensor) -> Tensor:
        """Cov[x | z_ℓ = z], (B, d, d): what the best x̂ leaves open."""
        return self.posterior(z, logsnr).covariance()

    def score(self, z: Tensor, logsnr: Tensor) -> Tensor:
        """∇ ln p(z_ℓ) = (a E[x|z] − z)/s², (B, *D).

        Source: Robbins 1956 (Tweedie's formula).
        """
        a, s = expand(signal_scale(logsnr), z), expand(noise_scale(logsnr), z)
        return (a * self.denoise(z, logsnr) - z.double()) / s**2

    def _checked(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"examples of shape {tuple(x.shape[1:])}: this toy's have shape {self.shape}")
        return x.double()


@final
class Denoiser(nn.Module):
    """A toy's E[x|z] in the place of a network: use it with the `data` target.

    Args:
        toy: the data's law.
    """

    def __init__(self, toy: Toy) -> None:
        super().__init__()
        self.toy = toy

    def forward(self, z: Tensor, logsnr: Tensor, condition: object = None) -> Tensor:
        """x̂ = E[x|z], (B, *D), float64; the condition is not used."""
        return self.toy.denoise(z, logsnr)
