"""A picture that is edited, and its mask: fitted to a model as training fits, and laid back into the original."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageChops

from markovae.data.color import WORDS
from markovae.data.data_config import background_rgb
from markovae.data.image_files import (
    channels_first,
    eight_bits,
    fit_image,
    flat_picture,
    header_from,
    is_transparent,
    load_upright,
    tiles,
)
from markovae.data.image_reader import open_image
from markovae.errors import UserError, reason_of
from markovae.system.memory import out_of_memory

Pixels = np.ndarray[Any, Any]
Source = str | Path | Image.Image

HALF = 128  # a mask is redrawn where it is at least so white
RED = (200, 60)  # a brush is red where red is at least the one, and green and blue at most the other
COLOR = 40  # levels by which the channels of a colored mask differ
SAME_ASPECT = 0.02
DONE = {"crop": "scaled and cropped", "pad": "scaled and padded", "resize": "stretched"}


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as a model sees it.

    Args:
        pixels: (C, H, W) uint8.
        name: for messages.
        notes: sentences on what was done.
        original: the whole picture, upright and opaque, where it was scaled or cut; else None.
        fit, background: how it was fitted.
    """

    pixels: Pixels
    name: str
    notes: tuple[str, ...] = ()
    original: Image.Image | None = None
    fit: str = "crop"
    background: tuple[int, int, int] = (255, 255, 255)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the original."""
        return (self.pixels.shape[2], self.pixels.shape[1]) if self.original is None else self.original.size

    def laid_back(self, drawn: Pixels, strength: Pixels) -> Pixels:
        """The original with a draw laid over it, as strongly as the mask is white there, (H, W, C) uint8.

        Args:
            drawn: the draw, (C, H, W) of the model's size.
            strength: of the mask, (H, W) of the original's, 0…255.
        """
        assert self.original is not None, "the draw is the picture"
        grey = len(drawn) == 1
        flat = Image.fromarray(drawn[0] if grey else np.ascontiguousarray(np.moveaxis(drawn, 0, -1)))
        inner, outer = _places(self.original.size, flat.size, self.fit)
        size = (outer[2] - outer[0], outer[3] - outer[1])
        enlarged = flat.crop(inner).resize(size, Image.Resampling.LANCZOS)
        result = self.original.convert("L" if grey else "RGB")
        result.paste(enlarged, outer[:2], Image.fromarray(strength).crop(outer))
        laid = np.asarray(result)
        return laid[..., None] if grey else laid


@dataclass(frozen=True, eq=False)
class Mask:
    """What of a picture is redrawn.

    Args:
        unknown: (H, W) bool, of the model's size.
        strength: 0…255, of the original's size.
        notes: sentences on how it was understood.
    """

    unknown: Pixels
    strength: Pixels
    notes: tuple[str, ...] = field(default=())


def read_picture(
    source: Source,
    shape: Sequence[int],
    exact: Sequence[Sequence[int]] = (),
    fit: str = "crop",
    background: str = "white",
) -> Picture:
    """A picture brought to a model's shape as training brings its images to it.

    Args:
        source: a file, or an image of PIL, of any size and kind that training reads.
        shape: (C, H, W) of the model.
        exact: further shapes that are taken as they are: of degraded pictures.
        fit, background: as in `DataConfig`.
    Raises:
        UserError: for no image, or one that cannot be decoded.
    """
    with opened(source) as (image, name):
        header, fill = header_from(image, name), background_rgb(background)
        size = (header.height, header.width)
        fitting = [one for one in (shape, *exact) if tuple(one[1:]) == size]
        taken = next((one for one in fitting if (one[0] == 1) == header.grey), (*fitting, shape)[0])
        channels, height, width = taken
        flat = flat_picture(image, channels == 1, fill)
        notes = []
        if size != (height, width):
            notes.append(f"{name} of {flat.width}x{flat.height} is {DONE[fit]} to {width}x{height}, as in training")
        if header.transparent:
            notes.append(f"{name} has transparency, laid on {background}")
        if header.mode.startswith("I"):
            notes.append(f"{name} has 16 bits, scaled to 8")
        if header.color:
            notes.append(f"{name} is an image {WORDS[header.color]}")
        if header.grey != (channels == 1):
            notes.append(
                f"{name} is {'grey' if header.grey else 'in color'} and was made {'rgb' if header.grey else 'grey'}"
            )
        pixels = channels_first(fit_image(flat, (height, width), fit, fill))
        return Picture(pixels, name, tuple(notes), flat if size != (height, width) else None, fit, fill)


def read_mask(source: Source, picture: Picture) -> Mask:
    """Where a picture is redrawn, by a mask as people make them.

    White is redrawn and black is kept; grey counts as white from half on. Of a mask in color, what is red is
    redrawn. Of a mask with transparency: white or red strokes on a clear layer are redrawn, and of any other picture
    the clear parts. It has the size of the original, of the model, or the original's proportions.

    Raises:
        UserError: for no image, another size, or a mask of which nothing or everything is to be drawn.
    """
    with opened(source) as (image, name):
        load_upright(image)
        strength, words = _strength(image, name)
    height, width = picture.pixels.shape[1:]
    notes = [f"the mask {name}: {words}"]
    if strength.size == picture.size or _alike(strength.size, picture.size):
        whole = strength.resize(picture.size, Image.Resampling.BILINEAR) if strength.size != picture.size else strength
        small = fit_image(whole, (height, width), picture.fit, (0, 0, 0))
    elif strength.size == (width, height):
        small, whole = strength, _enlarged(strength, picture)
    else:
        raise UserError(
            f"the mask {name} is {strength.width}x{strength.height} but the image {picture.size[0]}x{picture.size[1]}: "
            "draw it on the image, or at the model's size"
        )
    values = np.asarray(small)
    between = int(((values > 0) & (values < 255)).sum())
    if between:
        notes.append(
            f"{between} of {values.size} pixels of the mask are grey at {width}x{height}: half white or more is drawn"
        )
    unknown = values >= HALF
    if unknown.all() or not unknown.any():
        what = "is all white" if unknown.all() else "is all black"
        if not unknown.any() and values.any():
            what = f"is nowhere half white at the model's {width}x{height}"
        raise UserError(f"the mask {name} {what}: what is white is redrawn, and black is kept ({words})")
    return Mask(unknown, np.asarray(whole), tuple(notes))


@dataclass(frozen=True, eq=False)
class _Strokes:
    """What a part of a mask, or a mask so far, may be read by.

    Args:
        luma, white: (H, W) uint8, the second the darkest of the three channels.
        red: (H, W) bool.
        alpha: (H, W) uint8, or None where every pixel is opaque.
        color: the largest difference between the channels of a pixel.
    """

    luma: Pixels
    white: Pixels
    red: Pixels
    alpha: Pixels | None
    color: int


def _strokes(tile: Image.Image) -> _Strokes:
    tile = eight_bits(tile)
    rgb = tile.convert("RGB")
    red, green, blue = rgb.split()
    darkest = ImageChops.darker(ImageChops.darker(red, green), blue)
    brightest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    is_red = (np.asarray(red) >= RED[0]) & (np.asarray(ImageChops.lighter(green, blue)) <= RED[1])
    alpha = np.asarray(tile.convert("RGBA").getchannel("A")) if is_transparent(tile) else None
    color = int(np.asarray(ImageChops.subtract(brightest, darkest)).max())
    return _Strokes(np.asarray(rgb.convert("L")), np.asarray(darkest), is_red, alpha, color)


def _strength(image: Image.Image, name: str) -> tuple[Image.Image, str]:
    """How much of a mask is to be redrawn, mode L, and by which rule. Raises: UserError for colors without red."""
    rule, words = _rule(image, name)
    strength = Image.new("L", image.size)
    for box, tile in tiles(image):
        strength.paste(Image.fromarray(rule(_strokes(tile))), box)
    return strength, words


def _rule(image: Image.Image, name: str) -> tuple[Callable[[_Strokes], Pixels], str]:
    """The strength of a part of this mask, and words for it."""
    clear = seen = colored = red = False
    all_red = all_white = True  # of what is seen
    for _, tile in tiles(image):
        part = _strokes(tile)
        colored |= part.color > COLOR
        red |= bool(part.red.any())
        if part.alpha is not None:
            opaque = part.alpha >= HALF
            clear |= int(part.alpha.min()) < 255
            seen |= bool(opaque.any())
            all_red &= not (opaque & ~part.red).any()
            all_white &= not (opaque & (part.white < HALF)).any()
    if clear and seen and all_red:
        return lambda part: np.where(part.red, part.alpha, np.uint8(0)), "its red strokes are redrawn"
    if clear and seen and all_white:
        return lambda part: np.minimum(part.white, part.alpha), "its white strokes are redrawn"
    if clear:
        return lambda part: 255 - part.alpha, "its transparent parts are redrawn"
    if not colored:
        return lambda part: part.luma, "white is redrawn"
    if not red:
        raise UserError(
            f"the mask {name} is in color and nothing in it is red: paint white on black, or red on the picture"
        )
    return lambda part: part.red.view(np.uint8) * np.uint8(255), "what is red is redrawn"


def _alike(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes, of more than a few pixels, have the same proportions."""
    return min(*one, *other) > 16 and abs(one[0] * other[1] / (one[1] * other[0]) - 1) < SAME_ASPECT


