r"""Rate against distortion: what an image costs when it is sent level by level, and how good it is by then.

Whoever holds z_ℓ has been sent KL(q(z_L|x)‖P) + Σ_{k>ℓ} KL_k nats and can show x̂(z_ℓ). With level 0 come the
decoder's nats, and the image is exact.
Source: Ho et al. 2020, section 4.3 (progressive lossy compression).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.likelihood.statistics import LevelStatistics


@dataclass(frozen=True)
class RatePoint:
    """One level of the curve.

    Args:
        level: ℓ; 0 is the image itself.   logsnr: λ_ℓ, infinite at level 0.
        rate_bits_per_dim: bits/dim sent by then.   rmse: root mean squared error of x̂, in digits (grey levels).
    """

    level: int
    logsnr: float
    rate_bits_per_dim: float
    rmse: float


def rate_distortion(model: Diffusion, level_statistics: LevelStatistics) -> tuple[RatePoint, ...]:
    """The curve of a model, from level L to the exact image, at the surveyed levels.

    Args:
        level_statistics: of this model, on images it was not trained on.
    Raises:
        UserError: for a model of continuous data, or a survey without level 1.
    """
    bin_width = 2 * model.pixels.half_width
    if int(level_statistics.level[0]) != 1:
        raise UserError("the survey lacks level 1: the curve's last step is the decoder's")
    nats = (
        level_statistics.nats_of_levels() if len(level_statistics.logsnr) > 2 else torch.zeros(0, dtype=torch.float64)
    )
    # after[ℓ−1] = Σ_{k>ℓ} KL_k for ℓ = 1…L.
    after = torch.cat([nats.flip(0).cumsum(0).flip(0), torch.zeros(1, dtype=torch.float64)]) + level_statistics.prior
    bits = 1 / (model.dims * math.log(2))
    rmse = level_statistics.error.flatten(1).mean(1).sqrt() / bin_width
    points = [
        RatePoint(level, float(level_statistics.logsnr[level]), float(after[level - 1]) * bits, float(rmse[k]))
        for k, level in enumerate(level_statistics.level.tolist())
    ]
    exact = RatePoint(0, math.inf, float(after[0] + level_statistics.nats[0]) * bits, 0.0)
    return (*reversed(points), exact)
