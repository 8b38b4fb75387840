"""What every reverse variance is, and the two that need nothing but the schedule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

from torch import Tensor, nn

from markovae.forward import posterior, posterior_coefficients, posterior_variance, step_variance
from markovae.gaussian import Gaussian, expand, sum_dims, variance_cost
from markovae.vae import Distribution


class ReverseVariance(nn.Module, ABC):
    """How wide the prior's step is.

    `channels` is how many outputs a network needs for one data channel: 1, or 2 with a head for the variance.
    `needs_jacobian` says that `head` is ∂x̂/∂z, (B, d, d), which the model works out from its network.
    """

    channels: int = 1
    needs_jacobian: bool = False

    @abstractmethod
    def step(
        self, x_hat: Tensor, z: Tensor, logsnr_prev: Tensor, logsnr: Tensor, head: Tensor | None = None
    ) -> Distribution:
        """P_pri(z_{ℓ−1} | z_ℓ) at the network's x̂, over (B, *D)."""

    @abstractmethod
    def kl(self, x: Tensor, x_hat: Tensor, logsnr_prev: Tensor, logsnr: Tensor, head: Tensor | None = None) -> Tensor:
        """KL( q(z_{ℓ−1}|z_ℓ,x) ‖ P_pri(z_{ℓ−1}|z_ℓ) ) in nats, (B,), float64; ℓ ≥ 2."""


class IndependentVariance(ReverseVariance, ABC):
    """A variance of its own for each coordinate, or one for all: the prior's step is a diagonal Gaussian."""

    @abstractmethod
    def variance(self, logsnr_prev: Tensor, logsnr: Tensor, head: Tensor | None) -> Tensor:
        """Variance of P_pri(z_{ℓ−1}|z_ℓ), (), (B,) or (B, *D), float64; ℓ ≥ 2."""

    def step(
        self, x_hat: Tensor, z: Tensor, logsnr_prev: Tensor, logsnr: Tensor, head: Tensor | None = None
    ) -> Gaussian:
        """P_pri(z_{ℓ−1} | z_ℓ) at the network's x̂, over (B, *D)."""
        variance = self.variance(logsnr_prev, logsnr, head)
        return Gaussian(posterior(x_hat, z, logsnr_prev, logsnr).mean, expand(variance, z).to(z.device))

    def kl(self, x: Tensor, x_hat: Tensor, logsnr_prev: Tensor, logsnr: Tensor, head: Tensor | None = None) -> Tensor:
        r"""KL( q(z_{ℓ−1}|z_ℓ,x) ‖ P_pri(z_{ℓ−1}|z_ℓ) ) in nats, (B,), float64; ℓ ≥ 2.

        ½ Σ [ r − 1 − ln r + c_x² (x − x̂)²/v ], r = β̃/v; with v = β̃ it is ½(γ_{ℓ−1} − γ_ℓ)‖x − x̂‖².
        The means share c_z z, so their difference is formed from x − x̂ and loses no digits.
        """
        error = x.double() - x_hat.double()
        variance = expand(self.variance(logsnr_prev, logsnr, head), x)
        c_x = expand(posterior_coefficients(logsnr_prev, logsnr)[1], x)
        floor = expand(posterior_variance(logsnr_prev, logsnr), x)
        terms = variance_cost(floor, variance) + (c_x * error) ** 2 / variance
        return 0.5 * sum_dims(terms)


@final
class StepVariance(IndependentVariance):
    """σ_ℓ², the variance of the encoder's step: right where the data are broad against the step.

    Source: Ho et al. 2020, section 3.2 (the "large" choice); lecture, "Rewriting the ELBO".
    """

    def variance(self, logsnr_prev: Tensor, logsnr: Tensor, head: Tensor | None) -> Tensor:
        """σ_ℓ²."""
        return step_variance(logsnr_prev, logsnr)


@final
class PosteriorVariance(IndependentVariance):
    """β̃_ℓ, the variance of q(z_{ℓ−1}|z_ℓ,z_0): right where z_0 is known, and then the KL is a weighted square.

    Source: Ho et al. 2020, eq. 7 (the "small" choice).
    """

    def variance(self, logsnr_prev: Tensor, logsnr: Tensor, head: Tensor | None) -> Tensor:
        """β̃_ℓ."""
        return posterior_variance(logsnr_prev, logsnr)
