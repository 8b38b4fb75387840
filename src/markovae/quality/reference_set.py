"""The real images that samples are measured against, and those that take the samples' place to give the floor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from markovae.data.images import ImageData
from markovae.data.split import Splits
from markovae.errors import UserError
from markovae.networks.conditioning import Conditioning
from markovae.quality.distances import FEWEST, NEIGHBOURS
from markovae.quality.features import content_hash
from markovae.quality.memorization import Images
from markovae.randomness import generator

DEFAULT_N = 1000
MOST_REFERENCE = 5000
LEAST = max(FEWEST, NEIGHBOURS + 1)


@dataclass(frozen=True, eq=False)
class ReferenceSet:
    """Real images in their roles.

    Args:
        reference: what samples are compared with, (N, C, H, W).
        floor_samples: n training images, not of the reference, that take the samples' place for the floor.
        labels: the classes of the floor samples, (n,), or their captions, which the samples are given too, or None.
        training: all images trained on.
        heldout: images not trained on, at most n.
        bins: values of a pixel.
    """

    reference: Images
    floor_samples: Images
    labels: np.ndarray | Conditioning | None
    training: ImageData
    heldout: Images
    bins: int

    @property
    def n(self) -> int:
        """How many samples are measured."""
        return len(self.floor_samples)

    @property
    def digest(self) -> str:
        """SHA-256 of the reference, hex."""
        return content_hash(self.reference)


def choose_reference(data: Splits, n: int | None = None, against: ImageData | None = None) -> ReferenceSet:
    """The real images for a figure of n samples.

    The reference are the images that were not trained on (test and validation part), at most 5,000 of them, or those
    of `against`. The floor samples are n images of the training part. Both choices are fixed by the data and n.

    Args:
        n: None is 1,000, or as many training images as there are.
    Raises:
        UserError: where n is too small, exceeds the training images, or the reference is too small or of another kind.
    """
    available = len(data.train)
    n = min(DEFAULT_N, available) if n is None else n
    if n < LEAST:
        raise UserError(f"n={n} must be at least {LEAST}: it counts the samples that are compared")
    if n > available:
        raise UserError(
            f"n={n} exceeds the {available} training images, as many of which give the floor: take n of at most "
            f"{available}"
        )
    parts = [data.test, data.validation] if against is None else [_fitting(against, data.train)]
    reference = _some(parts, MOST_REFERENCE)
    if len(reference) < LEAST:
        raise UserError(
            f"the reference has {len(reference)} images and at least {LEAST} are needed: "
            "bring more data, or name a reference of its own"
        )
    rows = chosen_rows(available, n, "stand-ins")
    return ReferenceSet(
        reference=reference,
        floor_samples=np.asarray(data.train.images[rows]),
        labels=None if data.train.known is None else data.train.known[rows],
        training=data.train,
        heldout=_some([data.test, data.validation], n),
        bins=data.train.bins,
    )


def _some(parts: list[ImageData], most: int) -> Images:
    """At most `most` images of several parts; of mapped ones only those are read."""
    places = chosen_rows(sum(map(len, parts)), most, "reference")
    first, out = 0, np.empty((len(places), *parts[0].shape), parts[0].images.dtype)
    for part in parts:
        here = (first <= places) & (places < first + len(part))
        out[here] = part.images[places[here] - first]
        first += len(part)
    return out


def chosen_rows(count: int, most: int, purpose: str) -> np.ndarray:
    """At most `most` of `count` places, in an order fixed by the purpose."""
    return torch.randperm(count, generator=generator(0, "quality", purpose))[:most].numpy()


def _fitting(against: ImageData, own: ImageData) -> ImageData:
    if against.shape != own.shape or against.bins != own.bins:
        raise UserError(
            f"the reference {against.name} has images of {against.shape} with {against.bins} grey values and the data "
            f"{own.shape} with {own.bins}: bring images of one kind"
        )
    return against
