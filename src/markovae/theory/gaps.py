r"""The closed laws of the gap between the L-level bound and the truth, level by level, nats.

A level's gap is E KL(P(z_{ℓ−1}|z_ℓ) ‖ P_pri(z_{ℓ−1}|z_ℓ)). With the exact denoiser only the shape of the step is
wrong. The true step has covariance β̃(1 + Δγ C), Δγ = γ_{ℓ−1} − γ_ℓ, C = Cov[x|z_ℓ], so to second order in Δγ C
the gap is ¼ E‖mismatch of the covariance‖² / β̃². Small Δγ C is the condition: it holds on grids even in log-SNR with
fixed ends as L grows, and fails at the first levels of a constant σ, where Δγ C ≈ 1/(ℓ−1). The decoder, level 1, is
outside these laws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from markovae.diffusion.forward import noise_scale, posterior_coefficients, posterior_variance, signal_scale
from markovae.diffusion.reverse import (
    DiagonalVariance,
    FullVariance,
    IsotropicVariance,
    LearnedVariance,
    PosteriorVariance,
    ReverseVariance,
    StepVariance,
)
from markovae.diffusion.schedule import constant, time
from markovae.theory.information import information
from markovae.theory.mixture import Mixture, MixtureDistribution
from markovae.theory.quadrature import even_grid, slope
from markovae.theory.sde import logsnr_at


@dataclass(frozen=True)
class ByVariance:
    """One number, or one a level, for each choice of the reverse variance, nats.

    Args:
        step: σ_ℓ².
        posterior: β̃_ℓ.
        isotropic: the best number a level.
        level_diagonal: the best a level and
        coordinate.
        diagonal: the best a coordinate, given z_ℓ.
        full: the true covariance, given z_ℓ.
    """

    step: Tensor
    posterior: Tensor
    isotropic: Tensor
    level_diagonal: Tensor
    diagonal: Tensor
    full: Tensor

    def total(self) -> ByVariance:
        """The sum over levels, () each."""
        return ByVariance(*[values.sum() for values in vars(self).values()])

    def above(self, truth: float) -> ByVariance:
        """Each less the truth: gaps from nats."""
        return ByVariance(*[values - truth for values in vars(self).values()])


@dataclass(frozen=True)
class Moments:
    """What the laws need to know of C = Cov[x|z_ℓ], (N,) for N levels.

    Args:
        square: E tr C².
        trace: E tr C.
        diagonal: E Σ C_ii².
        mean_diagonal: Σ (E C_ii)².
        dims: d.
    """

    square: Tensor
    trace: Tensor
    diagonal: Tensor
    mean_diagonal: Tensor
    dims: int


def moments(covariance: Tensor, weight: Tensor) -> Moments:
    """The moments over latents: covariance (N, M, d, d), weight (N, M) summing to 1 in each row."""
    diagonal = covariance.diagonal(dim1=2, dim2=3)
    mean = (weight.unsqueeze(2) * diagonal).sum(1)
    return Moments(
        (weight * (covariance**2).sum((2, 3))).sum(1),
        mean.sum(1),
        (weight * (diagonal**2).sum(2)).sum(1),
        (mean**2).sum(1),
        covariance.shape[-1],
    )


def snr_steps(logsnr: Tensor) -> Tensor:
    """Δγ_ℓ = γ_{ℓ−1} − γ_ℓ for ℓ = 2…L from λ_1…λ_L, (L−1,), float64.

    Raises:
        ValueError: where the log-SNR does not fall.
    """
    logsnr = logsnr.double()
    if len(logsnr) < 2 or not bool((logsnr.diff() < 0).all()):
        raise ValueError("the gap is over levels 2…L: give two or more log-SNRs, falling from level to level")
    return -logsnr[:-1].exp() * torch.expm1(logsnr.diff())


def posterior_law(width: Tensor, m: Moments) -> Tensor:
    """Variance β̃: ¼ Δγ² E tr C²."""
    return 0.25 * width**2 * m.square


def step_law(width: Tensor, m: Moments, logsnr: Tensor) -> Tensor:
    """Variance σ² = β̃(1 + Δγ/(1+γ_ℓ)): ¼ Δγ² E tr (C − 1/(1+γ_ℓ))², none for data of unit variance."""
    unit = torch.sigmoid(-logsnr)
    return 0.25 * width**2 * (m.square - 2 * unit * m.trace + m.dims * unit**2)


def isotropic_law(width: Tensor, m: Moments) -> Tensor:
    """The best number a level: ¼ Δγ² (E tr C² − d c̄²), c̄ = E tr C/d."""
    return 0.25 * width**2 * (m.square - m.trace**2 / m.dims)


def level_diagonal_law(width: Tensor, m: Moments) -> Tensor:
    """The best number a level and coordinate: ¼ Δγ² (E tr C² − Σ (E C_ii)²)."""
    return 0.25 * width**2 * (m.square - m.mean_diagonal)


def diagonal_law(width: Tensor, m: Moments) -> Tensor:
    """The best diagonal given z_ℓ: ¼ Δγ² E[tr C² − Σ C_ii²]."""
    return 0.25 * width**2 * (m.square - m.diagonal)


def full_law(width: Tensor, third_square: Tensor) -> Tensor:
    """The true mean and covariance: Δγ³ E‖κ₃(x|z_ℓ)‖²/12, what Edgeworth's skewness term leaves.

    Args:
        third_square: E κ₃², the squared third cumulant of x given z_ℓ (on the line), (N,).
    """
    return width**3 * third_square / 12


def second_order(covariance: Tensor, weight: Tensor, logsnr: Tensor, places: Tensor) -> ByVariance:
    """All laws to second order in Δγ at ℓ = 2…L, (L−1,) each; `full` has no such term.

    Args:
        covariance: C at levels 2…L, (L−1, M, d, d).
        weight: (L−1, M).
        logsnr: λ_1…λ_L, (L,).
        places: where in each step C was taken, (L−1,): λ_ℓ, or the middle of the step.
    """
    width, m = snr_steps(logsnr), moments(covariance, weight)
    return ByVariance(
        step_law(width, m, places),
        posterior_law(width, m),
        isotropic_law(width, m),
        level_diagonal_law(width, m),
        diagonal_law(width, m),
        torch.zeros_like(width),
    )


def gaussian_exact(covariance: Tensor, logsnr: Tensor) -> ByVariance:
    r"""The gap of Gaussian data N(·, Σ) at ℓ = 2…L, (L−1,) each, exact at any Δγ.

    C = Σ(1 + γ_ℓ Σ)⁻¹ for every z; with u_i = Δγ s_i/(1 + γ_ℓ s_i) over the eigenvalues s_i of Σ and ū their mean:
    β̃: ½Σ[u_i − ln(1+u_i)];   isotropic: ½[d ln(1+ū) − Σ ln(1+u_i)];   diagonals: ½[Σ ln(1+Δγ C_ii) − Σ ln(1+u_i)];
    step: ½Σ[w_i − ln(1+w_i)], 1 + w_i = (1+u_i) s_{ℓ−1}²/s_ℓ²;   full: 0.

    Args:
        covariance: Σ, (d, d).
        logsnr: λ_1…λ_L, (L,).
    """
    width = snr_steps(logsnr).unsqueeze(1)
    values, vectors = torch.linalg.eigh(covariance.double())
    if not bool((values > 0).all()):
        raise ValueError(f"covariance with eigenvalue {float(values.min()):g} is not positive definite")
    left = values / (1 + logsnr[1:].double().exp().unsqueeze(1) * values)
    u, v = width * left, width * (left @ (vectors**2).T)
    mean = u.mean(1, keepdim=True)
    unit = width * torch.sigmoid(-logsnr[1:].double()).unsqueeze(1)
    w = (u - unit) / (1 + unit)
    diagonal = 0.5 * (v.log1p() - u.log1p()).sum(1)
    return ByVariance(
        0.5 * (w - w.log1p()).sum(1),
        0.5 * (u - u.log1p()).sum(1),
        0.5 * (mean.log1p() - u.log1p()).sum(1),
        diagonal,
        diagonal,
        torch.zeros_like(diagonal),
    )


def gaussian_levels(eigenvalues: Tensor, first: float, last: float) -> float:
    """The levels' total in the limit, ½Σ ln[(1+γ_1 s_i)/(1+γ_L s_i)]: a term of the bound, not a gap, nats."""
    ends = torch.tensor([[first], [last]], dtype=torch.float64).exp()
    terms = (ends * eigenvalues.double()).log1p()
    return 0.5 * float((terms[0] - terms[1]).sum())


