"""The U-Net of Ho et al. 2020 and its descendants: the networks that other codes publish."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from markovae.networks.conditioning import Condition, ConditionEmbedding
from markovae.networks.embedding import working_type
from markovae.networks.kernels import arranged, doubled_convolution, normed
from markovae.networks.layers import attend, zeroed
from markovae.networks.network import Network, check_images
from markovae.networks.network_config import DataSpec, DDPMConfig
from markovae.system.device import Constants


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
        self.time = nn.Linear(config.time_dim, outputs * (2 if config.scale_shift else 1))
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
        channels: C, kept.
        head_dim: size of a head; 0 is one head.
        groups: of the normalization; 0 is none.
        eps: added to its variance.
        scale: the sum is divided by it.
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
        channels: C.
        padding: 1 on every side, or 0: one at the right and below.
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


Run = Callable[..., Tensor]
"""run(module, *inputs): see `Network._run`."""


@final
class DownStage(nn.Module):
    """The blocks of one level going down, and the step to the next coarser one.

    Args:
        config: of the network.
        level: 0 is the finest.
        inputs: channels that come in.
    """

    def __init__(self, config: DDPMConfig, level: int, inputs: int) -> None:
        super().__init__()
        width = config.widths[level]
        incoming = [inputs, *[width] * (config.blocks - 1)]
        self.blocks = nn.ModuleList(DDPMBlock(config, channels, width) for channels in incoming)
        self.attention = _attention(config, width, config.blocks, level in config.attention)
        self.resample: nn.Module | None = None
        if level + 1 < len(config.widths):
            residual = level in config.residual_down
            self.resample = DDPMBlock(config, width, width, "down") if residual else Halving(width, config.padding)

    def forward(self, h: Tensor, time: Tensor, skips: list[Tensor], run: Run) -> Tensor:
        """h after the level; everything that the way up will need is appended to `skips`."""
        for index, block in enumerate(self.blocks):
            h = run(block, h, time)
            h = run(self.attention[index], h) if len(self.attention) else h
            skips.append(h)
        if self.resample is not None:
            h = arranged(run(self.resample, h, time))
            skips.append(h)
        return h


@final
class UpStage(nn.Module):
    """The blocks of one level going up, each with a skip of the way down, and the step to the next finer level.

    Args:
        config: of the network.
        level: 0 is the finest.
        inputs: channels that come from the coarser level.
    """

    def __init__(self, config: DDPMConfig, level: int, inputs: int) -> None:
        super().__init__()
        width, finer = config.widths[level], config.widths[max(level - 1, 0)]
        skips = [*[width] * config.blocks, finer]
        incoming = [inputs, *[width] * config.blocks]
        self.blocks = nn.ModuleList(
            DDPMBlock(config, below + skip, width) for below, skip in zip(incoming, skips, strict=True)
        )
        self.attention = _attention(config, width, config.blocks + 1, level in config.up_attention)
        self.resample: nn.Module | None = None
        if level:
            self.resample = DDPMBlock(config, width, width, "up") if level in config.residual_up else Doubling(width)

    def forward(self, h: Tensor, time: Tensor, skips: list[Tensor], run: Run) -> Tensor:
        """h after the level; the skips it needs are taken from the end of `skips`."""
        for index, block in enumerate(self.blocks):
            h = run(block, torch.cat([h, skips.pop()], dim=1), time)
            h = run(self.attention[index], h) if len(self.attention) else h
        return h if self.resample is None else arranged(run(self.resample, h, time))


@final
class Middle(nn.Module):
    """Two blocks at the coarsest level, with attention between them.

    Args:
        config: of the network.
    """

    def __init__(self, config: DDPMConfig) -> None:
        super().__init__()
        width, scale = config.widths[-1], config.middle_scale
        self.blocks = nn.ModuleList(DDPMBlock(config, width, width, scale=scale) for _ in range(2))
        settings: tuple[Any, ...] = (width, config.head_dim, config.middle_norm_groups, config.eps, scale)
        self.attention = nn.ModuleList([DDPMAttention(*settings)] if config.middle_attention else [])

    def forward(self, h: Tensor, time: Tensor, run: Run) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        h = run(self.blocks[0], h, time)
        for attention in self.attention:
            h = run(attention, h)
        return run(self.blocks[1], h, time)


def _attention(config: DDPMConfig, width: int, count: int, wanted: bool) -> nn.ModuleList:
    modules = range(count if wanted else 0)
    return nn.ModuleList(DDPMAttention(width, config.head_dim, config.groups, config.eps) for _ in modules)


PERIOD = 10_000.0


@final
class GridStep(nn.Module):
    """log-SNR -> the step t = 0…T−1 of a grid, (B,), float64: whole on its levels, linear in log-SNR between them.

    Args:
        logsnr: λ_1…λ_T of the grid, finite and falling, (T,); level ℓ is step ℓ − 1.
    """

    rising: Tensor

    def __init__(self, logsnr: Tensor) -> None:
        super().__init__()
        if logsnr.ndim != 1 or len(logsnr) < 2 or not bool((logsnr.isfinite()).all() & (logsnr.diff() < 0).all()):
            raise ValueError("the grid of a network must have at least two log-SNRs, finite and falling: give λ_1…λ_T")
        self.register_buffer("rising", -logsnr.detach().double(), persistent=False)

    def forward(self, logsnr: Tensor) -> Tensor:
        """t at each log-SNR, (B,); beyond the ends of the grid, the end."""
        grid = self.rising
        wanted = (-logsnr.double()).clamp(grid[0], grid[-1]).contiguous()
        after = torch.searchsorted(grid, wanted).clamp(1, len(grid) - 1)
        before = after - 1
        t = before + (wanted - grid[before]) / (grid[after] - grid[before])
        whole = t.round()
        return torch.where((t - whole).abs() < 1e-7, whole, t)


@final
class StepEmbedding(nn.Module):
    """t -> (B, E): MLP of cos and sin of t·10000^(−i/(n − shift)), i < n.

    The features are formed in float32, as the networks of this family were trained: t up to 1000 leaves them 4 digits,
    and other ones would be another network.

    Args:
        features: 2n, the width of the finest level.
        config: embedding, sine_first, shift.
    Source: Ho et al. 2020, appendix B; Vaswani et al. 2017, section 3.5.
    """

    def __init__(self, features: int, config: DDPMConfig) -> None:
        super().__init__()
        self.features_count, self.sine_first, self.shift = features, config.sine_first, config.shift
        self.first = nn.Linear(features, config.time_dim)
        self.second = nn.Linear(config.time_dim, config.time_dim)
        self._constants = Constants()

    def frequencies(self, device: torch.device) -> Tensor:
        """10000^(−i/(n − shift)), (n,), float32."""
        half = self.features_count // 2
        exponent = -math.log(PERIOD) * torch.arange(half, dtype=torch.float32, device=device)
        return torch.exp(exponent / (half - self.shift))

    def features(self, t: Tensor) -> Tensor:
        """The fixed features, (B, 2n), float32."""
        phase = t.float()[:, None] * self._constants.get(t.device, make=lambda: self.frequencies(t.device))
        pair = (phase.sin(), phase.cos())
        return F.pad(torch.cat(pair if self.sine_first else pair[::-1], dim=1), (0, self.features_count % 2))

    def forward(self, t: Tensor) -> Tensor:
        """(B,) -> (B, E)."""
        hidden: Tensor = self.second(F.silu(self.first(self.features(t).to(working_type(self.first.weight)))))
        return hidden


@final
class DDPMUNet(Network):
    """The U-Net of Ho et al. (2020) and, with scale and shift, of Nichol and Dhariwal (2021) and their successors.

    Args:
        config, data: its shape.
        logsnr: λ_1…λ_T of the grid that its steps t = 0…T−1 count, (T,).
    Source: Ho et al. 2020, appendix B; Dhariwal and Nichol 2021, section 3.
    """

    def __init__(self, config: DDPMConfig, data: DataSpec, logsnr: Tensor) -> None:
        super().__init__()
        self.config, self.data = config, data
        self.stride, self.num_classes = config.stride(data.size), data.num_classes
        widths = config.widths
        self.step = GridStep(logsnr)
        self.time = StepEmbedding(widths[0], config)
        self.condition = ConditionEmbedding(config.time_dim, data.num_classes, null=config.null_class)
        self.stem = nn.Conv2d(data.in_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            DownStage(config, level, inputs) for level, (inputs, _) in enumerate(pairwise((widths[0], *widths)))
        )
        self.middle = Middle(config)
        self.up = nn.ModuleList(
            UpStage(config, level, widths[min(level + 1, len(widths) - 1)]) for level in reversed(range(len(widths)))
        )
        self.norm = nn.GroupNorm(config.groups, widths[0], eps=config.eps)
        self.head = zeroed(nn.Conv2d(widths[0], data.out_channels, 3, padding=1))

    def outer_weights(self) -> tuple[Tensor, ...]:
        """Weights of the stem, the head, the first layer of the time and the labels' embedding."""
        return (self.stem.weight, self.head.weight, self.time.first.weight, *self.condition.parameters())

    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> Tensor:
        """Predict the target: (B, C, H, W), (B,) -> (B, C_out, H, W), in the working type."""
        check_images(z, logsnr, self.data.in_channels, self.stride)
        time = F.silu(self.time(self.step(logsnr)) + self.condition(condition, len(z)))
        h = self.stem(arranged(z.to(working_type(self.stem.weight))))
        skips = [h]
        for stage in self.down:
            h = stage(h, time, skips, self._run)
        h = self.middle(h, time, self._run)
        for stage in self.up:
            h = stage(h, time, skips, self._run)
        norm = self.norm
        out: Tensor = self.head(normed(h, norm.num_groups, norm.weight, norm.bias, norm.eps))
        return out.to(working_type(self.stem.weight))
