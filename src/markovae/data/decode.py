"""One image file to pixels: upright, opaque, 8 bits, the first frame."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from markovae.data.images import Pixels
from markovae.data.scan import is_transparent, opened
from markovae.data.shaping import channels_first, fit_image

BAND = 256  # rows that transparency is taken from at a time: an image may have 64 megapixels


def decode(
    source: Path | bytes, shape: tuple[int, int], grey: bool, fit: str, background: tuple[int, int, int]
) -> Pixels:
    """The image in a file, or in these bytes of one, as (1 or 3, height, width) uint8.

    The order is: first frame, 16 bits to 8 by round(255 v / 65535), EXIF orientation, transparency laid on
    `background`, one channel or three, then `shape` by `fit`.

    Raises: OSError or ValueError with a reason where the file cannot be decoded.
    """
    with opened(source) as image:
        image.seek(0)
        image.load()
        upright = ImageOps.exif_transpose(eight_bits(image))
        opaque = flatten(upright, background)
        return channels_first(fit_image(opaque.convert("L" if grey else "RGB"), shape, fit, background))


def eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit grey, (v + 128) // 257, which is 255 v / 65535 rounded; others unchanged.

    Raises: ValueError for float pixels and for 32-bit ones outside 0 … 65535, which state no range.
    """
    if image.mode == "F":
        raise ValueError("float pixels state no range: save the image with 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(
            f"32-bit pixels from {values.min()} to {values.max()} must lie in 0…65535: save with 8 or 16 bits"
        )
    scaled = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    scaled.info.update(image.info)
    scaled.getexif().update(image.getexif())
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        # The colour key names a 16-bit value; two of them may share 8 bits, so make it alpha here.
        alpha = Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
        scaled.info.pop("transparency")
        scaled.putalpha(alpha)
    return scaled


def flatten(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """`image` without transparency: alpha A lays it on the background, (A v + (255 - A) b) / 255 rounded.

    Grey stays grey where the background is grey (mode L), otherwise the result is RGB.
    """
    if not is_transparent(image):
        return image
    pixels = np.asarray(image.convert("RGBA"))
    mixed = np.empty((*pixels.shape[:2], 3), dtype=np.uint8)
    for start in range(0, len(pixels), BAND):
        band = pixels[start : start + BAND].astype(np.uint32)
        alpha = band[..., 3:]
        mixed[start : start + BAND] = (
            band[..., :3] * alpha + np.array(background, dtype=np.uint32) * (255 - alpha) + 127
        ) // 255
    flat = Image.fromarray(mixed)
    grey = image.mode in ("L", "LA", "La", "1") and len(set(background)) == 1
    return flat.getchannel(0) if grey else flat