EULER = 0.57721566490153286
SMOOTH_LIMIT = EULER / 2
"""What β̃ costs on smooth data at constant σ as L → ∞, nats/dim."""
POINT_LIMIT = (1 - EULER) / 2
"""What σ² costs on point masses at constant σ as L → ∞, nats/dim."""


def smooth_gap(num_levels: int, delta: float, variance: float = 1.0) -> float:
    """The gap under β̃ of Gaussian data at constant σ, levels 2…L, nats/dim: tends to ½γ_Euler = 0.2886."""
    logsnr = constant(num_levels=num_levels, delta=delta).logsnr[1:]
    covariance = torch.tensor([[variance]], dtype=torch.float64)
    return float(gaussian_exact(covariance, logsnr).posterior.sum())


def point_gap(reverse: ReverseVariance, logsnr: Tensor) -> float:
    """The gap on a point mass, where x̂ = x and only the width is wrong, nats/dim; λ_1…λ_L.

    With σ²: Σ ½[r − 1 − ln r], r = s_{ℓ−1}²/s_ℓ², which at constant σ tends to ½(1 − γ_Euler) = 0.2114.
    """
    logsnr = logsnr.double()
    point = torch.zeros(len(logsnr) - 1, 1, dtype=torch.float64)
    return float(reverse.kl(point, point, logsnr[:-1], logsnr[1:]).sum())


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
        posterior = toy.distribution(weight.numel()).posterior(
            z.reshape(-1, *toy.shape), levels.repeat_interleave(z.shape[1])
        )
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


