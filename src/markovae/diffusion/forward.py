"""The encoder P_enc of the diffusion model: Gaussians between two log-SNRs.

A level is one number, its log-SNR λ in float64; every scale follows from it without cancellation:
a = √sigmoid(λ), s = √sigmoid(−λ), and λ = +∞ is clean data.
"""

from __future__ import annotations

import torch
from torch import Tensor

from markovae.diffusion.gaussian import Gaussian, expand, factor


def signal_scale(logsnr: Tensor) -> Tensor:
    """a = √sigmoid(λ): how much of z_0 is left, float64, the shape of `logsnr`."""
    return torch.sigmoid(logsnr.double()).sqrt()


def noise_scale(logsnr: Tensor) -> Tensor:
    """s = √sigmoid(−λ): the cumulative noise's standard deviation, float64; a² + s² = 1."""
    return torch.sigmoid(-logsnr.double()).sqrt()


def step_alpha(logsnr_prev: Tensor, logsnr: Tensor) -> Tensor:
    """α_ℓ = a_ℓ / a_{ℓ−1}: signal kept in one step, float64."""
    return signal_scale(logsnr) / signal_scale(logsnr_prev)


def step_variance(logsnr_prev: Tensor, logsnr: Tensor) -> Tensor:
    """σ_ℓ² = 1 − α_ℓ² = −s_ℓ² expm1(λ_ℓ − λ_{ℓ−1}): variance of one step's noise, float64."""
    return -torch.sigmoid(-logsnr.double()) * torch.expm1(logsnr.double() - logsnr_prev.double())


def posterior_variance(logsnr_prev: Tensor, logsnr: Tensor) -> Tensor:
    """β̃_ℓ = σ_ℓ² s_{ℓ−1}² / s_ℓ² = −s_{ℓ−1}² expm1(λ_ℓ − λ_{ℓ−1}), float64; zero at ℓ = 1."""
    return -torch.sigmoid(-logsnr_prev.double()) * torch.expm1(logsnr.double() - logsnr_prev.double())


def posterior_coefficients(logsnr_prev: Tensor, logsnr: Tensor) -> tuple[Tensor, Tensor]:
    """(c_z, c_x) of the posterior mean c_z z_ℓ + c_x z_0, float64.

    c_z = α_ℓ s_{ℓ−1}²/s_ℓ² = (a_{ℓ−1}/a_ℓ) e^{λ_ℓ−λ_{ℓ−1}},   c_x = a_{ℓ−1} σ_ℓ²/s_ℓ² = −a_{ℓ−1} expm1(λ_ℓ−λ_{ℓ−1})
    """
    difference = logsnr.double() - logsnr_prev.double()
    signal_prev = signal_scale(logsnr_prev)
    return signal_prev / signal_scale(logsnr) * difference.exp(), -signal_prev * torch.expm1(difference)


def step(z_prev: Tensor, logsnr_prev: Tensor, logsnr: Tensor) -> Gaussian:
    r"""q(z_ℓ | z_{ℓ−1}) = N(α_ℓ z_{ℓ−1}, σ_ℓ²): one step of the encoder.

    Args:
        z_prev: latent at level ℓ−1, (B, *D).
        logsnr_prev, logsnr: log-SNR at ℓ−1 and ℓ, (B,) or (); logsnr_prev = inf is level 0.
    Raises:
        ValueError: where log-SNR does not fall, or for pixel values that were not converted to the model's scale.
    Source: Ho et al. 2020, eq. 2; lecture, "DDPM".
    """
    _check_falling(logsnr_prev, logsnr)
    _check_real(z_prev)
    alpha, variance = step_alpha(logsnr_prev, logsnr), step_variance(logsnr_prev, logsnr)
    return Gaussian(factor(alpha, z_prev) * z_prev, expand(variance, z_prev).to(z_prev.device))


def marginal(x: Tensor, logsnr: Tensor) -> Gaussian:
    r"""q(z_ℓ | z_0) = N(a_ℓ z_0, s_ℓ²).

    Args:
        x: data, (B, *D).
        logsnr: (B,) or ().
    Raises:
        ValueError: for pixel values that were not converted to the model's scale.
    Source: Ho et al. 2020, eq. 4; lecture, "DDPM".
    """
    _check_real(x)
    variance = noise_scale(logsnr) ** 2
    return Gaussian(factor(signal_scale(logsnr), x) * x, expand(variance, x).to(x.device))


def noised(x: Tensor, noise: Tensor, logsnr: Tensor) -> Tensor:
    """z_ℓ = a_ℓ z_0 + s_ℓ ε̄ for a given cumulative noise ε̄, (B, *D), in the type of `x`."""
    return factor(signal_scale(logsnr), x) * x + factor(noise_scale(logsnr), x) * noise


def posterior(x: Tensor, z: Tensor, logsnr_prev: Tensor, logsnr: Tensor) -> Gaussian:
    r"""q(z_{ℓ−1} | z_ℓ, x): what the prior must imitate at this level.

    mean = [α_ℓ s_{ℓ−1}² z + a_{ℓ−1} σ_ℓ² x] / s_ℓ²,   variance = β̃_ℓ = σ_ℓ² s_{ℓ−1}² / s_ℓ²

    Args:
        x: data, (B, *D).
        z: latent at level ℓ, (B, *D).
        logsnr_prev, logsnr: log-SNR at ℓ−1 and ℓ, (B,) or (), float64; logsnr_prev = inf is level 0,
            where the posterior is the point x (variance zero).
    Raises:
        ValueError: where log-SNR does not fall.
    Source: Ho et al. 2020, eq. 7; lecture, "Rewriting the ELBO".
    """
    _check_falling(logsnr_prev, logsnr)
    c_z, c_x = posterior_coefficients(logsnr_prev, logsnr)
    mean = factor(c_z, z) * z + factor(c_x, z) * x
    return Gaussian(mean, expand(posterior_variance(logsnr_prev, logsnr), z).to(z.device))


def _check_falling(logsnr_prev: Tensor, logsnr: Tensor) -> None:
    if not bool((logsnr < logsnr_prev).all()):
        rise = float((logsnr - logsnr_prev).max())
        raise ValueError(f"log-SNR changes by {rise:g} in a step: it must fall from level to level")


def _check_real(x: Tensor) -> None:
    if not x.is_floating_point():
        raise ValueError(
            f"data of type {x.dtype} must be real numbers on the model's scale: convert pixel values first"
        )
