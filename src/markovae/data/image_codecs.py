"""What images take without a model: as PNG and WebP, and under a predictor of no kind of image in particular."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from markovae.data.pictures import Images
from markovae.data.workers import worker_count

LARGEST_SIDE = 16_383  # of a WebP
SETTINGS: dict[str, dict[str, Any]] = {
    "PNG": {"optimize": True},
    "WebP": {"lossless": True, "quality": 100, "method": 6, "exact": True},
}


CODED_PIXELS, FEWEST = 2**20, 16


def coded_count(count: int, shape: Sequence[int]) -> int:
    """How many of so many images of a shape (C, H, W) the files are made of: a megapixel, which takes seconds."""
    return min(count, max(FEWEST, CODED_PIXELS // (shape[1] * shape[2])))


def codec_table(images: Images, bins: int) -> list[dict[str, Any]]:
    """bits/dim of PNG and lossless WebP at their smallest settings, one file per image and all tiled into one file.

    The files' headers count; the pixel values are stored as they are, unscaled. Images of more than 256 bins are left
    out (None): these writers hold 8 bits a channel. `tiled_images` is how many of them fill a rectangle.

    Args:
        images: pixel values, (n, C, H, W).
    """
    rows = []
    for name, settings in SETTINGS.items():
        single, tiled, count = None, None, 0
        if bins <= 256:
            pictures = np.asarray(images, np.uint8).transpose(0, 2, 3, 1)
            sheet = _sheet(pictures)
            # The encoders leave Python's lock while they work; the sheet takes longest, so it goes first.
            with ThreadPoolExecutor(worker_count()) as pool:
                whole, *each = pool.map(partial(_size, name=name, settings=settings), [sheet, *pictures])
            single, tiled = sum(each) * 8 / pictures.size, whole * 8 / sheet.size
            count = sheet.size // pictures[0].size
        rows.append(
            {"name": name, "per_image_bits_per_dim": single, "tiled_bits_per_dim": tiled, "tiled_images": count}
        )
    return rows


def predictive_bits(images: Images) -> Images:
    """Bits of each image under a predictor of no kind of image in particular, (n,), float64: how complex it is.

    Each value is predicted from the three before it (left, above, above left), and its error coded with a two-sided
    geometric distribution, (1−t)/(1+t) t^|e|, whose mean |e| is that of earlier errors at as steep a place. Colors are
    coded as G, R−G and B−G. It is a code: everything used is known to whoever reads the image in order.

    Args:
        images: pixel values, (n, C, H, W), C = 1 or 3.
    Source: Weinberger et al. 2000 (LOCO-I: the median predictor, and contexts of local gradients).
    """
    values = np.asarray(images).astype(np.int32)
    if values.shape[1] == 3:
        red, green, blue = values.transpose(1, 0, 2, 3)
        values = np.stack([green, red - green, blue - green], 1)
    n, channels = values.shape[:2]
    rows, bits = np.arange(n), np.zeros(n)
    for channel in range(channels):
        error, context = _prediction_errors(values[:, channel])
        total, count = np.full((n, CONTEXTS), 4.0), np.ones((n, CONTEXTS))
        for e, k in zip(error.T, context.T, strict=True):
            mean = np.maximum(total[rows, k] / count[rows, k], 0.02)
            t = mean / (1 + mean)
            bits -= np.log2((1 - t) / (1 + t)) + e * np.log2(t)
            total[rows, k] += e
            count[rows, k] += 1
            old = count[rows, k] > MEMORY  # what lies far back counts less
            total[rows[old], k[old]] /= 2
            count[rows[old], k[old]] /= 2
    return bits


CONTEXTS, MEMORY = 12, 64


def _prediction_errors(values: Images) -> tuple[Images, Images]:
    """|error| of the median predictor, and how steep the image is there, both (n, H·W), row by row."""
    above = np.zeros_like(values)
    above[:, 1:] = values[:, :-1]
    left, corner, right = above.copy(), above.copy(), above.copy()
    left[..., 1:], corner[..., 1:], right[..., :-1] = values[..., :-1], above[..., :-1], above[..., 1:]
    low, high = np.minimum(left, above), np.maximum(left, above)
    predicted = np.where(corner >= high, low, np.where(corner <= low, high, left + above - corner))
    steep = np.abs(left - corner) + np.abs(above - corner) + np.abs(right - above)
    context = np.where(steep == 0, 0, 1 + np.minimum(CONTEXTS - 2, 1.2 * np.log2(np.maximum(steep, 1)))).astype(
        np.int64
    )
    return np.abs(values - predicted).reshape(len(values), -1), context.reshape(len(values), -1)


def _size(picture: Images, name: str, settings: dict[str, Any]) -> int:
    from PIL import Image

    stream = io.BytesIO()
    flat = picture[..., 0] if picture.shape[2] == 1 else picture
    Image.fromarray(np.ascontiguousarray(flat)).save(stream, name, **settings)
    return stream.tell()


def _sheet(pictures: Images) -> Images:
    """A full rectangle of tiles without gaps: as many images as fit, then as square as can be."""
    n, height, width, channels = pictures.shape
    square = max(1, min(round(math.sqrt(n * height / width)), n, LARGEST_SIDE // width))

    def rows_of(columns: int) -> int:
        return max(1, min(n // columns, LARGEST_SIDE // height))

    # Beyond twice as wide as high, and the reverse, nothing is gained.
    some = range(max(1, square * 2 // 3), min(square * 3 // 2, n, max(1, LARGEST_SIDE // width)) + 1)
    columns = max(some, key=lambda c: (c * rows_of(c), -abs(c - square)))
    rows = rows_of(columns)
    tiles = pictures[: rows * columns].reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return tiles.reshape(rows * height, columns * width, channels)
