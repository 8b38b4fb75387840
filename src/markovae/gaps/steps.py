r"""How close one true reverse step is to a Gaussian as σ → 0, at a fixed level of noise.

The lecture's claim in three numbers: against N(z_ℓ, σ²) the KL of P(z_{ℓ−1}|z_ℓ) falls as σ² (the mean moves by
O(σ²), little against the deviation σ), against N(true mean, σ²) as σ⁴ (the variance is σ²(1 + O(σ²))), against
N(true mean, true variance) as σ⁶ (the skewness is O(σ³)).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from markovae.forward import noise_scale, posterior_coefficients, posterior_variance
from markovae.quadrature import even_grid, slope
from markovae.schedule import time
from markovae.sde import logsnr_at
from markovae.toys.mixture import Mixture, MixtureLaw

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
        logsnr: of z_ℓ, ().   sigma: of the step.   count: nodes over z_ℓ and over z_{ℓ−1}.
    """
    logsnr = logsnr.double()
    before = logsnr_before(logsnr, sigma)
    z, weight = toy.nodes(logsnr.reshape(1), count)
    z, weight = z[0], weight[0]
    c_z, c_x = posterior_coefficients(before, logsnr)
    posterior = toy.law(len(z)).posterior(z, logsnr.expand(len(z)))
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
    posterior = toy.law(len(z)).posterior(z, logsnr.expand(len(z)))
    drift = 0.5 * z[:, 0] + toy.score(z, logsnr)[:, 0]
    width = sigma**2 * logsnr.exp() * (1 + logsnr.exp())
    excess = posterior.covariance()[:, 0, 0] - noise_scale(logsnr) ** 2
    terms = (0.5 * sigma**2 * drift**2, 0.25 * width**2 * excess**2, width**3 / 12 * posterior.third_moment() ** 2)
    return torch.stack([(weight * term).sum() for term in terms])


def step_slopes(toy: Mixture, logsnr: Tensor, sigmas: tuple[float, ...] = (0.02, 0.03, 0.045)) -> tuple[float, ...]:
    """The slopes of the three divergences in σ: 2, 4 and 6 in the limit."""
    values = torch.stack([step_divergences(toy, logsnr, sigma) for sigma in sigmas])
    return tuple(slope(torch.tensor(sigmas), column) for column in values.T)


def kl_to_normal(law: MixtureLaw, mean: Tensor, variance: Tensor, count: int = 300) -> Tensor:
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
