"""The one rule by which images of any size and depth reach a feature network."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

RESIZE = "bicubic-antialiased-stretched-1"
"""The rule's name in every record; its number rises when a pixel it makes would change."""


def resized(images: np.ndarray[Any, Any], bins: int, side: int) -> Tensor:
    """Digits as numbers on [0, 1], three channels, side × side pixels, (n, 3, side, side), float32.

    A digit k becomes k/(bins−1); one channel is repeated three times; then bicubic interpolation (a = −½) of both
    axes to `side`, whatever the shape before, its kernel widened by the factor of shrinking (antialiased), pixel
    centres aligned at halves. Nothing is rounded or clipped afterwards: bicubic may pass 0 and 1 by a little. Images
    of this side already stay as they are.

    Args:
        images: digits 0…bins−1, (n, C, H, W), C = 1 or 3.
    Raises:
        ValueError: for another shape or type, or digits outside 0…bins−1.
    Source: Keys 1981 (bicubic); Parmar et al. 2022 show what other rules do to such distances.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images of shape {images.shape} must be (n, C, H, W) with C = 1 or 3")
    if not np.issubdtype(images.dtype, np.integer):
        raise ValueError(f"images of type {images.dtype} must be whole digits: pass them unscaled")
    digits = torch.from_numpy(np.ascontiguousarray(images).astype(np.int32))
    if digits.numel() and not 0 <= int(digits.min()) <= int(digits.max()) < bins:
        raise ValueError(f"digits {int(digits.min())}…{int(digits.max())} must lie in 0…{bins - 1}")
    x = (digits.double() / (bins - 1)).float().expand(-1, 3, -1, -1)
    if x.shape[2:] == (side, side):
        return x.contiguous()
    return F.interpolate(x, size=(side, side), mode="bicubic", align_corners=False, antialias=True)
