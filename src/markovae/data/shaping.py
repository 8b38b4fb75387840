"""Bringing images to one shape: size by crop, pad or resize; channels by grey or rgb."""

from dataclasses import replace

import numpy as np
from PIL import Image

from markovae.data.image_file import MAX_PIXELS
from markovae.data.images import ImageData, Pixels
from markovae.data.options import DataConfig, background_rgb
from markovae.errors import UserError


def fit_image(image: Image.Image, shape: tuple[int, int], fit: str, fill: tuple[int, int, int]) -> Image.Image:
    """`image` (mode L or RGB) as height x width pixels; an image of that shape is returned untouched.

    crop: scaled to cover, the centre kept. pad: scaled to fit inside, centred on `fill`. resize: stretched.
    Scaling is Lanczos with antialiasing; where a margin is odd, the right and lower side get the extra pixel.

    Raises: ValueError for an image so long and thin that it would be scaled to more than 64 megapixels.
    """
    height, width = shape
    if image.size == (width, height):
        return image
    if fit == "resize":
        return _resized(image, width, height)
    cover = fit == "crop"
    scales = (width / image.width, height / image.height)
    scale = max(scales) if cover else min(scales)
    scaled_width = max(1, round(image.width * scale))
    scaled_height = max(1, round(image.height * scale))
    scaled = image
    if image.size != (scaled_width, scaled_height):
        scaled = _resized(image, scaled_width, scaled_height)
    if cover:
        left, top = (scaled_width - width) // 2, (scaled_height - height) // 2
        return scaled.crop((left, top, left + width, top + height))
    canvas = Image.new("RGB", (width, height), fill).convert(image.mode)
    canvas.paste(scaled, ((width - scaled_width) // 2, (height - scaled_height) // 2))
    return canvas


def _resized(image: Image.Image, width: int, height: int) -> Image.Image:
    # The picture between the two passes has the width of the one and the height of the other.
    if width * max(image.height, height) > MAX_PIXELS:
        raise ValueError(
            f"{image.width}x{image.height} is too long and thin: it would be {width}x{height} before it is cropped; "
            "crop it first"
        )
    return image.resize((width, height), Image.Resampling.LANCZOS)


def to_channels(data: ImageData, channels: str) -> ImageData:
    """`data` with the channels asked for: "auto" leaves them, "rgb" repeats grey, "grey" takes luma.

    Luma is (19595 R + 38470 G + 7471 B + 2^15) >> 16, ITU-R BT.601, as pillow's mode L.
    """
    have = data.shape[0]
    if channels == "rgb" and have == 1:
        return replace(data, images=np.repeat(np.asarray(data.images), 3, axis=1))
    if channels == "grey" and have == 3:
        red, green, blue = (data.images[:, c].astype(np.uint64) for c in range(3))
        luma = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
        return replace(data, images=luma[:, None].astype(data.images.dtype))
    return data


def to_size(data: ImageData, config: DataConfig) -> ImageData:
    """`data` (256 bins) at the size the configuration asks for, each image by `fit_image`.

    Raises: UserError where pixels have other than 256 values, which scaling would blur into new ones.
    """
    shape = config.shape
    if shape is None or shape == data.shape[1:]:
        return data
    if data.bins != 256:
        raise UserError(
            f"{data.name} has {data.bins} grey values, and only images of 256 can be scaled: leave data.size at 0"
        )
    fill = background_rgb(config.background)
    scaled: Pixels = np.empty((len(data), data.shape[0], *shape), dtype=np.uint8)
    for target, pixels in zip(scaled, data.images, strict=True):
        image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1))
        try:
            target[...] = channels_first(fit_image(image, shape, config.fit, fill))
        except ValueError as error:
            raise UserError(f"an image of {data.name} of {error}") from None
    return replace(data, images=scaled)


def channels_first(image: Image.Image) -> Pixels:
    """Mode L as (1, H, W), mode RGB as (3, H, W), uint8."""
    pixels: Pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
