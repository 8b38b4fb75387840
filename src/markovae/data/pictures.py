"""Digits as pictures: 8-bit arrays to look at, sheets of them, and PNG bytes."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

Images = np.ndarray[Any, Any]


def viewable(images: Images, bins: int) -> Images:
    """(n, C, H, W) digits 0…bins−1 -> (n, H, W, C) uint8; 8-bit images keep their very values, others are scaled."""
    turned = np.ascontiguousarray(np.asarray(images).transpose(0, 2, 3, 1))
    if bins == 256:
        return turned.astype(np.uint8)
    return np.round(turned.astype(np.float64) * (255 / (bins - 1))).astype(np.uint8)


def tile(pictures: Images, columns: int | None = None, clear: bool = False) -> Images:
    """(n, H, W, C) -> one sheet, row by row; nearly square unless `columns` are given.

    Args:
        clear: transparent between the pictures, (·, ·, 4), for pages of any colour; else white.
    """
    n, height, width, _ = pictures.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows, gap = -(-n // columns), max(1, min(height, width) // 16)
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
