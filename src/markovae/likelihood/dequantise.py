r"""Digits to real numbers: noise within the bin, so that a density bounds a probability.

−ln P(k) = −ln ∫_bin p(y) dy ≤ −E_q[ ln p(x_k + u) − ln q(u) ], u ~ q on (−h, h), h half a bin.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from markovae.gaussian import sum_dims
from markovae.pixels import Pixels


class Dequantisation(ABC):
    """A law q of the noise within a bin."""

    @abstractmethod
    def noise(self, quantile: Tensor, pixels: Pixels) -> tuple[Tensor, Tensor]:
        """(u, ln q(u)) at quantiles in [0, 1), (B, *D) each way: u, and the log-density summed over D, (B,), nats."""


@final
class UniformNoise(Dequantisation):
    """U(−h, h): q = 1/2h, so the offset is −d ln 2h.

    Source: Theis et al. 2016, section 3.1.
    """

    def noise(self, quantile: Tensor, pixels: Pixels) -> tuple[Tensor, Tensor]:
        """u = (2q − 1) h."""
        half = pixels.half_width
        u = (2 * quantile.double() - 1) * half
        return u, torch.full((len(u),), -u[0].numel() * math.log(2 * half), dtype=torch.float64, device=u.device)


@final
class TruncatedNormalNoise(Dequantisation):
    """N(0, τ²) held within (−h, h): with τ = s_1/a_1 dequantised digits look like the latents of level 1.

    Args:
        scale: τ > 0.
    Source: Zheng et al. 2023, section 4.
    """

    def __init__(self, scale: float) -> None:
        if not (scale > 0 and math.isfinite(scale)):
            raise ValueError(f"scale={scale:g} must be positive: it is the noise's standard deviation")
        self.scale = scale

    def noise(self, quantile: Tensor, pixels: Pixels) -> tuple[Tensor, Tensor]:
        """U = τ Φ⁻¹(Φ(−r) + q(1 − 2Φ(−r))), r = h/τ; symmetric, and never at an end."""
        reach = pixels.half_width / self.scale
        mass = math.erf(reach / math.sqrt(2))
        # Φ⁻¹(½ + (q − ½) mass) = √2 erf⁻¹((2q − 1) mass); quantiles are multiples of 2⁻⁵³, here taken at their middles.
        standard = math.sqrt(2) * torch.erfinv((2 * quantile.double() - 1 + 2.0**-53) * mass)
        log_density = -0.5 * standard**2 - math.log(math.sqrt(2 * math.pi) * self.scale * mass)
        return self.scale * standard, sum_dims(log_density)
