"""The orthonormal Haar transform of images: 2x2 pixels to their sum and three differences, each halved."""

from __future__ import annotations

import torch
from torch import Tensor


def split(x: Tensor) -> tuple[Tensor, Tensor]:
    """(low, details) of images of even sides, (B, C, H, W) -> (B, C, H/2, W/2), (B, 3C, H/2, W/2).

    Of each 2x2 square: half the sum, and half the horizontal, vertical and diagonal differences, C channels each.
    `low` is twice the mean of the square; squares add up, ‖x‖² = ‖low‖² + ‖details‖².
    Source: Haar 1910; Mallat 1989.
    """
    top, bottom = x[..., 0::2, :], x[..., 1::2, :]
    left, right = (top + bottom) / 2, (top - bottom) / 2
    low, across = left[..., 0::2] + left[..., 1::2], left[..., 0::2] - left[..., 1::2]
    down, diagonal = right[..., 0::2] + right[..., 1::2], right[..., 0::2] - right[..., 1::2]
    return low, torch.cat([across, down, diagonal], 1)


def merge(low: Tensor, details: Tensor) -> Tensor:
    """The images of `split`'s two bands, (B, C, 2h, 2w)."""
    across, down, diagonal = details.chunk(3, 1)
    corners = torch.stack(
        [
            low + across + down + diagonal,
            low - across + down - diagonal,
            low + across - down - diagonal,
            low - across - down + diagonal,
        ],
        2,
    )
    return torch.nn.functional.pixel_shuffle(corners.flatten(1, 2) / 2, 2)
