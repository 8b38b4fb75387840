"""What lossless image files take: PNG and WebP, one file per image and all images in one."""

from __future__ import annotations

import io
import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from markovae.data.pictures import Images
from markovae.data.workers import worker_count
from markovae.errors import UserError

LARGEST_SIDE = 16_383  # of a WebP
SETTINGS: dict[str, dict[str, Any]] = {
    "PNG": {"optimize": True},
    "WebP": {"lossless": True, "quality": 100, "method": 6, "exact": True},
}


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


def file_bits(images: Images, bins: int, name: str = "WebP") -> Images:
    """Bits of each image as a lossless file of its own, (n,), float64.

    Args:
        images: pixel values, (n, C, H, W).
    Raises:
        UserError: for more than 256 bins, which these writers do not hold.
    """
    if bins > 256:
        raise UserError(f"images of {bins} grey values do not fit {name}, which holds 8 bits a channel")
    size = partial(_size, name=name, settings=SETTINGS[name])
    with ThreadPoolExecutor(worker_count()) as pool:
        each = pool.map(size, np.asarray(images, np.uint8).transpose(0, 2, 3, 1))
        return 8.0 * np.fromiter(each, np.float64, len(images))


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
