"""The U-Net: net(z, log-SNR, condition) -> out, for images of any height and width."""

from collections.abc import Callable
from itertools import pairwise
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from markovae.networks.conditioning import Condition
from markovae.networks.layers import (
    CrossAttention,
    ResidualBlock,
    SelfAttention,
    group_count,
    zeroed,
)
from markovae.networks.network_config import DataSpec, NetworkConfig
from markovae.networks.patch_network import PatchNetwork, Tokens

Run = Callable[..., Tensor]


class _Level(nn.Module):
    """The blocks of one level, in one direction; going up, each first merges the skip of its partner.

    Args:
        channels: C.
        attend: whether self-attention follows each block.
        token_dim: features of the tokens attended
            to, 0 for none.
        merge: whether the level goes up.
    """

    def __init__(self, config: NetworkConfig, channels: int, attend: bool, token_dim: int, merge: bool) -> None:
        super().__init__()
        count = range(config.blocks)
        self.blocks = nn.ModuleList(ResidualBlock(channels, config.embedding, config.dropout) for _ in count)
        self.attention = nn.ModuleList(SelfAttention(channels, config.head_dim) for _ in count if attend)
        self.text = nn.ModuleList(CrossAttention(channels, token_dim, config.head_dim) for _ in count if token_dim)
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

    config: NetworkConfig

    def __init__(self, config: NetworkConfig, data: DataSpec) -> None:
        super().__init__(config, data)
        multipliers, attention = config.levels(data.size)
        widths = [config.width * factor for factor in multipliers]
        tokens = [0] * (len(widths) - 1) + [data.token_dim]

        def stages(merge: bool) -> nn.ModuleList:
            known = enumerate(zip(widths, tokens, strict=True))
            return nn.ModuleList(_Level(config, width, i in attention, dim, merge) for i, (width, dim) in known)

        self.stem = nn.Conv2d(self.inputs, widths[0], 3, padding=1)
        self.down, self.up = stages(merge=False), stages(merge=True)
        steps = list(pairwise(widths))
        self.shrink = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in steps)
        self.grow = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in steps)
        self.norm = nn.GroupNorm(group_count(widths[0]), widths[0])
        self.head = zeroed(nn.Conv2d(widths[0], data.out_channels * config.patch**2, 3, padding=1))

    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> Tensor:
        """Predict the target: (B, C, H, W), (B,) -> (B, C_out, H, W), in the working type."""
        estimates = self._estimates(z, logsnr)
        h = self.stem(self._patches(z, logsnr, condition, estimates))
        embedding, tokens = self._embedding(logsnr, condition)
        skips: list[Tensor] = []
        last = len(self.down) - 1
        for level, stage in enumerate(self.down):
            h = stage(h, embedding, tokens, skips, self._run)
            h = self.shrink[level](h) if level < last else h
        for level in range(last, -1, -1):
            h = self.up[level](h, embedding, tokens, skips, self._run)
            h = self.grow[level - 1](h) if level > 0 else h
        return self._pixels(self.head(F.silu(self.norm(h))), z, embedding, estimates)
