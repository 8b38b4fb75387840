"""The U-Net: net(z, log-SNR, condition) -> out, for images of any height and width that its stride divides."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from markovae.networks.conditioning import Condition
from markovae.networks.layers import (
    CrossAttention,
    PatchConfig,
    PatchNetwork,
    ResidualBlock,
    SelfAttention,
    Tokens,
    group_count,
    zeroed,
)

Run = Callable[..., Tensor]


@dataclass(frozen=True)
class UNetConfig(PatchConfig):
    """Shape of a U-Net; its tokens are attended to after each block of the coarsest level.

    Attributes:
        width: channels at the finest level.   multipliers: of the width, one a level; each level halves H, W.
        blocks: residual blocks a level, going down and again going up.
        attention: levels (0 is the finest) with self-attention after each block.   head_dim: of attention.
    """

    width: int = 64
    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 2
    attention: tuple[int, ...] = ()
    head_dim: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least_one("width", "blocks", "head_dim")
        if not self.multipliers or min(self.multipliers) < 1:
            raise ValueError(f"multipliers={self.multipliers} must name a factor of at least 1 for each level")
        levels = len(self.multipliers)
        if any(not 0 <= level < levels for level in self.attention):
            raise ValueError(f"attention={self.attention} must name levels from 0 to {levels - 1}, 0 the finest")

    @property
    def stride(self) -> int:
        """Height and width of the latent must be multiples of this."""
        return self.patch * 2 ** (len(self.multipliers) - 1)


class _Level(nn.Module):
    """The blocks of one level, in one direction; going up, each first merges the skip of its partner."""

    def __init__(self, config: UNetConfig, level: int, merge: bool) -> None:
        super().__init__()
        channels = config.width * config.multipliers[level]
        count = range(config.blocks)
        self.blocks = nn.ModuleList(ResidualBlock(channels, config.embedding, config.dropout) for _ in count)
        attend = level in config.attention
        self.attention = nn.ModuleList(SelfAttention(channels, config.head_dim) for _ in count if attend)
        reads = config.token_dim > 0 and level == len(config.multipliers) - 1
        self.text = nn.ModuleList(CrossAttention(channels, config.token_dim, config.head_dim) for _ in count if reads)
        self.merges = nn.ModuleList(nn.Conv2d(2 * channels, channels, 1) for _ in count if merge)

    def forward(self, h: Tensor, embedding: Tensor, tokens: Tokens, skips: list[Tensor], run: Run) -> Tensor:
        for i, block in enumerate(self.blocks):
            if len(self.merges):
                h = self.merges[i](torch.cat([h, skips.pop()], dim=1))
            h = run(block, h, embedding)
            if len(self.attention):
                h = run(self.attention[i], h)
            if len(self.text) and tokens is not None:
                h = run(self.text[i], h, *tokens)
            if not len(self.merges):
                skips.append(h)
        return h


@final
class UNet(PatchNetwork):
    """Residual U-Net conditioned on the log-SNR through gains and offsets; its first output is zero.

    Source: Ronneberger et al. 2015; Ho et al. 2020, appendix B; patches as in Hoogeboom et al. 2023.
    """

    config: UNetConfig

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        widths = [config.width * factor for factor in config.multipliers]
        levels = range(len(widths))
        self.stem = nn.Conv2d(self.inputs, widths[0], 3, padding=1)
        self.down = nn.ModuleList(_Level(config, level, merge=False) for level in levels)
        self.up = nn.ModuleList(_Level(config, level, merge=True) for level in levels)
        steps = list(pairwise(widths))
        self.shrink = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in steps)
        self.grow = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in steps)
        self.norm = nn.GroupNorm(group_count(widths[0]), widths[0])
        self.head = zeroed(nn.Conv2d(widths[0], config.out_channels * config.patch**2, 3, padding=1))

    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> Tensor:
        """Predict the target: (B, C, H, W), (B,) -> (B, C_out, H, W), in the working type."""
        h = self.stem(self._patches(z, logsnr, condition))
        embedding, tokens = self._told(logsnr, condition)
        skips: list[Tensor] = []
        last = len(self.down) - 1
        for level, stage in enumerate(self.down):
            h = stage(h, embedding, tokens, skips, self._run)
            h = self.shrink[level](h) if level < last else h
        for level in range(last, -1, -1):
            h = self.up[level](h, embedding, tokens, skips, self._run)
            h = self.grow[level - 1](h) if level > 0 else h
        return self._pixels(self.head(F.silu(self.norm(h))))
