r"""The closed laws of the gap between the L-level bound and the truth, level by level, nats.

A level's gap is E KL(P(z_{ℓ−1}|z_ℓ) ‖ P_pri(z_{ℓ−1}|z_ℓ)). With the exact denoiser only the shape of the step is
wrong. The true step has covariance β̃(1 + Δγ C), Δγ = γ_{ℓ−1} − γ_ℓ, C = Cov[x|z_ℓ], so to second order in Δγ C
the gap is ¼ E‖mismatch of the covariance‖² / β̃². Small Δγ C is the condition: it holds on grids even in log-SNR with
fixed ends as L grows, and fails at the first levels of a constant σ, where Δγ C ≈ 1/(ℓ−1). The decoder, level 1, is
outside these laws.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ByVariance:
    """One number, or one a level, for each choice of the reverse variance, nats.

    Args:
        step: σ_ℓ².   posterior: β̃_ℓ.   isotropic: the best number a level.   level_diagonal: the best a level and
        coordinate.   diagonal: the best a coordinate, given z_ℓ.   full: the true covariance, given z_ℓ.
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
        square: E tr C².   trace: E tr C.   diagonal: E Σ C_ii².   mean_diagonal: Σ (E C_ii)².   dims: d.
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
        covariance: C at levels 2…L, (L−1, M, d, d).   weight: (L−1, M).   logsnr: λ_1…λ_L, (L,).
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
        covariance: Σ, (d, d).   logsnr: λ_1…λ_L, (L,).
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
