"""The full covariance of P_pri(z_{ℓ−1} | z_ℓ), for problems of few dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from markovae.forward import noise_scale, posterior, posterior_variance, signal_scale
from markovae.gaussian import FullGaussian, expand
from markovae.randomness import Source
from markovae.reverse.base import ReverseVariance


@dataclass(frozen=True)
class Shaped:
    """A Gaussian over vectors, seen over (*D).

    Args:
        flat: over (d,), one for each example.   like: a tensor (B, *D) of the shape and type of its draws.
    """

    flat: FullGaussian
    like: Tensor

    def sample(self, source: Source) -> Tensor:
        """A draw, (B, *D)."""
        return self.flat.sample(source).reshape(self.like.shape).to(self.like)

    def log_prob(self, x: Tensor) -> Tensor:
        """Its log-density in nats, (B,), float64."""
        return self.flat.log_prob(x.flatten(1))


@final
class FullVariance(ReverseVariance):
    r"""V = β̃ I + c_x² C = β̃ (I + Δγ C), C = Cov[x|z_ℓ] = (s_ℓ²/a_ℓ) ∂x̂/∂z.

    The identity for C holds for the exact denoiser. A network's Jacobian is made a covariance by the model's
    definition: its symmetric part, with negative eigenvalues put to zero. `head` is the Jacobian, (B, d, d).
    The gap to the truth is O(Δγ³) a level, so O(1/L²) in all.
    Source: second-order Tweedie formula (Efron 2011, section 2).
    """

    needs_jacobian: bool = True

    def covariance(self, logsnr: Tensor, head: Tensor | None) -> tuple[Tensor, Tensor]:
        """C by its eigenvalues ≥ 0, (B, d), and orthonormal eigenvectors as columns, (B, d, d), float64.

        Raises:
            ValueError: without a Jacobian.
        """
        if head is None:
            raise ValueError("a full covariance needs the network's Jacobian at z")
        scale = noise_scale(logsnr) ** 2 / signal_scale(logsnr)
        symmetric = expand(scale, head) * (head.double() + head.double().mT) / 2
        values, vectors = torch.linalg.eigh(symmetric)
        return values.clamp(min=0), vectors

    def step(self, x_hat: Tensor, z: Tensor, logsnr_prev: Tensor, logsnr: Tensor, head: Tensor | None = None) -> Shaped:
        """N(posterior mean at x̂, β̃ (I + Δγ C)), over (B, *D)."""
        values, vectors = self.covariance(logsnr, head)
        floor, width = _expand(posterior_variance(logsnr_prev, logsnr)), _expand(_snr_step(logsnr_prev, logsnr))
        mean = posterior(x_hat, z, logsnr_prev, logsnr).mean
        covariance = (vectors * (floor * (1 + width * values))[:, None]) @ vectors.mT
        return Shaped(FullGaussian(mean.flatten(1), (covariance + covariance.mT) / 2), mean)

    def kl(self, x: Tensor, x_hat: Tensor, logsnr_prev: Tensor, logsnr: Tensor, head: Tensor | None = None) -> Tensor:
        r"""½ Σ_i [ ln(1 + u_i) − u_i/(1 + u_i) + Δγ e_i²/(1 + u_i) ] nats, (B,), float64; ℓ ≥ 2.

        u_i = Δγ c_i over the eigenvalues of C, e_i the error x − x̂ along the eigenvectors.
        """
        values, vectors = self.covariance(logsnr, head)
        width = _expand(_snr_step(logsnr_prev, logsnr))
        error = (vectors.mT @ (x.double() - x_hat.double()).flatten(1)[..., None])[..., 0]
        u = width * values
        return 0.5 * (u.log1p() + (width * error**2 - u) / (1 + u)).sum(1)


def _snr_step(logsnr_prev: Tensor, logsnr: Tensor) -> Tensor:
    """Δγ = γ_{ℓ−1} − γ_ℓ = −γ_{ℓ−1} expm1(λ_ℓ − λ_{ℓ−1}), float64."""
    return -logsnr_prev.double().exp() * torch.expm1(logsnr.double() - logsnr_prev.double())


def _expand(values: Tensor) -> Tensor:
    return values[:, None] if values.ndim else values
