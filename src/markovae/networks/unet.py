"""The U-Net: net(z, log-SNR, condition) -> out, for images of any height and width that its stride divides."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from markovae.networks.condition import Condition, ConditionEmbedding
from markovae.networks.embedding import Detail, LogSNREmbedding, positions, working_type
from markovae.networks.layers import CrossAttention, ResidualBlock, SelfAttention, group_count, zeroed
from markovae.networks.network import Network, check_images

Tokens = tuple[Tensor, Tensor] | None
Run = Callable[..., Tensor]


@dataclass(frozen=True)
class UNetConfig:
    """Shape of a U-Net.

    Attributes:
        in_channels: channels of the latent.   out_channels: C, or 2C where the reverse variance is learned.
        width: channels at the finest level.   multipliers: of the width, one a level; each level halves H, W.
        blocks: residual blocks a level, going down and again going up.
        attention: levels (0 is the finest) with self-attention after each block.   head_dim: of attention.
        patch: side of the squares of pixels folded into channels before the finest level.
        embedding: size of the embedding of log-SNR and condition.
        dropout: inside the residual blocks.
        num_classes, vector_dim, token_dim, image_channels: the conditions taken; 0 is none. Tokens are attended to
            after each block of the coarsest level; an image lies beside the latent.
        differences, frequencies, radius: fixed features of the latent's detail (see `Detail`).
        octaves: of the fixed features of the position in the image (see `positions`); 0 gives none.
    """

    in_channels: int = 3
    out_channels: int = 3
    width: int = 64
    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 2
    attention: tuple[int, ...] = ()
    head_dim: int = 64
    patch: int = 2
    embedding: int = 128
    dropout: float = 0.0
    num_classes: int = 0
    vector_dim: int = 0
    token_dim: int = 0
    image_channels: int = 0
    differences: bool = True
    frequencies: tuple[float, ...] = (127.5,)
    octaves: int = 3
    radius: int = 2

    def __post_init__(self) -> None:
        smallest = ("in_channels", "out_channels", "width", "blocks", "patch", "embedding", "head_dim")
        for name in smallest:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if not self.multipliers or min(self.multipliers) < 1:
            raise ValueError(f"multipliers={self.multipliers} must name a factor of at least 1 for each level")
        levels = len(self.multipliers)
        if any(not 0 <= level < levels for level in self.attention):
            raise ValueError(f"attention={self.attention} must name levels from 0 to {levels - 1}, 0 the finest")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must lie in [0, 1)")

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


class UNet(Network):
    """Residual U-Net conditioned on the log-SNR through gains and offsets; its first output is zero.

    Source: Ronneberger et al. 2015; Ho et al. 2020, appendix B; patches as in Hoogeboom et al. 2023.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.width * factor for factor in config.multipliers]
        levels = range(len(widths))
        self.detail = Detail(config.in_channels, config.differences, config.frequencies, config.radius)
        self.level = LogSNREmbedding(config.embedding)
        self.condition = ConditionEmbedding(
            config.embedding,
            config.num_classes,
            config.vector_dim,
            token_dim=config.token_dim,
            image_channels=config.image_channels,
        )
        where = (2 + 4 * config.octaves) * (config.octaves > 0)
        inputs = (self.detail.channels + config.image_channels) * config.patch**2 + where
        self.stem = nn.Conv2d(inputs, widths[0], 3, padding=1)
        self.down = nn.ModuleList(_Level(config, level, merge=False) for level in levels)
        self.up = nn.ModuleList(_Level(config, level, merge=True) for level in levels)
        steps = list(pairwise(widths))
        self.shrink = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in steps)
        self.grow = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in steps)
        self.norm = nn.GroupNorm(group_count(widths[0]), widths[0])
        self.head = zeroed(nn.Conv2d(widths[0], config.out_channels * config.patch**2, 3, padding=1))

    @property
    def stride(self) -> int:
        """Height and width of the latent must be multiples of this."""
        return self.config.stride

    @property
    def num_classes(self) -> int:
        """Labels taken: 0…num_classes − 1; 0 takes none."""
        return self.config.num_classes

    def outer_weights(self) -> tuple[Tensor, ...]:
        """Weights of the stem, the head, the first log-SNR layer and the condition's layers."""
        return (self.stem.weight, self.head.weight, self.level.first.weight, *self.condition.parameters())

    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> Tensor:
        """Predict the target: (B, C, H, W), (B,) -> (B, C_out, H, W), in the working type."""
        check_images(z, logsnr, self.config.in_channels, self.stride)
        precise = working_type(self.stem.weight)
        embedding = F.silu(self.level(logsnr) + self.condition(condition, len(z)))
        tokens = self.condition.tokens(condition, len(z))
        seen = self.condition.beside(self.detail(z.to(precise), logsnr), condition)
        seen = F.pixel_unshuffle(seen, self.config.patch)
        where = positions(seen.shape[2], seen.shape[3], self.config.octaves, seen)
        h = self.stem(torch.cat([seen, where], dim=1))
        skips: list[Tensor] = []
        last = len(self.down) - 1
        for level, stage in enumerate(self.down):
            h = stage(h, embedding, tokens, skips, self._run)
            h = self.shrink[level](h) if level < last else h
        for level in range(last, -1, -1):
            h = self.up[level](h, embedding, tokens, skips, self._run)
            h = self.grow[level - 1](h) if level > 0 else h
        out: Tensor = F.pixel_shuffle(self.head(F.silu(self.norm(h))), self.config.patch)
        return out.to(precise)
