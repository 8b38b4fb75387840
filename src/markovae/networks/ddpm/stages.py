"""The levels of a DDPM network, going down and up, and the middle between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn

from markovae.networks.ddpm.blocks import DDPMAttention, DDPMBlock, Doubling, Halving
from markovae.networks.ddpm.config import DDPMConfig
from markovae.networks.ddpm.kernels import arranged

Run = Callable[..., Tensor]
"""run(module, *inputs): see `Network._run`."""


@final
class DownStage(nn.Module):
    """The blocks of one level going down, and the step to the next coarser one.

    Args:
        config: of the network.   level: 0 is the finest.   inputs: channels that come in.
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
        config: of the network.   level: 0 is the finest.   inputs: channels that come from the coarser level.
    """

    def __init__(self, config: DDPMConfig, level: int, inputs: int) -> None:
        super().__init__()
        width, finer = config.widths[level], config.widths[max(level - 1, 0)]
        skips = [*[width] * config.blocks, finer]
        incoming = [inputs, *[width] * config.blocks]
        self.blocks = nn.ModuleList(
            DDPMBlock(config, below + beside, width) for below, beside in zip(incoming, skips, strict=True)
        )
        self.attention = _attention(config, width, config.blocks + 1, level in config.attention_up)
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
        settings: tuple[Any, ...] = (width, config.head_dim, config.middle_groups, config.eps, scale)
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
