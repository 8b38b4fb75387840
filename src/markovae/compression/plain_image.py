"""Single images as bytes without a model, the shortest of what is at hand: the bits that a group borrows."""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from markovae.data.image_reader import open_image
from markovae.errors import UserError

PICTURE, PACKED = b"\1", b"\0"
LENGTH = 3  # bytes of a code's length
OPTIONS: dict[str, Any] = {"lossless": True, "quality": 100, "method": 6, "exact": True}
QUICK = {"quality": 0, "method": 0}  # 25 times as fast, and the order of the lengths is nearly the same
BEGINNING, SIGNATURE = 20, 0x2F  # of a lossless WebP: what stands before its bits, and their first byte


def plain_code(image: Any, bins: int, quick: bool = False) -> bytes:
    """One image, (C, H, W), pixel values 0…bins−1, on its own: packed, or as the bits of a lossless WebP.

    Args:
        quick: to compare images by, longer than need be.
    """
    codes = [PACKED + zlib.compress(image.astype(_type(bins)).tobytes(), 9)]
    if bins <= 256 and image.shape[0] in (1, 3):
        buffer = io.BytesIO()
        pixels = np.broadcast_to(image.astype(np.uint8), (3, *image.shape[1:])).transpose(1, 2, 0)
        Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "WEBP", **(OPTIONS | QUICK if quick else OPTIONS))
        content = buffer.getvalue()
        size = int.from_bytes(content[16:BEGINNING], "little")
        if content[12:16] == b"VP8L" and len(content) == BEGINNING + size + size % 2:
            codes.append(PICTURE + content[BEGINNING : BEGINNING + size])
    return min(codes, key=len)


def joined(codes: Sequence[bytes]) -> Any:
    """Codes as words, uint32, each with its length."""
    content = b"".join(len(code).to_bytes(LENGTH, "little") + code for code in codes)
    return np.frombuffer(content + bytes(-len(content) % 4), "<u4").astype(np.uint32)


def parted(words: Any, count: int, shape: Sequence[int], bins: int) -> list[Any]:
    """The images of so many codes, each (C, H, W), int64.

    Raises:
        UserError: for words that `joined` did not give.
    """
    content, at, images = words.astype("<u4").tobytes(), 0, []
    for _ in range(count):
        length = int.from_bytes(content[at : at + LENGTH], "little")
        at += LENGTH
        images.append(_image(content[at : at + length], shape, bins))
        at += length
    return images


def _image(code: bytes, shape: Sequence[int], bins: int) -> Any:
    try:
        return (_picture if code[:1] == PICTURE else _unpacked)(code[1:], shape, bins).astype(np.int64)
    except (OSError, ValueError, SyntaxError, zlib.error):
        raise UserError("an image that the file holds plainly is damaged: get the file anew") from None


def _unpacked(code: bytes, shape: Sequence[int], bins: int) -> Any:
    size = math.prod(shape) * np.dtype(_type(bins)).itemsize
    return np.frombuffer(zlib.decompressobj().decompress(code, size + 1), _type(bins)).reshape(shape)


def _picture(code: bytes, shape: Sequence[int], bins: int) -> Any:
    channels, height, width = shape
    size = int.from_bytes(code[1:5], "little")
    # Its own size is looked at before a decoder makes room for it.
    if code[:1] != bytes([SIGNATURE]) or (size & 0x3FFF, size >> 14 & 0x3FFF) != (width - 1, height - 1) or bins > 256:
        raise ValueError("it is another image")
    chunk = b"WEBPVP8L" + len(code).to_bytes(4, "little") + code + bytes(len(code) % 2)
    with open_image(b"RIFF" + len(chunk).to_bytes(4, "little") + chunk) as image:
        pixels = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    values = pixels[:channels]
    if values.shape != tuple(shape) or int(values.max()) >= bins:
        raise ValueError("it is another image")
    return values


def _type(bins: int) -> str:
    return "<u2" if bins > 256 else "u1"
