r"""The gap measured: form E6 with the exact denoiser, by quadrature over latents, less the truth.

The truth of the levels 2…L is I(x; z_1) − I(x; z_L). Level 1, the decoder, is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from markovae.forward import noise_scale, signal_scale
from markovae.gaps.laws import ByVariance, full_law, second_order, snr_steps
from markovae.reverse import (
    DiagonalVariance,
    FullVariance,
    IsotropicVariance,
    LearnedVariance,
    PosteriorVariance,
    ReverseVariance,
    StepVariance,
)
from markovae.toys.information import information
from markovae.toys.mixture import Mixture

_CHUNK = 1 << 19


@dataclass(frozen=True)
class Spread:
    """What z_ℓ leaves open of x at the levels 2…L of a grid.

    Args:
        logsnr: λ_1…λ_L, (L,), float64.
        covariance: C = Cov[x|z_ℓ] at M latents a level, (L−1, M, d, d).
        third: third cumulant of x given z_ℓ, (L−1, M); zero but on the line.
        weight: probability of each latent, (L−1, M).
    """

    logsnr: Tensor
    covariance: Tensor
    third: Tensor
    weight: Tensor


def spread(toy: Mixture, logsnr: Tensor, count: int = 600) -> Spread:
    """Cov[x|z_ℓ] over a grid of latents: `count` a dimension, in one or two; a Gaussian needs one latent only."""
    logsnr = logsnr.double()
    snr_steps(logsnr)
    if len(toy.weights) == 1:
        z = toy.means.reshape(1, 1, *toy.shape) * signal_scale(logsnr[1:]).reshape(-1, 1, *[1] * len(toy.shape))
        covariance = toy.covariance(z.flatten(0, 1), logsnr[1:]).unsqueeze(1)
        one = torch.ones(len(logsnr) - 1, 1, dtype=torch.float64)
        return Spread(logsnr, covariance, torch.zeros_like(one), one)
    parts = []
    for levels in logsnr[1:].split(max(_CHUNK // count**toy.dims, 1)):
        z, weight = toy.nodes(levels, count)
        posterior = toy.law(weight.numel()).posterior(z.reshape(-1, *toy.shape), levels.repeat_interleave(z.shape[1]))
        covariance = posterior.covariance()
        third = posterior.third_moment() if toy.dims == 1 else torch.zeros(len(covariance), dtype=torch.float64)
        parts.append((covariance.reshape(*weight.shape, toy.dims, toy.dims), third.reshape(weight.shape), weight))
    covariance, third, weight = (torch.cat(part) for part in zip(*parts, strict=True))
    return Spread(logsnr, covariance, third, weight)


def level_nats(s: Spread, reverse: ReverseVariance, head: Tensor | None = None) -> Tensor:
    """E KL of each level ℓ = 2…L with a reverse variance of the library, (L−1,), nats.

    The KL is quadratic in x − x̂, so d errors √d·F_i with FFᵀ = C stand for all x given z.

    Args:
        head: what the variance takes besides, (L−1, M, …).
    """
    dims, count = s.covariance.shape[-1], s.weight.shape[1]
    totals = []
    for levels in torch.arange(1, len(s.logsnr)).split(max(_CHUNK // count, 1)):
        covariance = s.covariance[levels - 1].flatten(0, 1)
        extra = None if head is None else head[levels - 1].flatten(0, 1)
        before, now = (s.logsnr[at].repeat_interleave(count) for at in (levels - 1, levels))
        nats = torch.zeros(len(covariance), dtype=torch.float64)
        for error in _factor(covariance).unbind(2):
            nats += reverse.kl(dims**0.5 * error, torch.zeros_like(error), before, now, extra) / dims
        totals.append((s.weight[levels - 1] * nats.reshape(len(levels), count)).sum(1))
    return torch.cat(totals)


def measured_nats(s: Spread) -> ByVariance:
    """E6's levels 2…L under each reverse variance, (L−1,) each, nats."""
    dims, levels = s.covariance.shape[-1], s.logsnr[1:]
    before, now = s.logsnr[:-1].reshape(-1, 1, 1), levels.reshape(-1, 1, 1)
    diagonal = s.covariance.diagonal(dim1=2, dim2=3)
    mean = (s.weight.unsqueeze(2) * diagonal).sum(1)
    isotropic, level_diagonal = IsotropicVariance(len(levels)), DiagonalVariance((dims,), len(levels))
    isotropic.errors.fit(levels, mean.mean(1))
    level_diagonal.errors.fit(levels, mean)
    # ln v = ln β̃ + ½(1 + head) ln σ²/β̃ is to be ln β̃ + ln(1 + Δγ C_ii).
    excess = (snr_steps(s.logsnr).reshape(-1, 1, 1) * diagonal).log1p()
    head = excess / (noise_scale(now).log() - noise_scale(before).log()) - 1
    own = level_nats(s, LearnedVariance(), head)
    jacobian = s.covariance * (signal_scale(now) / noise_scale(now) ** 2).unsqueeze(3)
    return ByVariance(
        level_nats(s, StepVariance()),
        level_nats(s, PosteriorVariance()),
        level_nats(s, isotropic),
        level_nats(s, level_diagonal),
        own,
        own if dims == 1 else level_nats(s, FullVariance(), jacobian),
    )


def truth(toy: Mixture, logsnr: Tensor) -> float:
    """I(x; z_1) − I(x; z_L): what the levels 2…L cost at least, nats; logsnr λ_1…λ_L."""
    return information(toy, logsnr[0].double()) - information(toy, logsnr[-1].double())


def measured(toy: Mixture, logsnr: Tensor, count: int = 600) -> ByVariance:
    """Gaps of the levels 2…L in all, () each, nats: E6 with the exact denoiser less the truth; λ_1…λ_L."""
    return measured_nats(spread(toy, logsnr, count)).total().above(truth(toy, logsnr))


def predicted(toy: Mixture, logsnr: Tensor, count: int = 600, *, centred: bool = False) -> ByVariance:
    """The laws' gaps of the levels 2…L in all, () each, nats; λ_1…λ_L.

    `full` is the third-order law on the line (there `diagonal` is the same) and 0 elsewhere; the others are to
    second order.

    Args:
        centred: take C in the middle of each step, at (γ_{ℓ−1} + γ_ℓ)/2, not at γ_ℓ: the same law to its order,
            with a smaller remainder.
    """
    logsnr = logsnr.double()
    width = snr_steps(logsnr)
    # In the middle of a step γ is the mean of the two; only the places of C move, not the steps' widths.
    places = logsnr[1:] + (0.5 * (-logsnr.diff()).expm1()).log1p() if centred else logsnr[1:]
    s = spread(toy, torch.cat([logsnr[:1] + 1, places]), count)
    third = full_law(width, (s.weight * s.third**2).sum(1)).sum()
    law = second_order(s.covariance, s.weight, logsnr, places).total()
    return replace(law, full=third, diagonal=third if toy.dims == 1 else law.diagonal)


def _factor(covariance: Tensor) -> Tensor:
    """F with FFᵀ = C, (B, d, d)."""
    if covariance.shape[-1] == 1:
        return covariance.sqrt()
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt().unsqueeze(1)