def _enlarged(strength: Image.Image, picture: Picture) -> Image.Image:
    """A mask of the model's size at the original's."""
    if picture.original is None:
        return strength
    inner, outer = _places(picture.original.size, strength.size, picture.fit)
    whole = Image.new("L", picture.original.size)
    whole.paste(
        strength.resize((outer[2] - outer[0], outer[3] - outer[1]), Image.Resampling.BILINEAR, box=inner), outer
    )
    return whole


def _places(
    original: tuple[int, int], model: tuple[int, int], fit: str
) -> tuple[tuple[int, int, int, int], tuple[int, int, int, int]]:
    """(left, top, right, bottom) of the same part of a picture: in the model's image, and in the original."""
    (width, height), (w, h) = original, model
    if fit == "resize":
        return (0, 0, w, h), (0, 0, width, height)
    scale = (max if fit == "crop" else min)(w / width, h / height)
    scaled = (max(1, round(width * scale)), max(1, round(height * scale)))
    if fit == "pad":
        left, top = (w - scaled[0]) // 2, (h - scaled[1]) // 2
        return (left, top, left + scaled[0], top + scaled[1]), (0, 0, width, height)
    left, top = (scaled[0] - w) // 2, (scaled[1] - h) // 2
    across, down = width / scaled[0], height / scaled[1]
    outer = (round(left * across), round(top * down), round((left + w) * across), round((top + h) * down))
    return (0, 0, w, h), outer


@contextmanager
def opened(source: Source) -> Iterator[tuple[Image.Image, str]]:
    """The image and its name. Raises: UserError for whatever a decoder finds wrong, then or later."""
    name = str(source) if isinstance(source, str | Path) else "the image"
    try:
        if isinstance(source, str | Path):
            with open_image(Path(source).expanduser()) as image:
                yield image, name
        else:
            yield source.copy(), name
    except UserError:
        raise
    except Exception as error:  # a decoder may raise anything on damaged bytes
        if out_of_memory(error):
            raise
        raise UserError(f"{name} cannot be read as an image ({reason_of(error)}): give an intact PNG or JPEG") from None
