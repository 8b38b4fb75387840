"""What an observation keeps of an image: linear maps A with their transposes, on (B, C, H, W)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor
from torch.nn import functional


class LinearOperator(ABC):
    """A and Aᵀ, with ⟨A x, y⟩ = ⟨x, Aᵀ y⟩; every example of a batch alike."""

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """A x, (B, *D) -> (B, *observation)."""

    @abstractmethod
    def transpose(self, y: Tensor) -> Tensor:
        """Aᵀ y, (B, *observation) -> (B, *D)."""


@final
class Known(LinearOperator):
    """Inpainting: the known pixels, the others put to zero.

    Args:
        known: True where a pixel is known; broadcastable to (B, *D).
    """

    def __init__(self, known: Tensor) -> None:
        self.known = known.bool()

    def apply(self, x: Tensor) -> Tensor:
        """x where known, else 0."""
        return torch.where(self.known.to(x.device), x, torch.zeros_like(x))

    def transpose(self, y: Tensor) -> Tensor:
        """The same map: it is a projection."""
        return self.apply(y)


@final
class BoxDown(LinearOperator):
    """The mean of each factor × factor square: the super-resolution problem.

    Args:
        factor: ≥ 2; height and width must be multiples of it.
    """

    def __init__(self, factor: int) -> None:
        if factor < 2:
            raise ValueError(f"factor={factor} must be at least 2: it is the side of the squares that are averaged")
        self.factor = factor

    def apply(self, x: Tensor) -> Tensor:
        """Means of squares, (B, C, H/f, W/f).

        Raises:
            ValueError: where f does not divide the height and the width.
        """
        if x.shape[-1] % self.factor or x.shape[-2] % self.factor:
            raise ValueError(f"an image of {x.shape[-2]}x{x.shape[-1]} does not divide into squares of {self.factor}")
        return functional.avg_pool2d(x, self.factor)

    def transpose(self, y: Tensor) -> Tensor:
        """Each value spread over its square, divided by f², (B, C, H, W)."""
        spread = y.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)
        return spread / self.factor**2


@final
class Blur(LinearOperator):
    """A Gaussian blur, K_h x K_wᵀ, each row of K a kernel summing to 1 and mirrored at the borders.

    Args:
        height, width: of the images.   std: of the kernel in pixels, > 0.
    """

    def __init__(self, height: int, width: int, std: float) -> None:
        if not std > 0:
            raise ValueError(f"std={std:g} must be positive: it is the blur's width in pixels")
        self.rows, self.columns = _mirrored(height, std), _mirrored(width, std)

    def apply(self, x: Tensor) -> Tensor:
        """The blurred image, (B, C, H, W)."""
        return self.rows.to(x) @ x @ self.columns.to(x).T

    def transpose(self, y: Tensor) -> Tensor:
        """K_hᵀ y K_w, (B, C, H, W)."""
        return self.rows.to(y).T @ y @ self.columns.to(y)


@final
class Grey(LinearOperator):
    """Luminance of a colour image, 0.299 R + 0.587 G + 0.114 B: the colourisation problem.

    Source: ITU-R BT.601.
    """

    def __init__(self) -> None:
        self.weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).reshape(3, 1, 1)

    def apply(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 1, H, W).

        Raises:
            ValueError: for images without three channels.
        """
        if x.shape[1] != 3:
            raise ValueError(f"images of {x.shape[1]} channel(s) have no colour to take away: three are needed")
        return (self.weights.to(x) * x).sum(1, keepdim=True)

    def transpose(self, y: Tensor) -> Tensor:
        """The luminance times each channel's weight, (B, 3, H, W)."""
        return self.weights.to(y) * y


def _mirrored(size: int, std: float) -> Tensor:
    reach = math.ceil(4 * std)
    offset = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-0.5 * (offset.double() / std) ** 2)
    place = (torch.arange(size)[:, None] + offset) % (2 * size)  # mirrored without end: 0 … n−1, n−1 … 0, 0 …
    place = torch.where(place < size, place, 2 * size - 1 - place)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    return matrix.scatter_add_(1, place, (kernel / kernel.sum()).expand(size, -1))
