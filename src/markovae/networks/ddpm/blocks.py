"""The parts of a DDPM network: residual blocks, attention, and the two changes of resolution."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn
from torch.nn import functional as F

from markovae.networks.ddpm.config import DDPMConfig
from markovae.networks.ddpm.kernels import doubled_convolution, normed
from markovae.networks.layers import attend, zeroed


@final
class DDPMBlock(nn.Module):
    """x' + conv(silu(GN(conv(silu(GN x)) with the time)))), x' the input, through a 1x1 convolution where C changes.

    Args:
        config: groups, eps, dropout, embedding, and how the time enters.
        inputs, outputs: channels.
        resample: "down" or "up" halves or doubles H and W between the first silu and the first convolution, and of x.
        scale: the sum is divided by it.
    Source: Ho et al. 2020, appendix B; Nichol and Dhariwal 2021, section 3 (scale and shift).
    """

    def __init__(
        self, config: DDPMConfig, inputs: int, outputs: int, resample: str | None = None, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.scale_shift, self.dropout = config.scale_shift, config.dropout
        self.resample, self.scale = resample, scale
        self.norm = nn.GroupNorm(config.groups, inputs, eps=config.eps)
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(config.embedding, outputs * (2 if config.scale_shift else 1))
        self.second_norm = nn.GroupNorm(config.groups, outputs, eps=config.eps)
        self.second = zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x: (B, C, H, W); time: silu of the embedding, (B, E) -> (B, C', H', W')."""
        norm, later = self.norm, self.second_norm
        h = normed(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
        if self.resample == "down":
            x, h = F.avg_pool2d(x, 2), F.avg_pool2d(h, 2)
        if self.resample == "up":
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            h = doubled_convolution(h, self.first.weight, self.first.bias)
        else:
            h = self.first(h)
        if self.scale_shift:
            scale, shift = self.time(time).float().chunk(2, dim=1)
            gain, offset = later.weight * (1 + scale), later.bias * (1 + scale) + shift
        else:
            h, gain, offset = h + self.time(time)[..., None, None], later.weight, later.bias
        h = normed(h, later.num_groups, gain, offset, later.eps)
        if self.dropout:
            h = F.dropout(h, self.dropout, self.training)
        h = self.second(h) + (x if self.shortcut is None else self.shortcut(x))
        return h if self.scale == 1 else h / self.scale


@final
class DDPMAttention(nn.Module):
    """h + projection of softmax(q kᵀ/√d) v over all positions.

    Args:
        channels: C, kept.   head_dim: size of a head; 0 is one head.   groups: of the normalisation; 0 is none.
        eps: added to its variance.   scale: the sum is divided by it.
    """

    def __init__(self, channels: int, head_dim: int, groups: int, eps: float, scale: float = 1.0) -> None:
        super().__init__()
        self.head_dim, self.scale = head_dim or channels, scale
        self.norm = nn.GroupNorm(groups, channels, eps=eps) if groups else None
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zeroed(nn.Linear(channels, channels))

    def forward(self, h: Tensor) -> Tensor:
        """h: (B, C, H, W) -> (B, C, H, W)."""
        batch, channels, height, width = h.shape
        norm, seen = self.norm, h
        if norm is not None:
            seen = normed(h, norm.num_groups, norm.weight, norm.bias, norm.eps, silu=False)
        qkv = self.qkv(seen.flatten(2).transpose(1, 2)).reshape(batch, height * width, 3, -1, self.head_dim)
        mixed = attend(*qkv.permute(2, 0, 3, 1, 4).unbind(0)).transpose(1, 2)
        out = self.out(mixed.reshape(batch, height * width, channels))
        total: Tensor = h + out.transpose(1, 2).unflatten(2, (height, width))
        return total if self.scale == 1 else total / self.scale


@final
class Halving(nn.Module):
    """A 3x3 convolution of stride 2, (B, C, H, W) -> (B, C, H/2, W/2).

    Args:
        channels: C.   padding: 1 on every side, or 0: one at the right and below.
    """

    def __init__(self, channels: int, padding: int) -> None:
        super().__init__()
        self.padding = padding
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        """(B, C, H/2, W/2); the time is not read."""
        out: Tensor = self.conv(h if self.padding else F.pad(h, (0, 1, 0, 1)))
        return out


@final
class Doubling(nn.Module):
    """A 3x3 convolution of the image with every pixel doubled, (B, C, H, W) -> (B, C, 2H, 2W).

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        """(B, C, 2H, 2W); the time is not read."""
        return doubled_convolution(h, self.conv.weight, self.conv.bias)
