"""The images that cost least and most, as sheets and in figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from markovae.likelihood import Measurement
from markovae.report.pictures import Images, enlarged, grid, viewable


def extreme_facts(measured: Measurement, count: int) -> dict[str, list[dict[str, float]]]:
    """Place and bits/dim of the images that cost least and most, most extreme first; no image is in both."""
    count = min(count, len(measured.total) // 2)
    bits = measured.total / (measured.dims * math.log(2))
    names = ("cheapest", "dearest")
    return {
        name: [{"image": i, "bits_per_dim": float(bits[i])} for i in places.tolist()]
        for name, places in zip(names, measured.extremes(count), strict=True)
    }


def sheet(images: Images, places: Sequence[int], bins: int) -> Images:
    """The images at these places, in this order, row by row, large enough to see, (H, W, C) uint8.

    Args:
        images: digits, (n, C, H, W).   bins: of a pixel.
    """
    return enlarged(grid(viewable(np.asarray(images)[list(places)], bins)))


def pictured(images: Images, facts: dict[str, Any], bins: int) -> dict[str, Images]:
    """The images of `extreme_facts`, (n, H, W, C), by name."""
    found = {name: [row["image"] for row in rows] for name, rows in facts.items()}
    return {name: viewable(np.asarray(images)[places], bins) for name, places in found.items()}
