"""One image file to pixels: upright, opaque, 8 bits, the first frame."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from markovae.data.image_file import open_image
from markovae.data.images import Pixels
from markovae.data.scan import is_transparent
from markovae.data.shaping import channels_first, fit_image

TILE = 256  # pixels a side that are worked on at a time: an image may have 64 megapixels, however long and thin


def decode(
    source: Path | bytes, shape: tuple[int, int], grey: bool, fit: str, background: tuple[int, int, int]
) -> Pixels:
    """The image in a file, or in these bytes of one, as (1 or 3, height, width) uint8, brought to `shape` by `fit`.

    Raises: OSError or ValueError with a reason where the file cannot be decoded.
    """
    with open_image(source) as image:
        return channels_first(fit_image(flat_picture(image, grey, background), shape, fit, background))


def flat_picture(image: Image.Image, grey: bool, background: tuple[int, int, int]) -> Image.Image:
    """The pixels of an open image at its own size, mode L or RGB.

    The order is: first frame, 16 bits to 8 by round(255 v / 65535), EXIF orientation, transparency laid on
    `background`, one channel or three.

    Raises: OSError or ValueError with a reason where the image cannot be decoded.
    """
    image.seek(0)
    image.load()
    picture = eight_bits(image)
    ImageOps.exif_transpose(picture, in_place=True)  # in place: no copy where it lies upright
    opaque, mode = flatten(picture, background), "L" if grey else "RGB"
    return opaque if opaque.mode == mode else opaque.convert(mode)


def eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit grey, (v + 128) // 257, which is 255 v / 65535 rounded; others unchanged.

    Raises: ValueError for float pixels and for 32-bit ones outside 0 … 65535, which state no range.
    """
    if image.mode == "F":
        raise ValueError("float pixels state no range: save the image with 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image
    transparent = image.info.get("transparency")
    # The colour key names a 16-bit value; two of them may share 8 bits, so make it alpha here.
    keyed = isinstance(transparent, int)
    scaled = Image.new("LA" if keyed else "L", image.size)
    for box in _tiles(image):
        values = np.asarray(image.crop(box)).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(
                f"32-bit pixels from {values.min()} to {values.max()} must lie in 0…65535: save with 8 or 16 bits"
            )
        tile = Image.fromarray(((values + 128) // 257).astype(np.uint8))
        if keyed:
            tile.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
        scaled.paste(tile, box)
    scaled.info.update(image.info)
    scaled.getexif().update(image.getexif())
    if keyed:
        scaled.info.pop("transparency")
    return scaled


def flatten(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """`image` without transparency: alpha A lays it on the background, (A v + (255 - A) b) / 255 rounded.

    Grey stays grey where the background is grey (mode L), otherwise the result is RGB.
    """
    if not is_transparent(image):
        return image
    grey = image.mode in ("L", "LA", "La", "1") and len(set(background)) == 1
    flat = Image.new("L" if grey else "RGB", image.size)
    for box in _tiles(image):
        pixels = np.asarray(image.crop(box).convert("RGBA")).astype(np.uint32)
        alpha = pixels[..., 3:]
        mixed = (pixels[..., :3] * alpha + np.array(background, dtype=np.uint32) * (255 - alpha) + 127) // 255
        tile = mixed.astype(np.uint8)
        flat.paste(Image.fromarray(np.ascontiguousarray(tile[..., 0]) if grey else tile), box)
    return flat


def _tiles(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """(left, top, right, bottom) of squares that cover an image."""
    for top in range(0, image.height, TILE):
        for left in range(0, image.width, TILE):
            yield left, top, min(left + TILE, image.width), min(top + TILE, image.height)
