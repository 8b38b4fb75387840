r"""The two traps of a constant σ: what no number of levels removes, because Δγ C ≈ 1/(ℓ−1) at the first levels.

Near the data γ_ℓ ≈ 1/(ℓσ²). Where the data are smooth C ≈ 1/γ_ℓ, so u_ℓ = 1/(ℓ−1) whatever σ, and the variance β̃
costs ½Σ[1/(ℓ−1) − ln(ℓ/(ℓ−1))] → ½γ_Euler a dimension. Where they are points C = 0 and σ²/β̃ ≈ ℓ/(ℓ−1), and the
variance σ² costs ½Σ[ln(ℓ/(ℓ−1)) − 1/ℓ] → ½(1 − γ_Euler).
"""

from __future__ import annotations

import torch
from torch import Tensor

from markovae.gaps.laws import gaussian_exact
from markovae.reverse import ReverseVariance
from markovae.schedule import constant

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
