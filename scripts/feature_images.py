"""What the built-in feature network is trained on: drawn images without end, what they show, and how they were spoilt.

No data set is used: faces come from numbers far beyond those of the data set, shapes from formulas. So no image that
is ever measured has been seen by the network that measures it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from markovae.data import faces
from markovae.data.faces import Attributes

FIRST_FACE = 1_000_000
KINDS = 6  # of shapes: ellipse, box, ring, diamond, stripes, cross
MOST_SHAPES = 4
SPOILT = ("noise", "blur", "red", "green", "blue", "contrast")


@dataclass(frozen=True)
class Spoilt:
    """Images after noise, blur, a shift of colour and a loss of contrast.

    Args:
        images: (B, 3, 32, 32), about [0, 1].   amounts: of each of SPOILT, 0 for none, about [−1, 1], (B, 6).
    """

    images: Tensor
    amounts: Tensor


def face_classes() -> tuple[int, ...]:
    """How many values each attribute that shows has."""
    return tuple(len(words) for words in faces.values().values())


def face_labels(shown: list[Attributes]) -> Tensor:
    """The number of each attribute's value, (N, 12)."""
    words = faces.values()
    names = [field.name for field in fields(Attributes) if field.name in words]
    assert names == list(words)
    return torch.tensor([[words[name].index(getattr(face, name)) for name in words] for face in shown])


def shapes(count: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """One to four shapes over a background that fades, half of the images in grey.

    Returns: images on [0, 1], (count, 3, 32, 32); which kinds they show, (count, KINDS), 0 or 1.
    """
    number = torch.randint(1, MOST_SHAPES + 1, (count,), generator=source)
    kind = torch.randint(KINDS, (count, MOST_SHAPES), generator=source)
    centre = torch.rand(count, MOST_SHAPES, 2, generator=source) * 1.6 - 0.8
    size = 0.12 + 0.5 * torch.rand(count, MOST_SHAPES, 2, generator=source)
    turn = torch.rand(count, MOST_SHAPES, generator=source) * 2 * torch.pi
    frequency = 3 + 9 * torch.rand(count, MOST_SHAPES, generator=source)
    colour = torch.rand(count, MOST_SHAPES + 2, 3, generator=source)
    dark = torch.rand(count, generator=source) < 0.3
    grey = torch.rand(count, generator=source) < 0.5
    colour[dark, MOST_SHAPES:] = 0.0
    colour[grey] = colour[grey].mean(2, keepdim=True).expand(-1, -1, 3)
    axis = (torch.arange(32) + 0.5) / 16 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    fade = ((x + 1) / 2)[None, None]
    image = colour[:, -2, :, None, None] * fade + colour[:, -1, :, None, None] * (1 - fade)
    seen = torch.zeros(count, KINDS)
    for i in range(MOST_SHAPES):
        across, down = x - centre[:, i, 0, None, None], y - centre[:, i, 1, None, None]
        cos, sin = turn[:, i].cos()[:, None, None], turn[:, i].sin()[:, None, None]
        u = (cos * across + sin * down) / size[:, i, 0, None, None]
        v = (cos * down - sin * across) / size[:, i, 1, None, None]
        soft = 16 * size[:, i].amin(1)[:, None, None]
        inside = _mask(kind[:, i], u, v, frequency[:, i, None, None], soft)
        there = (i < number).float()
        inside = (inside * there[:, None, None])[:, None]
        image = image * (1 - inside) + colour[:, i, :, None, None] * inside
        seen[torch.arange(count), kind[:, i]] += there
    return image, seen.clamp(max=1)


def _mask(kind: Tensor, u: Tensor, v: Tensor, frequency: Tensor, soft: Tensor) -> Tensor:
    radius = (u**2 + v**2).sqrt()
    box = torch.maximum(u.abs(), v.abs())
    cross = torch.maximum(torch.minimum(u.abs(), v.abs()) * 3, box)
    depth = torch.stack([1 - radius, 1 - box, 0.3 - (radius - 0.7).abs(), 1 - u.abs() - v.abs(), 1 - box, 1 - cross])
    chosen = depth[kind, torch.arange(len(kind))]
    stripes = torch.where((kind == 4)[:, None, None], torch.sigmoid(4 * torch.sin(frequency * u)), torch.ones_like(u))
    return torch.sigmoid(2 * soft * chosen) * stripes


def spoil(images: Tensor, source: torch.Generator) -> Spoilt:
    """Each of the four faults befalls a third of the images, in a random amount."""
    count = len(images)
    hit = torch.rand(count, 4, generator=source) < 1 / 3
    amount = torch.rand(count, 4, generator=source) * hit
    blurred = blur(images, 2.0 * amount[:, 1])
    shift = (torch.rand(count, 3, generator=source) * 2 - 1) * hit[:, 2, None]
    contrast = 1 - 0.6 * amount[:, 3]
    mean = blurred.mean((2, 3), keepdim=True)
    out = mean + (blurred - mean) * contrast[:, None, None, None] + 0.3 * shift[:, :, None, None]
    out = out + 0.25 * amount[:, 0, None, None, None] * torch.randn(out.shape, generator=source)
    return Spoilt(out, torch.cat([amount[:, :2], shift, amount[:, 3:]], 1))


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur, one σ in pixels an image, edges repeated."""
    place = torch.arange(-5.0, 6.0)
    kernel = torch.exp(-0.5 * (place / sigma.clamp_min(1e-3)[:, None]) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)
    weight = kernel.repeat_interleave(images.shape[1], 0)
    height, width = images.shape[2:]
    flat = F.pad(images, (5, 5, 5, 5), mode="replicate").reshape(1, -1, height + 10, width + 10)
    flat = F.conv2d(flat, weight[:, None, :, None], groups=len(weight))
    flat = F.conv2d(flat, weight[:, None, None, :], groups=len(weight))
    return flat.reshape(images.shape)


def as_images(faces_drawn: np.ndarray) -> Tensor:
    """Drawn faces, uint8, on [0, 1]."""
    return torch.from_numpy(faces_drawn).float() / 255
