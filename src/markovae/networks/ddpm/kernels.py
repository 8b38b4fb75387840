"""What plain modules compute slowly on a CPU, computed faster there: the same values up to rounding."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F

# Row i: the weights of the 3 taps of a filter on doubled pixels in tap i of the transposed filter of stride 2.
_SPREAD = ((0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 0.0))
_FEW_PIXELS = 1024  # torch's kernel for channels last splits its work over the pixels and is slow below this


def arranged(z: Tensor) -> Tensor:
    """The images in the memory format that convolutions are fastest in: channels last for bfloat16 and on a GPU."""
    rough = torch.is_autocast_enabled(z.device.type) and torch.get_autocast_dtype(z.device.type) == torch.bfloat16
    last = z.device.type == "cuda" or (z.device.type == "cpu" and rough)
    return z.contiguous(memory_format=torch.channels_last) if last else z


def doubled_convolution(h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution of the image with every pixel doubled, (B, C, H, W) -> (B, C', 2H, 2W).

    On a CPU as one transposed convolution of stride 2: neighbours in the doubled image share their pixel, so that 4
    products stand for 9.

    Args:
        weight: (C', C, 3, 3).   bias: (C',).
    """
    if h.device.type != "cpu":
        return F.conv2d(F.interpolate(h, scale_factor=2.0, mode="nearest"), weight, bias, padding=1)
    spread = torch.tensor(_SPREAD, dtype=weight.dtype)
    with torch.autocast("cpu", enabled=False):
        taps = weight.transpose(0, 1).reshape(-1, 9) @ torch.kron(spread, spread).T
    return F.conv_transpose2d(h, taps.reshape(h.shape[1], -1, 4, 4), bias, stride=2, padding=1)


def normed(h: Tensor, groups: int, gain: Tensor, offset: Tensor, eps: float, silu: bool = True) -> Tensor:
    """GN(h)·gain + offset, through silu unless told otherwise, (B, C, H, W), in the type of h.

    Args:
        gain, offset: (C,), or (B, C) where each example has its own.
    """
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
        sums, moments = dy.sum((2, 3)).float(), (dy * h).sum((2, 3)).float()
        mean, rstd = mean.float().reshape(batch, -1, 1), rstd.float().reshape(batch, -1, 1)
        gains = gain.float().expand(batch, channels).reshape(batch, ctx.groups, -1)
        count = h[0].numel() // ctx.groups
        grouped = [(gains * s.reshape(gains.shape)).sum(2, keepdim=True) / count for s in (sums, moments)]
        c_2 = rstd**3 * (mean * grouped[0] - grouped[1])
        c_3 = -c_2 * mean - rstd * grouped[0]
        rows = [c.expand_as(gains).reshape(batch, channels) for c in (c_2, c_3)]
        dx = torch.addcmul(_wide(rows[1], h), h, _wide(rows[0], h))
        dx.addcmul_(dy, _wide((rstd * gains).reshape(batch, channels), h))
        slope = ((moments.reshape(gains.shape) - mean * sums.reshape(gains.shape)) * rstd).reshape(batch, channels)
        if gain.ndim == 1:
            slope, sums = slope.sum(0), sums.sum(0)
        return dx, None, slope.to(gain.dtype), sums.to(gain.dtype), None, None
