"""The built-in feature network: seven convolutions on 32×32 pixels, trained by `scripts/features.py`."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import final

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 32
WIDTHS = (64, 128, 192)
POOLED = sum(WIDTHS)


@final
class SmallNet(nn.Module):
    """Three stages at 16², 8² and 4² positions; the features are the mean of each stage's channels over positions.

        h ← relu(conv_down h),   h ← relu(h + conv h),   feature = (mean h − shift) · scale

    The early stages see noise, blur and colour, the last one what is shown. `shift` and `scale` bring every feature to
    mean 0 and variance 1 over the images of the training; `kept` are the channels that vary there.

    Args:
        dims: how many of the 384 channels are kept.
    """

    def __init__(self, dims: int = POOLED) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        before = (32, *WIDTHS[:-1])
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in zip(before, WIDTHS, strict=True))
        self.same = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for width in WIDTHS)
        self.register_buffer("kept", torch.arange(dims))
        self.register_buffer("shift", torch.zeros(dims))
        self.register_buffer("scale", torch.ones(dims))

    kept: Tensor
    shift: Tensor
    scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Images on [0, 1], (B, 3, 32, 32) -> (B, dims)."""
        return (self.pooled(x)[:, self.kept] - self.shift) * self.scale

    def pooled(self, x: Tensor) -> Tensor:
        """The means of all channels, (B, 384)."""
        h = F.relu(self.stem(2 * x - 1))
        means = []
        for down, same in zip(self.down, self.same, strict=True):
            h = F.relu(down(h))
            h = F.relu(h + same(h))
            means.append(h.mean((2, 3)))
        return torch.cat(means, 1)


def open_small() -> tuple[SmallNet, str]:
    """The network with the weights of this package, in float32, and their SHA-256."""
    content = files(__package__).joinpath("small.safetensors").read_bytes()
    tensors = safetensors.torch.load(content)
    net = SmallNet(len(tensors["kept"]))
    net.load_state_dict(
        {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    )
    return net.eval().requires_grad_(False), hashlib.sha256(content).hexdigest()
