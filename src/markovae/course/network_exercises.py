"""Chapter 6: pixels, and what a U-Net and its training are made of."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from markovae.course.exercise import Draw, Exercise, Mistake
from markovae.diffusion.pixels import Pixels


def _attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value)


def _norm_inputs(draw: Draw) -> tuple[Tensor, int]:
    groups = draw.whole(1, 4)
    return draw.normal(2, groups * 2, 3, 3), groups


def _group_norm(x: Tensor, groups: int, *, unbiased: bool = False, eps: float = 1e-5) -> Tensor:
    grouped = x.reshape(len(x), groups, -1)
    variance = grouped.var(-1, keepdim=True, unbiased=unbiased)
    return ((grouped - grouped.mean(-1, keepdim=True)) / (variance + eps).sqrt()).reshape(x.shape)


NETWORK_EXERCISES = (
    Exercise(
        "pixels_to_x",
        6,
        "values",
        "Pixel values 0…255 on Ho et al.'s scale: 0 becomes −1 and 255 becomes 1. values: (B, D)",
        lambda draw: (torch.tensor([[draw.whole(0, 256) for _ in range(4)] for _ in range(3)]),),
        lambda values: Pixels(256).to_x(values),
        (
            Mistake("divided by 128: 255 misses 1", lambda v: v.double() / 128 - 1),
            Mistake("this lies in [0, 1]: the scale is [−1, 1]", lambda v: v.double() / 255),
            Mistake(
                "these are bin centres (2x + 1)/256 − 1, VDM's convention", lambda v: (2 * v.double() + 1) / 256 - 1
            ),
        ),
    ),
    Exercise(
        "group_norm",
        6,
        "x, groups",
        "Group normalization without weights, eps = 1e-5: each example's channels in `groups` groups, to mean 0 and "
        "variance 1 within each. x: (B, C, H, W)",
        _norm_inputs,
        lambda x, groups: F.group_norm(x, groups, eps=1e-5),
        (
            Mistake(
                "the variance is the unbiased one: divide by n, not n − 1",
                lambda x, g: _group_norm(x, g, unbiased=True),
            ),
            Mistake("eps is missing", lambda x, g: _group_norm(x, g, eps=0.0)),
            Mistake("each channel is its own group", lambda x, g: _group_norm(x, x.shape[1])),
        ),
    ),
    Exercise(
        "attention",
        6,
        "query, key, value",
        "softmax(q kᵀ/√d) v of one head. All (T, d); returns (T, d)",
        lambda draw: tuple(draw.normal(4, 3) for _ in range(3)),
        _attention,
        (
            Mistake("the division by √d is missing", lambda q, k, v: (q @ k.T).softmax(1) @ v),
            Mistake("divided by d: it is its square root", lambda q, k, v: (q @ k.T / q.shape[1]).softmax(1) @ v),
            Mistake(
                "the softmax runs over the queries: each query's weights must sum to one",
                lambda q, k, v: (q @ k.T / math.sqrt(q.shape[1])).softmax(0) @ v,
            ),
            Mistake("query and key are swapped", lambda q, k, v: _attention(k, q, v)),
        ),
    ),
    Exercise(
        "ema_update",
        6,
        "average, weight, decay",
        "The running average of the weights after a step: decay of the old, the rest of the new. (D,), (D,), a number",
        lambda draw: (draw.normal(5), draw.normal(5), draw.number(0.6, 0.999)),
        lambda average, weight, decay: decay * average + (1 - decay) * weight,
        (
            Mistake("old and new are swapped: the average follows every step", lambda a, w, d: (1 - d) * a + d * w),
            Mistake("the weights do not sum to one: the average grows", lambda a, w, d: d * a + w),
        ),
    ),
    Exercise(
        "sinusoidal",
        6,
        "values, dim",
        "The first half cos, the second sin, of values·f_i with f_i = 10000^(−i/(dim/2)), i = 0…dim/2−1. values: (B,); "
        "returns (B, dim)",
        lambda draw: (draw.uniform(-10, 10, 4), 2 * draw.whole(1, 5)),
        lambda values, dim: _sinusoidal(values, dim, 10000.0),
        (
            Mistake(
                "sin comes first: cos fills the first half", lambda v, d: _sinusoidal(v, d, 10000.0).roll(d // 2, 1)
            ),
            Mistake(
                "divided by dim/2 − 1: the frequencies end at 1/10000 itself",
                lambda v, d: _sinusoidal(v, d, 10000.0, last=True),
            ),
        ),
    ),
)


def _sinusoidal(values: Tensor, dim: int, base: float, *, last: bool = False) -> Tensor:
    half = dim // 2
    frequencies = base ** (-torch.arange(half, dtype=torch.float64) / max(half - last, 1))
    angles = values[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], 1)
