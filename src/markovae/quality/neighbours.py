"""How near samples lie to training images, against how near unseen real images lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Images = np.ndarray[Any, Any]

BLOCK = 1024
LARGEST_POOL = 50_000


@dataclass(frozen=True)
class Neighbours:
    """The nearest image of a pool to each of some images.

    Args:
        index: place in the pool, (n,).   distance: root mean square difference, in grey levels of 0…255, (n,).
    """

    index: Images
    distance: Images


def nearest(images: Images, pool: Images, bins: int) -> Neighbours:
    """Nearest by pixel L2, d = √mean (x − y)², both scaled to 0…255.

    Args:
        images: digits, (n, C, H, W).   pool: digits, (N, C, H, W), read block by block.
    """
    scale = 255 / (bins - 1)
    x = np.asarray(images, np.float64).reshape(len(images), -1) * scale
    best = np.full(len(x), np.inf)
    index = np.zeros(len(x), np.int64)
    own = (x**2).sum(1)
    for start in range(0, len(pool), BLOCK):
        y = np.asarray(pool[start : start + BLOCK], np.float64).reshape(-1, x.shape[1]) * scale
        squares = own[:, None] + (y**2).sum(1) - 2 * x @ y.T
        place = squares.argmin(1)
        least = squares[np.arange(len(x)), place]
        nearer = least < best
        best[nearer], index[nearer] = least[nearer], start + place[nearer]
    # The difference of large sums may fall a rounding below zero for equal images.
    return Neighbours(index, np.sqrt(np.maximum(best, 0) / x.shape[1]))


def pool_of(images: Images) -> Images:
    """The images to search: all of fewer than twice LARGEST_POOL, or else at least LARGEST_POOL at even strides."""
    return images[:: max(1, len(images) // LARGEST_POOL)]
