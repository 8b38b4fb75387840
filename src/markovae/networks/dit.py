"""The diffusion transformer: net(z, log-SNR, condition) -> out, for images of any height and width."""

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from markovae.networks.conditioning import Condition
from markovae.networks.layers import EPS, attend, zeroed
from markovae.networks.network_config import DataSpec, DiTConfig
from markovae.networks.patch_network import PatchNetwork

SLOWEST = 1 / 32  # radians a patch of the slowest rotation; the fastest turns by 1


def rotations(height: int, width: int, head_dim: int, like: Tensor) -> Tensor:
    """Angles by which a head's pairs of features turn at each position of a grid, (height·width, head_dim/2).

    The first half turns with the row, the second with the column, by θ_k = SLOWEST^(k/K) a position, k = 0…K−1, so
    that the product of a query and a key depends on where they stand to one another alone.

    Args:
        like: gives the device and the type.
    Source: Su et al. 2021, "RoFormer", axis by axis.
    """
    count = head_dim // 4
    speed = SLOWEST ** (torch.arange(count, device=like.device, dtype=like.dtype) / count)
    row, column = (torch.arange(n, device=like.device, dtype=like.dtype)[:, None] * speed for n in (height, width))
    grid = torch.stack([row[:, None].expand(-1, width, -1), column[None].expand(height, -1, -1)], dim=2)
    return grid.reshape(height * width, 2 * count)


def turned(x: Tensor, angles: Tensor) -> Tensor:
    """x with its pairs (x_i, x_{i+d/2}) turned by the angles: (..., N, d) and (N, d/2) -> (..., N, d)."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def modulated(h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """LN(h)·(1 + scale) + shift: (B, N, C) and (B, C)."""
    normed = F.layer_norm(h, h.shape[-1:], eps=EPS)
    return torch.addcmul(shift[:, None].to(normed.dtype), normed, (scale + 1)[:, None].to(normed.dtype))


@final
class DiTBlock(nn.Module):
    """Attention among positions, attention to tokens, and a perceptron; each a residual that begins at zero."""

    def __init__(self, config: DiTConfig, token_dim: int) -> None:
        super().__init__()
        width, hidden = config.width, config.expansion * config.width
        self.head_dim, self.dropout = config.head_dim, config.dropout
        self.modulation = zeroed(nn.Linear(config.embedding, 6 * width))
        self.qkv, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.first, self.second = nn.Linear(width, hidden), nn.Linear(hidden, width)
        if token_dim:
            self.read = nn.LayerNorm(token_dim, eps=EPS)
            self.ask, self.text_norm = nn.Linear(width, width), nn.LayerNorm(width, eps=EPS)
            self.key_value = nn.Linear(token_dim, 2 * width)
            self.tell = zeroed(nn.Linear(width, width))

    def forward(self, h: Tensor, embedding: Tensor, angles: Tensor, tokens: tuple[Tensor, Tensor] | None) -> Tensor:
        """h: (B, N, C); embedding: (B, E); angles: (N, head_dim/2); tokens: (B, T, C'), (B, T) -> (B, N, C)."""
        scale, shift, gate, scale_2, shift_2, gate_2 = self.modulation(embedding).chunk(6, dim=1)
        h = h + gate[:, None] * self._self_attention(modulated(h, scale, shift), angles)
        if tokens is not None:
            h = h + self._cross_attention(self.text_norm(h), *tokens)
        inner = F.gelu(self.first(modulated(h, scale_2, shift_2)), approximate="tanh")
        if self.dropout:
            inner = F.dropout(inner, self.dropout, self.training)
        return h + gate_2[:, None] * self.second(inner)

    def _self_attention(self, h: Tensor, angles: Tensor) -> Tensor:
        q, k, v = (self._heads(x) for x in self.qkv(h).chunk(3, dim=-1))
        q, k = (turned(self._unit(x), angles).to(v.dtype) for x in (q, k))
        out: Tensor = self.mix(attend(q, k, v).transpose(1, 2).flatten(2))
        return out

    def _cross_attention(self, h: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        q = self._heads(self.ask(h))
        k, v = (self._heads(x) for x in self.key_value(self.read(tokens)).chunk(2, dim=-1))
        q, k = (self._unit(x).to(v.dtype) for x in (q, k))
        found = attend(q, k, v, mask[:, None, None, :])
        out: Tensor = self.tell(found.transpose(1, 2).flatten(2))
        return out

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def _unit(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (self.head_dim,), eps=EPS)


@final
class DiT(PatchNetwork):
    """Transformer over patches, conditioned through gains, offsets and gates; its output begins at 0.

    Every block begins as the identity (adaLN-zero). Positions act in two ways: a head's queries and keys turn with row
    and column (`rotations`), and each patch sees where in the image it lies (`positions`).

    Source: Peebles and Xie 2023; tokens attended to as in Chen et al. 2023, "PixArt-α".
    """

    config: DiTConfig

    def __init__(self, config: DiTConfig, data: DataSpec) -> None:
        super().__init__(config, data)
        self.stem = nn.Linear(self.inputs, config.width)
        self.blocks = nn.ModuleList(DiTBlock(config, data.token_dim) for _ in range(config.depth))
        self.modulation = zeroed(nn.Linear(config.embedding, 2 * config.width))
        self.head = zeroed(nn.Linear(config.width, data.out_channels * config.patch**2))

    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> Tensor:
        """Predict the target: (B, C, H, W), (B,) -> (B, C_out, H, W), in the working type."""
        estimates = self._estimates(z, logsnr)
        seen = self._patches(z, logsnr, condition, estimates)
        embedding, tokens = self._embedding(logsnr, condition)
        height, width = seen.shape[2:]
        h = self.stem(seen.flatten(2).transpose(1, 2))
        angles = self._constants.get(
            "angles",
            seen.device,
            seen.dtype,
            (height, width),
            make=lambda: rotations(height, width, self.config.head_dim, seen),
        )
        for block in self.blocks:
            h = self._run(block, h, embedding, angles, tokens)
        h = self.head(modulated(h, *self.modulation(embedding).chunk(2, dim=1)))
        return self._pixels(h.transpose(1, 2).unflatten(2, (height, width)), z, embedding, estimates)
