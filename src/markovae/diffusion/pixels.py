"""Pixel values to numbers in [−1, 1] and back: the one place that converts.

Two conventions exist and are never mixed. `ends` (Ho et al.): the first and last pixel value lie at the ends of the
scale, x = 2k/(bins−1) − 1, half width of a bin 1/(bins−1). `centres` (VDM): the scale is cut into `bins` equal
bins and a pixel value lies at the centre of its own, x = (2k+1)/bins − 1, half width 1/bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MAX_BINS = 65_536


@dataclass(frozen=True)
class Pixels:
    """Pixel values 0…bins−1 on the scale [−1, 1].

    Args:
        bins: number of pixel values, 2…65,536 (256 for 8-bit images).
        centred: False for the `ends` convention, True for `centres`.
    """

    bins: int = 256
    centred: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.bins <= MAX_BINS:
            raise ValueError(f"bins={self.bins} must lie in 2…{MAX_BINS}: it counts pixel values")

    @property
    def half_width(self) -> float:
        """Half the width of one bin on the scale [−1, 1]."""
        return 1 / self.bins if self.centred else 1 / (self.bins - 1)

    def to_x(self, values: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """Pixel values, of any integer type, on the scale, (B, *D), in `dtype`.

        Raises:
            ValueError: for values outside 0…bins−1.
        """
        if values.is_floating_point():
            raise ValueError(f"pixel values must be integers, not {values.dtype}: pass them before scaling")
        if values.numel() and not 0 <= int(values.min()) <= int(values.max()) < self.bins:
            raise ValueError(
                f"pixel values {int(values.min())}…{int(values.max())} must lie in 0…{self.bins - 1}: "
                f"the model declares {self.bins} bins"
            )
        offset = 0.5 if self.centred else 0.0
        return (((values.double() + offset) * (2 * self.half_width)) - 1).to(dtype)

    def to_pixel_values(self, x: Tensor) -> Tensor:
        """The nearest pixel value of each number, ends open, (B, *D), int64: how a sample becomes an image."""
        offset = 0.5 if self.centred else 0.0
        return ((x.double() + 1) / (2 * self.half_width) - offset).round().clamp(0, self.bins - 1).long()
