"""Convolutions with their batch normalisation folded in, as the feature networks need them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@final
class FoldedConv(nn.Module):
    """A convolution with a bias, for evaluation.

    Args:
        weight: (out, in/groups, kh, kw).   bias: (out,).   stride: of both axes.
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
    """The convolution `conv` followed by the batch normalisation `norm`, variance offset 1e-3, as one.

    A convolution whose weight has one input channel is depthwise.
    """
    weight = tensors[f"{conv}.weight"].double()
    gain = tensors[f"{norm}.weight"].double() / (tensors[f"{norm}.running_var"].double() + 1e-3).sqrt()
    bias = tensors[f"{norm}.bias"].double() - tensors[f"{norm}.running_mean"].double() * gain
    groups = len(weight) if weight.shape[1] == 1 else 1
    return FoldedConv((weight * gain[:, None, None, None]).float(), bias.float(), stride, padding, groups)