_REACH = 12.0


def logsnr_before(logsnr: Tensor, sigma: float) -> Tensor:
    """λ_{ℓ−1} from λ_ℓ and the step's σ: t_{ℓ−1} = t_ℓ + ½ ln(1 − σ²).

    Raises:
        ValueError: for σ outside (0, 1), or a step longer than the way from the data.
    """
    if not 0 < sigma < 1:
        raise ValueError(f"sigma={sigma:g} must lie in (0, 1): it is the noise of one step")
    before = time(logsnr) + 0.5 * math.log1p(-(sigma**2))
    if not bool((before > 0).all()):
        raise ValueError(f"sigma={sigma:g} is longer than the way from the data: take a smaller one")
    return logsnr_at(before)


def step_divergences(toy: Mixture, logsnr: Tensor, sigma: float, count: int = 300) -> Tensor:
    """E KL( P(z_{ℓ−1}|z_ℓ) ‖ Q ) for Q = N(z_ℓ, σ²), N(μ, σ²), N(μ, v), μ and v true: (3,), nats, on the line.

    Args:
        logsnr: of z_ℓ, ().
        sigma: of the step.
        count: nodes over z_ℓ and over z_{ℓ−1}.
    """
    logsnr = logsnr.double()
    before = logsnr_before(logsnr, sigma)
    z, weight = toy.nodes(logsnr.reshape(1), count)
    z, weight = z[0], weight[0]
    c_z, c_x = posterior_coefficients(before, logsnr)
    posterior = toy.distribution(len(z)).posterior(z, logsnr.expand(len(z)))
    law = posterior.blurred(c_z * z, c_x.expand(len(z)), posterior_variance(before, logsnr).expand(len(z)))
    mean, variance = law.mean(), law.covariance()[:, :, 0]
    step = torch.full_like(variance, sigma**2)
    values = [kl_to_normal(law, m, v, count) for m, v in ((z, step), (mean, step), (mean, variance))]
    return torch.stack([(weight * kl).sum() for kl in values])


