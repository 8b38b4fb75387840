"""Pixel values as pictures (8-bit arrays, sheets, PNG bytes), and single pictures read as a model sees them."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from markovae.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

Images = np.ndarray[Any, Any]


def viewable(images: Images, bins: int) -> Images:
    """(n, C, H, W) pixel values 0…bins−1 -> (n, H, W, C) uint8; 8-bit images keep their values, others are scaled."""
    turned = np.ascontiguousarray(np.asarray(images).transpose(0, 2, 3, 1))
    if bins == 256:
        return turned.astype(np.uint8)
    return np.round(turned.astype(np.float64) * (255 / (bins - 1))).astype(np.uint8)


def grid(images: Any, columns: int | None = None, *, bins: int = 256) -> Image.Image:
    """Images as one picture, row by row, to look at in a notebook or to save.

    Args:
        images: pixel values 0…bins−1, an array or a tensor, (n, C, H, W), C = 1 or 3.
        columns: of the grid; None is nearly square.
    Raises:
        UserError: for another shape, or numbers that are no pixel values.
    """
    from PIL import Image

    values = np.asarray(images.cpu() if hasattr(images, "cpu") else images)
    if values.ndim != 4 or values.shape[1] not in (1, 3) or not len(values):
        raise UserError(f"images of shape {values.shape}: a grid takes (n, C, H, W) with C = 1 or 3, and n at least 1")
    if values.dtype.kind not in "iu" or int(values.min()) < 0 or int(values.max()) >= bins:
        raise UserError(f"a grid takes whole pixel values 0…{bins - 1}: give what mv.sample returns, and its bins")
    sheet = tile(viewable(values, bins), columns)
    return Image.fromarray(sheet[..., 0] if sheet.shape[2] == 1 else sheet)


def tile(pictures: Images, columns: int | None = None, clear: bool = False, gap: int | None = None) -> Images:
    """(n, H, W, C) -> one sheet, row by row; nearly square unless `columns` are given.

    Args:
        clear: transparent between the pictures, (·, ·, 4), for pages of any colour; else white.
        gap: pixels between them; None is a sixteenth of a side.
    """
    n, height, width, _ = pictures.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows, gap = -(-n // columns), max(1, min(height, width) // 16) if gap is None else gap
    if clear:
        opaque = np.full((n, height, width, 1), 255, np.uint8)
        pictures = np.concatenate([np.broadcast_to(pictures, (n, height, width, 3)), opaque], axis=3)
    paper = 0 if clear else 255
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, pictures.shape[3]), paper, np.uint8)
    for index, picture in enumerate(pictures):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def enlarged(sheet: Images, least: int = 256) -> Images:
    """(H, W, C) with every pixel repeated until the shorter side has `least` pixels or more."""
    factor = -(-least // min(sheet.shape[:2]))
    return sheet.repeat(factor, 0).repeat(factor, 1)


def png(picture: Images, text: Mapping[str, str] | None = None) -> bytes:
    """Lossless PNG of (H, W, C): grey for 1 channel, rgb for 3, rgb and opacity for 4; with tEXt entries."""
    from PIL import Image, PngImagePlugin

    info = PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        info.add_text(key, value)
    stream = io.BytesIO()
    flat = picture[..., 0] if picture.shape[2] == 1 else picture
    Image.fromarray(flat).save(stream, "PNG", pnginfo=info, optimize=True)
    return stream.getvalue()


def data_uri(content: bytes, kind: str = "image/png") -> str:
    """The bytes as an address that needs no file beside the page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


KINDS = {1: "grey", 3: "colour"}
BLACK = (0, 0, 0)


def read_picture(source: str | Path | Image.Image, shapes: Sequence[tuple[int, ...]]) -> Images:
    """A picture as (C, H, W) uint8, of one of these shapes, upright as training reads it.

    Nothing is resized, recolored or cropped, and no pixel is decoded before the header fits.

    Args:
        source: a file, or an image of PIL.
    Raises:
        UserError: for no image, more than 8 bits, transparency, or another size or kind, with what would do.
    """
    from markovae.data.image_files import channels_first, flat_picture, header_from

    with _opened(source) as (image, name):
        header = header_from(image, name)
        if header.mode.startswith(("I", "F")):
            raise UserError(f"{name} has more than 8 bits a pixel: save it with 8")
        if header.transparent:
            raise UserError(f"{name} has transparent pixels: save it without an alpha channel")
        fitting = [shape for shape in shapes if shape[1:] == (header.height, header.width)]
        if not fitting:
            sizes = " or ".join(dict.fromkeys(f"{width}x{height}" for _, height, width in shapes))
            raise UserError(f"{name} is {header.width}x{header.height}: {sizes} is taken here; resize it first")
        if (1 if header.grey else 3) not in {channels for channels, *_ in fitting}:
            wanted = KINDS.get(fitting[0][0], f"of {fitting[0][0]} channels")
            kind = "grey" if header.grey else "colour"
            raise UserError(f"{name} is {kind}: the model's images are {wanted}; convert it first")
        return channels_first(flat_picture(image, header.grey, BLACK))


def read_mask(source: str | Path | Image.Image, height: int, width: int) -> Images:
    """Where a mask is white, (H, W) bool; what is transparent counts as black.

    Args:
        source: a file, or an image of PIL.
    Raises:
        UserError: for no image, another size, or pixels that are neither black nor white.
    """
    from markovae.data.image_files import channels_first, flat_picture, header_from

    with _opened(source) as (image, name):
        header = header_from(image, name)
        if (header.height, header.width) != (height, width):
            size = f"{header.width}x{header.height}"
            raise UserError(f"the mask {name} is {size} but the image {width}x{height}: match them")
        pixels = channels_first(flat_picture(image, True, BLACK))[0]
    between = int(((pixels > 0) & (pixels < 255)).sum())
    if between:
        raise UserError(f"the mask {name} has {between} pixels that are neither black nor white: save it as PNG in two")
    if pixels.min() == pixels.max():
        raise UserError(f"the mask {name} is all {'white' if pixels.max() else 'black'}: white pixels are drawn anew")
    return pixels > 0


@contextmanager
def _opened(source: str | Path | Image.Image) -> Iterator[tuple[Image.Image, str]]:
    """The image and its name. Raises: UserError for whatever a decoder finds wrong, then or later."""
    from markovae.data.image_files import reason_of
    from markovae.data.image_reader import open_image
    from markovae.system.memory import out_of_memory

    name = str(source) if isinstance(source, (str, Path)) else "the image"
    try:
        if isinstance(source, (str, Path)):
            with open_image(Path(source)) as image:
                yield image, name
        else:
            yield source.copy(), name
    except UserError:
        raise
    except Exception as error:  # a decoder may raise anything on damaged bytes
        if out_of_memory(error):
            raise
        raise UserError(f"{name} cannot be read as an image ({reason_of(error)}): give an intact PNG or JPEG") from None
