"""How near samples lie to training images, against how near unseen real images lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from markovae.diffusion.bound import Estimate

Images = np.ndarray[Any, Any]

BLOCK = 1024
LARGEST_POOL = 50_000


@dataclass(frozen=True)
class NearestImages:
    """The nearest image of a pool to each of some images, or the nearest few, in order.

    Args:
        index: place in the pool, (n,) or (n, count).
        distance: root mean square difference, in grey levels of 0…255, (n,) or (n, count).
    """

    index: Images
    distance: Images


def nearest(images: Images, pool: Images, bins: int, count: int | None = None) -> NearestImages:
    """Nearest by pixel L2, d = √mean (x − y)², both scaled to 0…255.

    Args:
        images: pixel values, (n, C, H, W).
        pool: pixel values, (N, C, H, W), read block by block.
        count: how many for each, (n, count) with at most N; None is one, (n,).
    """
    scale = 255 / (bins - 1)
    x = np.asarray(images, np.float64).reshape(len(images), -1) * scale
    kept, rows = min(count or 1, len(pool)), np.arange(len(x))
    best, index = np.full((len(x), kept), np.inf), np.zeros((len(x), kept), np.int64)
    own = (x**2).sum(1)
    for start in range(0, len(pool), BLOCK):
        y = np.asarray(pool[start : start + BLOCK], np.float64).reshape(-1, x.shape[1]) * scale
        squares = own[:, None] + (y**2).sum(1) - 2 * x @ y.T
        squares = np.concatenate([best, squares], 1)
        earlier = index.copy()
        for rank in range(kept):
            place = squares.argmin(1)
            best[:, rank] = squares[rows, place]
            index[:, rank] = np.where(place < kept, earlier[rows, place % kept], start + place - kept)
            squares[rows, place] = np.inf
    # The difference of large sums may fall a rounding below zero for equal images.
    distance = np.sqrt(np.maximum(best, 0) / x.shape[1])
    return NearestImages(index[:, 0], distance[:, 0]) if count is None else NearestImages(index, distance)


def pool_of(images: Images) -> Images:
    """The images to search: all of fewer than twice LARGEST_POOL, or else at least LARGEST_POOL at even strides."""
    return images[:: step_of(images)]


def step_of(images: Images) -> int:
    """Every how many images one is searched."""
    return max(1, len(images) // LARGEST_POOL)


RARE = 0.01
COPY = 1.0
PAIRS = 10  # of samples and training images that a record names


@dataclass(frozen=True)
class NearestPair:
    """A sample and the training image nearest to it, each by number and, where it has one, by file.

    Args:
        distance: root mean square difference, in grey levels of 0…255.
    """

    sample: int
    file: str | None
    train_index: int
    train_file: str | None
    distance: float


@dataclass(frozen=True)
class Memorization:
    """Nearest training images of samples and of held-out images, in grey levels of 0…255 (root mean square).

    Args:
        samples_median, heldout_median: the middle distance of each.
        nearer: P(a sample lies nearer to the training images than a held-out image does); ½ for a model that has
            learned and not stored, towards 1 for one that copies.
        suspicious: samples nearer than 99 % of the held-out images are.
        expected: how many that makes by chance.
        copies: samples within COPY grey level of a training image.
        searched: training images looked through.
        nearest: the samples nearest to a training image, nearest first, at most PAIRS.
    """

    samples_median: float
    heldout_median: float
    nearer: Estimate
    suspicious: int
    expected: float
    copies: int
    searched: int
    nearest: tuple[NearestPair, ...] = ()


def measure_memorization(
    samples: Images,
    heldout: Images,
    training: Images,
    bins: int,
    files: Sequence[str] | None = None,
    training_files: Sequence[str] | None = None,
) -> Memorization:
    """Compare samples' distances to the training images with those of held-out images.

    Args:
        samples, heldout, training: pixel values, (n, C, H, W) each; of 100,000 training images and more at least 50,000
            are searched.
        files, training_files: the names of the samples' files and of the training images', where they have some.
    Raises:
        ValueError: for fewer than two samples or held-out images.
    Source: Meehan et al. 2020 (the held-out yardstick); DeLong et al. 1988 (the standard error).
    """
    if min(len(samples), len(heldout)) < 2:
        raise ValueError(f"{len(samples)} samples and {len(heldout)} held-out images: at least 2 of each are needed")
    pool = pool_of(training)
    found, theirs = nearest(samples, pool, bins), nearest(heldout, pool, bins).distance
    ours, rows = found.distance, found.index * step_of(training)
    pairs = tuple(
        NearestPair(i, _name(files, i), int(rows[i]), _name(training_files, int(rows[i])), float(ours[i]))
        for i in ours.argsort(kind="stable")[:PAIRS].tolist()
    )
    return Memorization(
        samples_median=float(np.median(ours)),
        heldout_median=float(np.median(theirs)),
        nearer=share_below(ours, theirs),
        suspicious=int((ours < np.quantile(theirs, RARE)).sum()),
        expected=RARE * len(ours),
        copies=int((ours < COPY).sum()),
        searched=len(pool),
        nearest=pairs,
    )


def _name(files: Sequence[str] | None, index: int) -> str | None:
    return None if files is None else files[index]


def share_below(first: Images, second: Images) -> Estimate:
    """P(a number of the first < one of the second), ties counting half, with its standard error."""
    rows, columns = 1 - _share_up_to(first, second), _share_up_to(second, first)
    variance = rows.var(ddof=1) / len(rows) + columns.var(ddof=1) / len(columns)
    return Estimate(float(rows.mean()), math.sqrt(float(variance)))


def _share_up_to(values: Images, others: Images) -> Images:
    """The share of the others below each value, those that equal it counting half."""
    row = np.sort(others)
    return (np.searchsorted(row, values, "left") + np.searchsorted(row, values, "right")) / (2 * len(row))
