"""Operations that PyTorch computes slowly on a CPU, done faster: the same values up to rounding."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F

# Row i: the weights of the 3 taps of a filter on doubled pixels in tap i of the transposed filter of stride 2.
_SPREAD = ((0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 0.0))
_SMALL = 256
_FEW_PIXELS = 1024  # torch's kernel for channels last splits its work over the pixels and is slow below this


def arranged(h: Tensor) -> Tensor:
    """The images in the memory format that their level is fastest in.

    Channels last on a GPU, and for bfloat16 on a CPU above `_SMALL` pixels: below, what convolutions gain by it is less
    than what norms lose.
    """
    rough = torch.is_autocast_enabled(h.device.type) and torch.get_autocast_dtype(h.device.type) == torch.bfloat16
    if h.device.type == "cpu" and rough and h.shape[2] * h.shape[3] <= _SMALL:
        return h.contiguous()
    last = h.device.type == "cuda" or (h.device.type == "cpu" and rough)
    return h.contiguous(memory_format=torch.channels_last) if last else h


def doubled_convolution(h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution of the image with every pixel doubled, (B, C, H, W) -> (B, C', 2H, 2W).

    On a CPU as one transposed convolution of stride 2: neighbours in the doubled image share their pixel, so that 4
    products stand for 9.

    Args:
        weight: (C', C, 3, 3).
        bias: (C',).
    """
    if h.device.type != "cpu":
        return F.conv2d(F.interpolate(h, scale_factor=2.0, mode="nearest"), weight, bias, padding=1)
    spread = torch.tensor(_SPREAD, dtype=weight.dtype)
    with torch.autocast("cpu", enabled=False):
        taps = weight.transpose(0, 1).reshape(-1, 9) @ torch.kron(spread, spread).T
    return F.conv_transpose2d(h, taps.reshape(h.shape[1], -1, 4, 4), bias, stride=2, padding=1)


def normed(h: Tensor, groups: int, gain: Tensor, offset: Tensor, eps: float, silu: bool = True) -> Tensor:
    """GN(h)·gain + offset, through silu unless silu=False, (B, C, H, W), in the type of h.

    Args:
        gain, offset: (C,), or (B, C) where each example has its own.
    """
    if torch.compiler.is_compiling():
        return _fusible(h, groups, gain, offset, eps, silu)
    if h.device.type == "cpu" and h.dtype == torch.bfloat16 and _channels_last(h):
        out: Tensor = _Normed.apply(h, groups, gain, offset, eps, silu)
        return out
    if gain.ndim == 1:
        y = F.group_norm(h, groups, gain.to(h.dtype), offset.to(h.dtype), eps)
    elif h.is_contiguous():
        # One fused kernel: the batch as channels of one example gives each example its own gain and offset.
        flat = h.reshape(1, -1, *h.shape[2:])
        row = (gain.reshape(-1).to(h.dtype), offset.reshape(-1).to(h.dtype))
        y = F.group_norm(flat, len(h) * groups, *row, eps).reshape(h.shape)
    else:
        y = torch.addcmul(_wide(offset, h), F.group_norm(h, groups, eps=eps).to(h.dtype), _wide(gain, h))
    return F.silu(y) if silu else y


def _fusible(h: Tensor, groups: int, gain: Tensor, offset: Tensor, eps: float, silu: bool) -> Tensor:
    """`normed` spelt out, for a compiler to make one loop of."""
    y = torch.addcmul(
        _wide(offset.float(), h).float(), F.group_norm(h.float(), groups, eps=eps), _wide(gain.float(), h).float()
    )
    return (F.silu(y) if silu else y).to(h.dtype)


def _channels_last(h: Tensor) -> bool:
    return h.is_contiguous(memory_format=torch.channels_last) and not h.is_contiguous()


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype).reshape(-1, like.shape[1], 1, 1)


@final
class _Normed(torch.autograd.Function):
    """`normed` in bfloat16 with the channels last, where torch's own backward pass of the norm is slow.

    With n numbers a group, dy the gradient at the norm's output, and Σ_c over the channels of a group:
        dx = rstd·gain·dy + c_2 x + c_3,   c_2 = rstd³ (mean Σ_c gain Σ dy − Σ_c gain Σ dy·x)/n,
        c_3 = −c_2 mean − rstd Σ_c gain Σ dy / n.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, groups: int, gain: Tensor, offset: Tensor, eps: float, silu: bool) -> Tensor:
        batch, channels, height, width = h.shape
        each = gain.ndim == 2
        seen = h if height * width >= _FEW_PIXELS else h.contiguous()
        affine = (None, None) if each else (gain.float(), offset.float())
        y, mean, rstd = torch.ops.aten.native_group_norm(seen, *affine, batch, channels, height * width, groups, eps)
        y = y.contiguous(memory_format=torch.channels_last)
        if each:
            y = torch.addcmul(_wide(offset, h), y, _wide(gain, h))
        ctx.save_for_backward(h, y if silu else None, mean, rstd, gain)
        ctx.groups = groups
        return F.silu(y) if silu else y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        h, y, mean, rstd, gain = ctx.saved_tensors
        batch, channels = h.shape[:2]
        grad = grad.contiguous(memory_format=torch.channels_last)
        dy = grad if y is None else torch.ops.aten.silu_backward(grad, y)
        # Summed in float32 and kept in the 8 bits that every gradient of a weight has here: five times faster.
        sums = torch.stack([dy.sum((2, 3)), (dy * h).sum((2, 3))]).float().reshape(2, batch, ctx.groups, -1)
        mean, rstd = mean.float().reshape(batch, -1, 1), rstd.float().reshape(batch, -1, 1)
        scaled = rstd * gain.float().reshape(-1, *sums.shape[2:])
        first, second = (scaled * sums).sum(3, keepdim=True) / (h[0].numel() // ctx.groups)
        c_2 = rstd.square() * (mean * first - second)
        c_3 = -first - c_2 * mean
        rows = torch.stack([c.expand_as(scaled) for c in (c_2, c_3, scaled)]).to(h.dtype).reshape(3, batch, -1, 1, 1)
        dx = torch.addcmul(rows[1], h, rows[0]).addcmul_(dy, rows[2])
        slope = ((sums[1] - mean * sums[0]) * rstd).reshape(batch, channels)
        sums = sums[0].reshape(batch, channels)
        if gain.ndim == 1:
            slope, sums = slope.sum(0), sums.sum(0)
        return dx, None, slope.to(gain.dtype), sums.to(gain.dtype), None, None
