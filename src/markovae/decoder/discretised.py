"""A Gaussian over digits: its mass in each bin, exact in both tails."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.special import log_ndtr

from markovae.gaussian import sum_dims
from markovae.pixels import Pixels
from markovae.randomness import Source, normal_like

NARROW = 1e-3  # of a bin's width times its distance: the fourth order that is left out is below 10⁻¹⁵


@dataclass(frozen=True)
class DiscretisedGaussian:
    r"""P(digit k) = Φ((x_k + h − μ)/τ) − Φ((x_k − h − μ)/τ), the two end bins open.

    Args:
        mean: μ on the pixel scale, (B, *D).
        scale: τ > 0, broadcastable to (B, *D).
        pixels: the digits and their scale; h is half a bin.
    Source: Ho et al. 2020, eq. 13 (with the exact Φ, and nothing clamped).
    """

    mean: Tensor
    scale: Tensor
    pixels: Pixels

    def log_prob(self, x: Tensor) -> Tensor:
        """ln P of the digits at the scale values `x` (bin centres), nats, (B,), float64: a log-probability."""
        return sum_dims(self.log_probs(x))

    def log_probs(self, x: Tensor) -> Tensor:
        """ln P of each pixel, (B, *D), float64, by differences of log Φ taken in the nearer tail.

        A bin across which the density hardly changes has its width times the density at its centre, and the curvature.
        """
        digits = self.pixels.to_digits(x)
        centre = self.pixels.to_x(digits) - self.mean.double()
        scale = self.scale.double()
        upper = (centre + self.pixels.half_width) / scale
        lower = (centre - self.pixels.half_width) / scale
        upper = torch.where(digits == self.pixels.bins - 1, torch.inf, upper)
        lower = torch.where(digits == 0, -torch.inf, lower)
        flip = lower > 0
        upper, lower = torch.where(flip, -lower, upper), torch.where(flip, -upper, lower)
        narrow = (upper - lower) * (1 - lower) < NARROW
        width, middle = torch.where(narrow, upper - lower, 1.0), torch.where(narrow, (upper + lower) / 2, 0.0)
        curved = torch.log1p((middle**2 - 1) * width**2 / 24)
        even = width.log() - middle**2 / 2 - math.log(2 * math.pi) / 2 + curved
        # Where it is not taken a branch still has a gradient, which must be a number.
        exact = log_difference(log_ndtr(upper), log_ndtr(torch.where(narrow, upper - 1, lower)))
        return torch.where(narrow, even, exact)

    def sample(self, source: Source) -> Tensor:
        """A draw on the pixel scale, (B, *D): a Gaussian draw rounded to its bin has exactly these probabilities."""
        return self.round(self.mean + self.scale.to(self.mean) * normal_like(self.mean, source))

    def mode(self) -> Tensor:
        """The most probable digits, on the pixel scale, (B, *D)."""
        return self.round(self.mean)

    def round(self, x: Tensor) -> Tensor:
        """The centre of the bin that holds `x`, (B, *D)."""
        return self.pixels.to_x(self.pixels.to_digits(x), x.dtype)


def log_difference(larger: Tensor, smaller: Tensor) -> Tensor:
    """ln(e^larger − e^smaller) for larger ≥ smaller, float64, accurate when they nearly agree and when they do not."""
    gap = smaller - larger
    near = gap > -math.log(2)
    safe_near = torch.where(near, gap, -1.0)
    return larger + torch.where(near, (-torch.expm1(safe_near)).log(), torch.log1p(-gap.exp()))
