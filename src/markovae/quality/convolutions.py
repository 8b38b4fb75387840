"""The one rule by which images of any size and depth reach a feature network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

RESIZE = "bicubic-antialiased-stretched-1"
"""The rule's name in every record; its number rises when a pixel it makes would change."""


def resized(images: np.ndarray[Any, Any], bins: int, side: int) -> Tensor:
    """Pixel values as numbers on [0, 1], three channels, side × side pixels, (n, 3, side, side), float32.

    A pixel value k becomes k/(bins−1); one channel is repeated three times; then bicubic interpolation (a = −½) of both
    axes to `side`, whatever the shape before, its kernel widened by the factor of shrinking (antialiased), pixel
    centres aligned at halves. Nothing is rounded or clipped afterwards: bicubic may pass 0 and 1 by a little. Images
    of this side already stay as they are.

    Args:
        images: pixel values 0…bins−1, (n, C, H, W), C = 1 or 3.
    Raises:
        ValueError: for another shape or type, or values outside 0…bins−1.
    Source: Keys 1981 (bicubic); Parmar et al. 2022 show what other rules do to such distances.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images of shape {images.shape} must be (n, C, H, W) with C = 1 or 3")
    if not np.issubdtype(images.dtype, np.integer):
        raise ValueError(f"images of type {images.dtype} must be whole pixel values: pass them unscaled")
    values = torch.from_numpy(np.ascontiguousarray(images).astype(np.int32))
    if values.numel() and not 0 <= int(values.min()) <= int(values.max()) < bins:
        raise ValueError(f"pixel values {int(values.min())}…{int(values.max())} must lie in 0…{bins - 1}")
    x = (values.double() / (bins - 1)).float().expand(-1, 3, -1, -1)
    if x.shape[2:] == (side, side):
        return x.contiguous()
    return F.interpolate(x, size=(side, side), mode="bicubic", align_corners=False, antialias=True)


@final
class FoldedConv(nn.Module):
    """A convolution with a bias, for evaluation.

    Args:
        weight: (out, in/groups, kh, kw).
        bias: (out,).
        stride: of both axes.
        padding: (rows, columns) on both sides, or None for as little as keeps ⌈size/stride⌉ positions, an odd one
            on the right and lower side (TensorFlow's SAME).
        groups: as in torch.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        stride: int = 1,
        padding: tuple[int, int] | None = None,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.stride, self.padding, self.groups = stride, padding, groups

    weight: Tensor
    bias: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H', W')."""
        if self.padding is None:
            x = F.pad(x, same_padding(x.shape[2:], self.weight.shape[2:], self.stride))
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding or 0, groups=self.groups)


def same_padding(size: torch.Size, kernel: torch.Size, stride: int) -> list[int]:
    """(left, right, upper, lower) zeros of TensorFlow's SAME."""
    pads: list[int] = []
    for length, taps in zip(reversed(size), reversed(kernel), strict=True):
        missing = max((-(-length // stride) - 1) * stride + taps - length, 0)
        pads += [missing // 2, missing - missing // 2]
    return pads


def folded(
    tensors: Mapping[str, Tensor],
    conv: str,
    norm: str,
    stride: int = 1,
    padding: tuple[int, int] | None = None,
) -> FoldedConv:
    """The convolution `conv` followed by the batch normalization `norm`, variance offset 1e-3, as one.

    A convolution whose weight has one input channel is depthwise.
    """
    weight = tensors[f"{conv}.weight"].double()
    gain = tensors[f"{norm}.weight"].double() / (tensors[f"{norm}.running_var"].double() + 1e-3).sqrt()
    bias = tensors[f"{norm}.bias"].double() - tensors[f"{norm}.running_mean"].double() * gain
    groups = len(weight) if weight.shape[1] == 1 else 1
    return FoldedConv((weight * gain[:, None, None, None]).float(), bias.float(), stride, padding, groups)
