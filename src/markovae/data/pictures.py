"""Pixel values as pictures: 8-bit arrays, sheets, PNG bytes."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
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

        mv.grid(images[:16]).save("grid.png")

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
        clear: transparent between the pictures, (·, ·, 4), for pages of any color; else white.
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


READABLE, LARGEST_SHEET = 64, 4096


def readable(sheet: Images, pictures: Images) -> Images:
    """A sheet, (H, W, C), with every pixel repeated until its pictures have 64 a side or more, the sheet at most 4,096.

    Args:
        pictures: of the sheet, (n, H, W, C).
    """
    factor = max(1, min(-(-READABLE // min(pictures.shape[1:3])), LARGEST_SHEET // max(sheet.shape[:2])))
    return sheet.repeat(factor, 0).repeat(factor, 1)


TITLE_POINTS = 15


def titled(sheet: Images, rows: Sequence[str], columns: Sequence[str] = (), corner: str = "") -> Images:
    """A sheet, (H, W, C), with a title before each of its rows and above each of its columns; texts are cut to fit.

    Args:
        corner: what the columns are, written before their titles.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(TITLE_POINTS)
    height, width = sheet.shape[0] // len(rows), sheet.shape[1] // max(1, len(columns))
    left = min(8 + math.ceil(max(map(font.getlength, (*rows, corner)))), 4 * max(height, 64))
    top = TITLE_POINTS + 8 if columns else 0
    canvas = Image.new("RGB", (left + sheet.shape[1], top + sheet.shape[0]), "white")
    canvas.paste(Image.fromarray(np.broadcast_to(sheet, (*sheet.shape[:2], 3)).copy()), (left, top))
    draw = ImageDraw.Draw(canvas)
    draw.text((4, top / 2), _cut(corner, font, left - 8), "black", font, anchor="lm")
    for row, text in enumerate(rows):
        draw.text((4, top + (row + 0.5) * height), _cut(text, font, left - 8), "black", font, anchor="lm")
    for column, text in enumerate(columns):
        draw.text((left + (column + 0.5) * width, top / 2), _cut(text, font, width), "black", font, anchor="mm")
    return np.asarray(canvas)


def _cut(text: str, font: Any, width: float) -> str:
    short = text
    while short and font.getlength(short) > width:
        short = short.removesuffix("…")[:-1] + "…" if len(short) > 1 else ""
    return short


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


def data_uri(content: bytes) -> str:
    """The bytes of a PNG as an address that needs no file beside the page."""
    return f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"