def leading_divergences(toy: Mixture, logsnr: Tensor, sigma: float, count: int = 300) -> Tensor:
    r"""The same three to leading order in σ, (3,), nats, on the line.

    ½σ² E(z/2 + ∇ln p)²;   ¼Δγ² E(C − s²)²;   Δγ³ E κ₃²/12, with Δγ = σ² γ(1+γ), C and κ₃ cumulants of x given z.
    """
    logsnr = logsnr.double()
    z, weight = toy.nodes(logsnr.reshape(1), count)
    z, weight = z[0], weight[0]
    posterior = toy.distribution(len(z)).posterior(z, logsnr.expand(len(z)))
    drift = 0.5 * z[:, 0] + toy.score(z, logsnr)[:, 0]
    width = sigma**2 * logsnr.exp() * (1 + logsnr.exp())
    excess = posterior.covariance()[:, 0, 0] - noise_scale(logsnr) ** 2
    terms = (0.5 * sigma**2 * drift**2, 0.25 * width**2 * excess**2, width**3 / 12 * posterior.third_moment() ** 2)
    return torch.stack([(weight * term).sum() for term in terms])


def step_slopes(toy: Mixture, logsnr: Tensor, sigmas: tuple[float, ...] = (0.02, 0.03, 0.045)) -> tuple[float, ...]:
    """The slopes of the three divergences in σ: 2, 4 and 6 in the limit."""
    values = torch.stack([step_divergences(toy, logsnr, sigma) for sigma in sigmas])
    return tuple(slope(torch.tensor(sigmas), column) for column in values.T)


def kl_to_normal(law: MixtureDistribution, mean: Tensor, variance: Tensor, count: int = 300) -> Tensor:
    """KL(law ‖ N(mean, variance)) of each example on the line, (B,), nats.

    It is ∫ Q φ(δ) with δ = ln P/Q and φ(δ) = e^δ δ − e^δ + 1 ≥ 0. δ is summed from differences of nearly equal means
    and variances, and φ ≈ δ²/2 from its series, so a divergence of 1e-14 keeps its digits.
    """
    ends = torch.tensor(_REACH, dtype=torch.float64)
    unit, weight = even_grid(-ends, ends, count)
    deviation = variance.sqrt()
    offset = ((law.means[..., 0] - mean) / deviation).unsqueeze(2)
    excess = (law.variances[..., 0] / variance - 1).unsqueeze(2)
    # ln N(w; offset, 1 + excess) − ln N(w; 0, 1)
    square = (unit**2 * excess + 2 * unit * offset - offset**2) / (1 + excess)
    log_ratio = (law.log_weights.unsqueeze(2) + 0.5 * (square - excess.log1p())).logsumexp(1)
    normal = weight * torch.exp(-0.5 * unit**2) / math.sqrt(2 * math.pi)
    return (normal * _relative(log_ratio)).sum(1)


def _relative(log_ratio: Tensor) -> Tensor:
    small = log_ratio.abs() < 1e-3
    d = torch.where(small, log_ratio, 0.0)
    series = d**2 * (0.5 + d * (1 / 3 + d * (1 / 8 + d / 30)))
    return torch.where(small, series, log_ratio.exp() * log_ratio - torch.expm1(log_ratio))
