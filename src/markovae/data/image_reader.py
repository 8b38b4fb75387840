"""The only place that opens image files: allowed formats, size and memory checked by the header."""

import io
import math
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from markovae.system.regular import open_regular

# Formats named on purpose: others (PostScript) would start outside programs.
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "DIB", "PPM")
MIB = 2**20
MAX_PIXELS = 48 * MIB  # what decoding, laying upright and scaling do in about a second: docs/reliability.md
MAX_SIDE = MIB  # pillow keeps eight bytes a row
MAX_STORED = 3 * MAX_PIXELS  # bytes of all pixels, unpacked: what a decoder takes its time for
MAX_FILE = 512 * MIB
MAX_PLAIN = 4 * MIB  # of a file of PPM that spells its pixels out in decimal figures, two million of them a second
# Bytes that decoding may take: more than as many pixels of RGB, four bytes each in pillow, and the `COPY` of them.
MAX_MEMORY = 12 * MAX_PIXELS
COPY = 5  # bytes per pixel of the picture turned upright or converted
# Bytes per pixel that decoders with a canvas hold beside the picture.
CANVAS_BYTES = {"WEBP": 8, "AVIF": 8, "GIF": 6}
WHOLE_FILE = frozenset({"WEBP", "AVIF"})  # whose decoders take the file into memory
MAX_SCAN_PIXELS = 2**30  # of a progressive JPEG, over all its scans: each goes over all pixels
PIXEL_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}  # 4 in all other modes
BITS, ROWS_PER_STRIP, TILE_WIDTH, TILE_LENGTH = 258, 278, 322, 323  # tags of TIFF
HEADER_OF_WEBP = 30


@contextmanager
def open_image(source: Path | bytes) -> Iterator[Image.Image]:
    """The image in a file, or in these bytes of one, header read, pixels not yet.

    Raises:
        ValueError: with the reason for no known format, or an image or file too large to be decoded.
        OSError: where the file cannot be opened, or is not a regular file.
    """
    # By handle, not by name: pillow maps files it opens by name, and then reads sideways TIFFs wrongly.
    content = io.BytesIO(source) if isinstance(source, bytes) else open_regular(source)
    with content as handle, warnings.catch_warnings():
        # The size is judged below, by our own limit; other remarks on metadata do not touch pixels.
        warnings.simplefilter("ignore")
        size = handle.seek(0, os.SEEK_END)
        if size > MAX_FILE:
            raise ValueError(f"a file of {size:,} bytes, at most {MAX_FILE:,} are read: save it smaller")
        handle.seek(0)
        # Its decoder is made, canvases and all, before pillow tells the size.
        canvas = _webp_canvas(handle.read(HEADER_OF_WEBP))
        if canvas is not None:
            _judge(*canvas, math.prod(canvas) * CANVAS_BYTES["WEBP"] + size)
        handle.seek(0)
        try:
            image = Image.open(handle, formats=FORMATS)
        except UnidentifiedImageError:
            raise ValueError("not an image of a known format, or its header is damaged") from None
        except Image.DecompressionBombError:
            raise ValueError(f"more than {MAX_PIXELS // MIB} megapixels: save it smaller") from None
        with image:
            _judge(image.width, image.height, _memory(image, size))
            _judge_stored(image, size)
            _judge_scans(image, handle)
            yield image


def _judge(width: int, height: int, memory: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width}x{height} is more than {MAX_PIXELS // MIB} megapixels: save it smaller")
    if max(width, height) > MAX_SIDE:
        raise ValueError(f"{width}x{height} has a side of more than {MAX_SIDE:,} pixels: cut it into parts")
    if memory > MAX_MEMORY:
        raise ValueError(
            f"{width}x{height} takes {memory // MIB:,} MiB to decode, at most {MAX_MEMORY // MIB} are taken: save it "
            "smaller, or as baseline JPEG or PNG"
        )


def _judge_stored(image: Image.Image, size: int) -> None:
    """Refuse what takes longer to unpack than its number of pixels tells: many bytes a pixel, or decimal figures."""
    tiles = getattr(image, "tile", [])
    depth = 2 if any(";16" in str(tile[3]) for tile in tiles) else 4 if image.mode in ("I", "F") else 1
    each = max(depth * len(image.getbands()), _bytes_by_tags(image))
    stored = image.width * image.height * each
    if stored > MAX_STORED:
        raise ValueError(
            f"{image.width}x{image.height} of {each} bytes a pixel is {stored // MIB:,} MiB of pixels, at most "
            f"{MAX_STORED // MIB} are read: save it smaller, or with 8 bits and without transparency"
        )
    if any(tile[0] == "ppm_plain" for tile in tiles) and size > MAX_PLAIN:
        raise ValueError(
            f"a plain PPM file of {size:,} bytes, at most {MAX_PLAIN:,} are read: save it as binary PPM or PNG"
        )


def _memory(image: Image.Image, size: int) -> int:
    """Bytes that decoding takes at most, by the header of an image in a file of `size` bytes."""
    kind, pixels = image.format or "", image.width * image.height
    each = PIXEL_BYTES.get(image.mode, 4) + COPY + CANVAS_BYTES.get(kind, 0)
    if image.info.get("progressive"):  # the coefficients of all layers, two bytes each
        each += 2 * getattr(image, "layers", 4)
    return pixels * each + (size if kind in WHOLE_FILE else 0) + _strip(image)


def _strip(image: Image.Image) -> int:
    """Bytes of the strip or tile that a compressed TIFF is decoded through; a tile may exceed its image."""
    if not any(tile[0] == "libtiff" for tile in getattr(image, "tile", [])):
        return 0
    tags = getattr(image, "tag_v2", {})
    pixels = image.width * min(_whole(tags.get(ROWS_PER_STRIP), image.height), image.height)
    if TILE_WIDTH in tags:
        pixels = _whole(tags.get(TILE_WIDTH), image.width) * _whole(tags.get(TILE_LENGTH), image.height)
    return pixels * max(4, _bytes_by_tags(image))


def _bytes_by_tags(image: Image.Image) -> int:
    """Bytes per pixel in a TIFF, by its tags; 0 in other formats."""
    bits = getattr(image, "tag_v2", {}).get(BITS, ())
    return sum(_whole(n, 8) for n in bits) // 8 if isinstance(bits, tuple) else 0


def _whole(value: object, default: int) -> int:
    return value if isinstance(value, int) and value > 0 else default


def _judge_scans(image: Image.Image, handle: BinaryIO) -> None:
    """Refuse a progressive JPEG that goes over its pixels too many times, with a handful of bytes each."""
    if not image.info.get("progressive"):
        return
    allowed = MAX_SCAN_PIXELS // math.prod(image.size)
    place = handle.tell()
    handle.seek(0)
    scans, last = 0, b""
    while block := handle.read(MIB):
        scans += (last + block).count(b"\xff\xda")
        last = block[-1:]
    handle.seek(place)
    if scans > allowed:
        raise ValueError(
            f"{image.width}x{image.height} in {scans:,} scans, at most {allowed:,} are read: save it again"
        )


def _webp_canvas(start: bytes) -> tuple[int, int] | None:
    """(width, height) in the first bytes of a WebP; None for any other file."""
    if len(start) < HEADER_OF_WEBP or start[:4] != b"RIFF" or start[8:12] != b"WEBP":
        return None
    kind = start[12:16]
    if kind == b"VP8X":
        return int.from_bytes(start[24:27], "little") + 1, int.from_bytes(start[27:30], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(start[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", start[26:30])
        return width & 0x3FFF, height & 0x3FFF
    return None
