"""Building blocks of the U-Net, chosen to be fast on CPUs as well as on GPUs."""

import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-5
FEW_TOKENS = 256
Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def zeroed(layer: Layer) -> Layer:
    """Set a layer's weight and bias to zero, so that its branch starts as the identity's silence."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def modulated_norm(h: Tensor, groups: int, scale: Tensor, shift: Tensor) -> Tensor:
    """GroupNorm with a gain and offset per example: GN(h)·(1 + scale) + shift.

    Args:
        h: (B, C, H, W).
        groups: divides C.
        scale, shift: (B, C).
    Returns: (B, C, H, W) in the dtype of h.
    """
    if h.is_contiguous():
        # One fused kernel: the batch as channels of one example gives each example its own gain and offset.
        batch, channels, height, width = h.shape
        flat = h.reshape(1, batch * channels, height, width)
        gain, offset = (scale + 1).reshape(-1).to(h.dtype), shift.reshape(-1).to(h.dtype)
        return F.group_norm(flat, batch * groups, gain, offset, EPS).reshape(h.shape)
    normed = F.group_norm(h, groups, eps=EPS).to(h.dtype)
    return torch.addcmul(shift[..., None, None].to(h.dtype), normed, (scale + 1)[..., None, None].to(h.dtype))


def group_count(channels: int) -> int:
    """Groups of about 16 channels, at most 32 groups, dividing the channels."""
    return math.gcd(channels, max(1, min(32, 1 << ((channels // 16).bit_length() - 1 if channels >= 16 else 0))))


class ResidualBlock(nn.Module):
    """h + conv(silu(modulated GN(conv(silu(GN h))))): gain and offset come from the embedding.

    Args:
        channels: C, kept.
        embedding: size of the embedding.
        dropout: before the second convolution.
    """

    def __init__(self, channels: int, embedding: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.groups = group_count(channels)
        self.dropout = dropout
        self.norm = nn.GroupNorm(self.groups, channels, eps=EPS)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = zeroed(nn.Linear(embedding, 2 * channels))
        self.second = zeroed(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """h: (B, C, H, W); embedding: (B, E) -> (B, C, H, W)."""
        scale, shift = self.modulation(embedding).chunk(2, dim=1)
        branch = self.first(F.silu(self.norm(h)))
        branch = F.silu(modulated_norm(branch, self.groups, scale, shift))
        if self.dropout:
            branch = F.dropout(branch, self.dropout, self.training)
        out: Tensor = h + self.second(branch)
        return out


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ/√d) v over the last two dimensions, (..., N, d); over the keys where `mask`, (..., N, T), is True.

    For few tokens in bfloat16 on a CPU torch's fused kernel goes backward three times slower than the plain products.
    """
    if v.device.type != "cpu" or v.dtype != torch.bfloat16 or v.shape[-2] > FEW_TOKENS:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    with torch.autocast("cpu", enabled=False):
        score = q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)
        score = score if mask is None else score.masked_fill(~mask, -torch.inf)
        return torch.softmax(score, dim=-1) @ v


def rms_normed(x: Tensor) -> Tensor:
    """x/√(mean x² + ε) over the last dimension, the mean in float32 or above; two passes, which on a CPU torch's takes
    more of."""
    mean = x.square().mean(-1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
    return x * torch.rsqrt(mean + EPS).to(x.dtype)


class SelfAttention(nn.Module):
    """h + projection of softmax(q kᵀ/√d) v over all positions, queries and keys normalized per head.

    Args:
        channels: C, kept.
        head_dim: size of a head, divides C.
    """

    def __init__(self, channels: int, head_dim: int = 64) -> None:
        super().__init__()
        self.head_dim = head_dim if channels % head_dim == 0 else channels
        self.norm = nn.GroupNorm(group_count(channels), channels, eps=EPS)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zeroed(nn.Linear(channels, channels))

    def forward(self, h: Tensor) -> Tensor:
        """h: (B, C, H, W) -> (B, C, H, W)."""
        batch, channels, height, width = h.shape
        tokens = self.norm(h).flatten(2).transpose(1, 2).contiguous()
        qkv = self.qkv(tokens).reshape(batch, height * width, 3, -1, self.head_dim)
        q, k = rms_normed(qkv[:, :, :2]).transpose(1, 3).unbind(2)
        v = qkv[:, :, 2].transpose(1, 2)
        mixed = attend(q, k, v).transpose(1, 2).reshape(batch, height * width, channels)
        out: Tensor = h + self.out(mixed).transpose(1, 2).reshape(batch, channels, height, width)
        return out


class CrossAttention(nn.Module):
    """h + projection of softmax(q kᵀ/√d) v: every position of the image asks the tokens of a text.

    Args:
        channels: C, kept.
        token_dim: features of a token.
        head_dim: size of a head, divides C.
    """

    def __init__(self, channels: int, token_dim: int, head_dim: int = 64) -> None:
        super().__init__()
        self.head_dim = head_dim if channels % head_dim == 0 else channels
        self.norm = nn.GroupNorm(group_count(channels), channels, eps=EPS)
        self.query = nn.Linear(channels, channels)
        self.read = nn.LayerNorm(token_dim, eps=EPS)
        self.key_value = nn.Linear(token_dim, 2 * channels)
        self.out = zeroed(nn.Linear(channels, channels))

    def forward(self, h: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """h: (B, C, H, W); tokens: (B, T, token_dim); mask: (B, T), True where a token counts -> (B, C, H, W)."""
        batch, channels, height, width = h.shape

        def split(x: Tensor) -> Tensor:
            return x.reshape(batch, x.shape[1], -1, self.head_dim).transpose(1, 2)

        q = split(self.query(self.norm(h).flatten(2).transpose(1, 2)))
        k, v = (split(x) for x in self.key_value(self.read(tokens)).chunk(2, dim=-1))
        mixed = attend(rms_normed(q), rms_normed(k), v, mask[:, None, None, :])
        mixed = mixed.transpose(1, 2).reshape(batch, height * width, channels)
        out: Tensor = h + self.out(mixed).transpose(1, 2).reshape(batch, channels, height, width)
        return out
