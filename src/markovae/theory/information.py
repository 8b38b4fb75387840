r"""Information and estimation: I(x; z_λ) = ½ ∫₀^γ mmse dγ', and −ln p(x) from the error of the best denoiser.

All integrals run over the log-SNR, dγ = γ dλ, where the integrands are smooth and fall off at both ends.
Source: Guo, Shamai & Verdú 2005; pointwise form: Kong, Brekelmans & Ver Steeg 2023.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from markovae.diffusion.forward import noise_scale, signal_scale
from markovae.theory.mixture import Mixture, Toy
from markovae.theory.quadrature import even_grid, normal_grid

_SPAN = 30.0


def information(toy: Mixture, logsnr: Tensor) -> float:
    """I(x; z_λ) = h(z_λ) − (d/2) ln 2πe s², nats, logsnr ()."""
    noise = 2 * float(noise_scale(logsnr).log()) + math.log(2 * math.pi * math.e)
    return toy.noised(logsnr).entropy() - 0.5 * toy.dims * noise


def mean_error(toy: Mixture, logsnr: Tensor, count: int = 800) -> Tensor:
    """mmse(γ) = E‖x − E[x|z]‖² at N log-SNRs, (N,): the average of tr Cov[x|z] over a grid of latents."""
    if len(toy.weights) == 1:
        z = toy.means.reshape(1, *toy.shape).expand(len(logsnr), *toy.shape)
        s, variance = noise_scale(logsnr).unsqueeze(1), toy.modes.variance
        return (variance * s**2 / (signal_scale(logsnr).unsqueeze(1) ** 2 * variance + s**2)).sum(1).to(z)
    z, weight = toy.nodes(logsnr, count)
    flat = z.reshape(-1, *toy.shape)
    covariance = toy.covariance(flat, logsnr.repeat_interleave(z.shape[1]))
    return (weight * covariance.diagonal(dim1=1, dim2=2).sum(1).reshape(weight.shape)).sum(1)


def point_error(toy: Toy, x: Tensor, logsnr: Tensor, count: int = 401) -> Tensor:
    """mmse(x, γ) = E[‖x − E[x|z]‖² | x] of points on the line, x (B, 1), at N log-SNRs, (B, N).

    Raises:
        ValueError: in more than one dimension, where the noise has no one-dimensional grid.
    """
    if toy.dims != 1:
        raise ValueError(f"{toy.dims} dimensions: the error at a point is integrated over one noise only")
    noise, weight = normal_grid(count)
    a, s = signal_scale(logsnr).unsqueeze(1), noise_scale(logsnr).unsqueeze(1)
    z = a * x.reshape(-1, 1, 1) + s * noise
    guess = toy.denoise(z.reshape(-1, 1), logsnr.repeat_interleave(count).repeat(len(x))).reshape(z.shape)
    return ((x.reshape(-1, 1, 1) - guess) ** 2 @ weight).reshape(len(x), len(logsnr))


def logsnr_grid(count: int = 241) -> tuple[Tensor, Tensor]:
    """Nodes and weights of an integral over all log-SNRs, |λ| ≤ 30, each (count,)."""
    end = torch.tensor(_SPAN, dtype=torch.float64)
    return even_grid(-end, end, count)


def nats_of_error(error: Tensor, logsnr: Tensor, weight: Tensor, dims: int) -> Tensor:
    r"""(d/2) ln 2πe − ½ ∫₀^∞ [d/(1+γ) − mmse(γ)] dγ from the error at the nodes of `logsnr_grid`, (…, N) -> (…).

    With mmse(x, γ) it is −ln p(x); with its mean over x, the entropy.
    """
    density = dims * torch.sigmoid(logsnr) - logsnr.exp() * error
    return 0.5 * dims * math.log(2 * math.pi * math.e) - 0.5 * (density * weight).sum(-1)


def entropy_by_errors(toy: Mixture) -> float:
    """H(x) by I-MMSE, nats: to set beside `toy.entropy()`."""
    logsnr, weight = logsnr_grid()
    return float(nats_of_error(mean_error(toy, logsnr), logsnr, weight, toy.dims))


def nats_by_errors(toy: Toy, x: Tensor) -> Tensor:
    """−ln p(x) of points on the line by I-MMSE, x (B, 1) -> (B,), nats: to set beside `−toy.log_prob(x)`."""
    logsnr, weight = logsnr_grid()
    return nats_of_error(point_error(toy, x.double(), logsnr), logsnr, weight, toy.dims)
