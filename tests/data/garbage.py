"""Sixty files that people have in their folders, and images broken in every way there is."""

import io
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

Maker = Callable[[Path], None]
READ = ""  # the reason of those that are read


def pixels(height: int = 12, width: int = 10, channels: int = 3, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (height, width, channels) if channels > 1 else (height, width)
    return rng.integers(0, 256, shape, dtype=np.uint8)


def encoded(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def rgb(seed: int = 0, **size: int) -> Image.Image:
    return Image.fromarray(pixels(seed=seed, **size))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *more: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG that claims a size, with hardly any pixels behind it."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = b"".join(more) or chunk(b"IDAT", zlib.compress(b"\0"))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[0x0112] = orientation
    return made


def frames(form: str) -> bytes:
    first, *rest = (rgb(seed) for seed in range(4))
    return encoded(first, form, save_all=True, append_images=rest, duration=40)


def jpeg(**options) -> bytes:
    return encoded(rgb(), "JPEG", **options)


def whole(seed: int = 0) -> bytes:
    return encoded(rgb(seed), "PNG")


def bmp_claiming(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)


def tiff_claiming(width: int, height: int) -> bytes:
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    entries += [(277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 100)]
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + bytes(4)


def gif_claiming(width: int, height: int) -> bytes:
    content = encoded(rgb().quantize(4), "GIF")
    return content[:6] + struct.pack("<HH", width, height) + content[10:]


# (file name, its bytes, part of the reason why it gives no image; READ where it gives one)
FILES: list[tuple[str, bytes, str]] = [
    ("cmyk.jpg", encoded(rgb().convert("CMYK"), "JPEG"), READ),
    ("cmyk.tif", encoded(rgb().convert("CMYK"), "TIFF"), READ),
    ("grey.jpg", encoded(rgb().convert("L"), "JPEG"), READ),
    ("progressive.jpg", jpeg(progressive=True), READ),
    ("sideways.jpg", jpeg(exif=exif(6)), READ),
    ("mirrored.png", encoded(rgb(), "PNG", exif=exif(5)), READ),
    ("orientation-99.jpg", jpeg(exif=exif(99)), READ),
    ("UPPER.JPG", jpeg(), READ),
    ("jpeg-called.png", jpeg(), READ),
    ("png-called.jpeg", whole(), READ),
    ("double.jpg.png", whole(1), READ),
    ("sixteen.png", encoded(Image.fromarray(pixels(channels=1).astype(np.uint16) * 257), "PNG"), READ),
    ("sixteen.tif", encoded(Image.fromarray(pixels(channels=1).astype(np.uint16) * 257), "TIFF"), READ),
    ("palette.png", encoded(rgb().quantize(16), "PNG"), READ),
    ("palette.gif", encoded(rgb().quantize(16), "GIF"), READ),
    ("one-bit.png", encoded(rgb().convert("1"), "PNG"), READ),
    ("alpha.png", encoded(Image.fromarray(pixels(channels=4)), "PNG"), READ),
    ("grey-alpha.png", encoded(rgb().convert("LA"), "PNG"), READ),
    ("palette-alpha.png", encoded(rgb().quantize(8), "PNG", transparency=0), READ),
    ("colour-key.png", encoded(rgb(), "PNG", transparency=(1, 2, 3)), READ),
    ("alpha.webp", encoded(Image.fromarray(pixels(channels=4)), "WEBP"), READ),
    ("animated.gif", frames("GIF"), READ),
    ("animated.webp", frames("WEBP"), READ),
    ("animated.png", frames("PNG"), READ),
    ("pages.tif", frames("TIFF"), READ),
    ("upright.bmp", encoded(rgb(), "BMP"), READ),
    ("plain.ppm", encoded(rgb(), "PPM"), READ),
    ("ascii.pgm", b"P2\n# made by hand\n2 2\n255\n0 1 2 3\n", READ),
    ("trailing.jpg", jpeg() + b"left over" * 100, READ),
    ("trailing.png", whole(2) + b"left over" * 100, READ),
    ("one-pixel.png", encoded(rgb(height=1, width=1), "PNG"), READ),
    ("thin.png", encoded(rgb(height=1, width=900), "PNG"), READ),
    ("empty.png", b"", "the file is empty"),
    ("empty.jpg", b"", "the file is empty"),
    ("half.png", whole()[: len(whole()) // 2], "truncated|broken"),
    ("half.jpg", jpeg(quality=95)[:-200], "truncated"),
    ("half.gif", frames("GIF")[:40], "truncated|not enough|unrecognized|index|known format"),
    ("header-only.png", whole()[:33], "truncated|image data|broken|read|known format|not enough"),
    ("four-bytes.jpg", b"\xff\xd8\xff\xe0", "known format"),
    ("text.png", b"this is no image", "known format"),
    ("page.jpg", b"<!doctype html><title>404</title>", "known format"),
    ("drawing.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "known format"),
    ("document.jpg", b"%PDF-1.7\n", "known format"),
    ("postscript.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "known format"),
    ("program.gif", b"\x7fELF" + bytes(200), "known format"),
    ("archive.webp", b"PK\x03\x04" + bytes(200), "known format"),
    ("zeros.png", bytes(5000), "known format"),
    ("bad-crc.png", whole().replace(b"IDAT", b"IDAX"), "."),
    ("bomb.png", png(60_000, 60_000), "48 megapixels"),
    ("bomb-1-bit.png", png(100_000, 100_000, depth=1, colour=0), "48 megapixels"),
    ("bomb.bmp", bmp_claiming(50_000, 50_000), "48 megapixels"),
    ("bomb.tif", tiff_claiming(50_000, 50_000), "48 megapixels"),
    ("bomb.gif", gif_claiming(65_535, 65_535), "48 megapixels"),
    ("text-bomb.png", png(4, 4, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 26)))), "."),
    ("float.tif", encoded(Image.fromarray(pixels(channels=1).astype(np.float32)), "TIFF"), "float pixels"),
    ("é ü 中.png", whole(3), READ),
    ("with\nnewline.png", whole(4), READ),
    ("ü" * 125 + ".png", whole(5), READ),  # 254 bytes
    ("quote'\".png", whole(6), READ),
    ("-dash.png", whole(7), READ),
]


def mutated(source: random.Random, images: list[bytes]) -> bytes:
    """One image broken in one of the ways that files break."""
    content = bytearray(source.choice(images))
    way = source.randrange(7)
    if way == 0:
        del content[source.randrange(len(content)) :]
    elif way == 1:
        for _ in range(source.randint(1, 20)):
            content[source.randrange(len(content))] = source.randrange(256)
    elif way == 2:
        other, cut = source.choice(images), source.randrange(len(content))
        content = content[:cut] + other[source.randrange(len(other)) :]
    elif way == 3:
        place = source.randrange(len(content))
        content[place : place + source.randint(1, 64)] = bytes(source.randint(1, 64))
    elif way == 4:  # the first bytes, where sizes and depths stand
        for _ in range(source.randint(1, 4)):
            content[source.randrange(min(64, len(content)))] = source.choice([0, 1, 0x7F, 0x80, 0xFF])
    elif way == 5:
        place, length = source.randrange(len(content)), source.randint(1, 200)
        content[place:place] = content[place : place + length]
    else:
        place = source.randrange(max(1, len(content) - 4))
        content[place : place + 4] = struct.pack(">I", source.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]))
    return bytes(content)


def sound() -> list[bytes]:
    """Images of every format that is read, to be broken."""
    made = [content for name, content, reason in FILES if reason == READ]
    made += [
        encoded(rgb(9, height=40, width=33), form) for form in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM")
    ]
    compressions = ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    made += [encoded(rgb(8), "TIFF", compression=name) for name in compressions]
    return made
