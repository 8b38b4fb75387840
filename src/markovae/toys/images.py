"""Image-shaped toys: the 1/f spectrum of natural images, as a Gaussian and as a pair of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from markovae.toys.mixture import Mixture
from markovae.toys.modes import Modes


def cosine_basis(size: int) -> Tensor:
    """Orthonormal cosines in columns, (size, size): the DCT-II, lowest frequency first."""
    place = (torch.arange(size, dtype=torch.float64) + 0.5).unsqueeze(1)
    frequency = torch.arange(size, dtype=torch.float64)
    basis = torch.cos(math.pi / size * place * frequency) * math.sqrt(2 / size)
    basis[:, 0] = 1 / math.sqrt(size)
    return basis


def pink_modes(shape: Sequence[int], std: float = 0.5, exponent: float = 2.0, colour: float = 0.9) -> Modes:
    r"""Power ∝ 1/(1 + f)^exponent over cosine modes, f = √(i² + j²): amplitude falls as 1/f for exponent 2.

    Args:
        shape: (C, H, W).
        std: root mean variance of a pixel.
        exponent: of the power spectrum.
        colour: correlation of two channels, in (−1/(C−1), 1).
    Raises:
        ValueError: for another rank, or numbers that give no positive definite covariance.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape={tuple(shape)} must be (C, H, W)")
    if not std > 0:
        raise ValueError(f"std={std:g} must be positive: it is a pixel's standard deviation")
    channels, height, width = shape
    rows = torch.arange(height, dtype=torch.float64).unsqueeze(1)
    columns = torch.arange(width, dtype=torch.float64)
    power = (1 + (rows**2 + columns**2).sqrt()) ** -exponent
    between = torch.full((channels, channels), colour, dtype=torch.float64).fill_diagonal_(1.0)
    strength, mixing = torch.linalg.eigh(between)
    variance = strength.reshape(-1, 1, 1) * power
    variance = variance * (std**2 / variance.mean())
    rotations = (mixing.unsqueeze(0), cosine_basis(height).unsqueeze(0), cosine_basis(width).unsqueeze(0))
    return Modes(variance.reshape(1, -1), rotations)


def pink_gaussian(shape: Sequence[int], std: float = 0.5, exponent: float = 2.0, colour: float = 0.9) -> Mixture:
    """A Gaussian over images (C, H, W) with a 1/f spectrum; entropy in closed form."""
    modes = pink_modes(shape, std, exponent, colour)
    return Mixture(torch.ones(1), torch.zeros(1, *shape), modes)


def pink_pair(shape: Sequence[int], separation: float = 3.0, weight: float = 0.5, std: float = 0.5) -> Mixture:
    """Two kinds of 1/f images: the same covariance, means ± `separation` of its strongest mode's deviations apart.

    Its entropy is a one-dimensional integral beside closed terms, so it is known to 1e-10 in any resolution.

    Args:
        weight: probability of the first kind, in (0, 1).
    """
    if not 0 < weight < 1:
        raise ValueError(f"weight={weight:g} must lie in (0, 1): it is the probability of the first kind")
    modes = pink_modes(shape, std)
    strongest = int(modes.variance[0].argmax())
    along = torch.zeros_like(modes.variance).unsqueeze(0)
    along[0, 0, strongest] = separation * modes.variance[0, strongest].sqrt()
    mean = modes.out_of(along).reshape(tuple(shape))
    both = Modes(modes.variance.expand(2, -1), modes.rotations)
    return Mixture(torch.tensor([weight, 1 - weight], dtype=torch.float64), torch.stack([mean, -mean]), both)
