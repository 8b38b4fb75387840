"""The door of images: any bytes called an image, given to the data, to `edit` and as its mask."""

import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from tests.data.garbage import (
    bmp_claiming,
    chunk,
    encoded,
    frames,
    gif_claiming,
    jpeg,
    mutated,
    png,
    rgb,
    sound,
    tiff_claiming,
)
from tests.fuzz.conftest import Fuzzer
from tests.fuzz.conftest import fuzzer as fuzzer  # a fixture
from tests.fuzz.sandbox import CANARY, MEGABYTE

from markovae.data.data_config import DataConfig
from markovae.data.fitted_pictures import Picture, read_mask, read_picture
from markovae.data.folder import Failure, _decode_one
from markovae.data.image_files import FoundFile, plan, read_header
from markovae.data.image_reader import MAX_MEMORY
from markovae.errors import UserError

SIDES = (0, 1, 2, 8, 1000, 2049, 4096, 16_383, 32_768, 65_535, 2**24, 2**31 - 1, 2**32 - 1)
PROGRAMS = (
    f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%pipe%{CANARY}\nshowpage\n".encode(),
    b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 32, 40) + bytes(20) + b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    b"%PDF-1.7\n",
    b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    b"push graphic-context\nviewbox 0 0 9 9\nimage over 0,0 0,0 'https://localhost/x'\n",
    b"SIMPLE  =                    T",  # FITS
    b"\x89HDF\r\n\x1a\n" + bytes(64),
    b"\xd7\xcd\xc6\x9a" + bytes(64),  # WMF
    b"GRIB" + bytes(64),
    b"\x80\x02]q\x00.",  # a pickle
)

BOMBS = {size: zlib.compress(bytes(size), 1) for size in (0, 100, 1 << 20, 1 << 24)}


def odd_png(chance: random.Random) -> bytes:
    """Claims, and few pixels or far too many behind them; interlaced, with profiles and texts that unpack to more."""
    depth, color = chance.choice([(1, 0), (8, 0), (16, 0), (8, 2), (16, 2), (4, 3), (8, 4), (16, 6), (3, 7)])
    bomb = BOMBS[chance.choice([0, 100, 1 << 20, 1 << 24])]
    extra = chance.choice(
        [
            b"",
            chunk(b"iCCP", b"a\0\0" + bomb),
            chunk(b"zTXt", b"a\0\0" + bomb) * chance.choice([1, 100]),
            chunk(b"iTXt", b"a\0\1\0\0\0" + bomb),
            chunk(b"eXIf", b"MM\0*" + bytes(chance.choices(range(256), k=40))),
            chunk(b"acTL", struct.pack(">II", chance.choice([0, 1, 2**31]), 0)),
            chunk(b"PLTE", bytes(chance.choice([0, 3, 768, 7]))),
            chunk(b"tRNS", bytes(chance.choice([0, 1, 2, 6, 256]))),
        ]
    )
    content = png(_side(chance), _side(chance), extra, chunk(b"IDAT", bomb), depth=depth, colour=color)
    return content if chance.random() < 0.5 else content[:28] + b"\x01" + content[29:]


def odd_tiff(chance: random.Random) -> bytes:
    """Any tags, in folders that may point at one another."""
    entries = [(256, 4, 1, _side(chance)), (257, 4, 1, _side(chance)), (259, 3, 1, chance.choice([1, 5, 7, 8, 32773]))]
    entries += [(258, 3, 1, chance.choice([1, 8, 16, 32])), (262, 3, 1, chance.choice([0, 1, 2, 3, 6]))]
    entries += [(277, 3, 1, chance.choice([1, 3, 4, 0])), (278, 4, 1, _side(chance)), (279, 4, 1, _side(chance))]
    entries += [(273, 4, 1, chance.choice([8, 0, 2**32 - 1]))]
    if chance.random() < 0.5:
        entries += [(322, 4, 1, _side(chance)), (323, 4, 1, _side(chance)), (324, 4, 1, 8), (325, 4, 1, 90)]
    entries += [(chance.randrange(65536), chance.randrange(14), _side(chance), _side(chance)) for _ in range(3)]
    entries = [(tag, kind, count, value & 0xFFFFFFFF) for tag, kind, count, value in entries]
    folder = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    following = chance.choice([0, 8, 2**32 - 1, 12 + len(folder)])
    many = struct.pack("<HI", 0, 14 + len(folder)) * chance.choice([0, 1, 2000])
    return b"II*\0\x08\0\0\0" + folder + struct.pack("<I", following) + many + BOMBS[1 << 20]


def odd_webp(chance: random.Random) -> bytes:
    content = bytearray(chance.choice([frames("WEBP"), encoded(rgb(), "WEBP"), encoded(rgb(), "WEBP", lossless=True)]))
    content[20:30] = bytes(chance.choice([0, 1, 0x2F, 0x7F, 0xFF, old]) for old in content[20:30])
    return bytes(content)


def odd_jpeg(chance: random.Random) -> bytes:
    """Sizes of its own choosing, and one scan over and over."""
    content = bytearray(jpeg(progressive=True))
    start = content.index(b"\xff\xc2")
    side = chance.choice([8, 100, 4000, 65_535])
    content[start + 5 : start + 9] = struct.pack(">HH", side, chance.choice([8, 300, 4000, 65_535]))
    scan = bytes(content[content.rindex(b"\xff\xda") : -2])
    return bytes(content[:-2]) + scan * chance.choice([0, 1, 20, 3000]) + b"\xff\xd9"


def claiming(chance: random.Random) -> bytes:
    made = chance.choice([bmp_claiming, tiff_claiming, gif_claiming])
    limit = 0xFFFF if made is gif_claiming else 0x7FFFFFFF
    return made(min(_side(chance), limit), min(_side(chance), limit))


def _side(chance: random.Random) -> int:
    return chance.choice(SIDES) if chance.random() < 0.6 else chance.randrange(1, 3000)


def test_an_image_is_read_or_refused(fuzzer: Fuzzer, tmp_path: Path) -> None:
    images = sound()
    ways: list[Callable[[random.Random], bytes]] = [
        lambda chance: mutated(chance, images),
        lambda chance: mutated(chance, [mutated(chance, images) or b"x"]),
        odd_png,
        odd_tiff,
        odd_webp,
        odd_jpeg,
        claiming,
        lambda chance: chance.choice(PROGRAMS),
    ]

    def make(chance: random.Random) -> Path:
        path = tmp_path / "photo.png"
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        kind = chance.randrange(40)
        if kind == 0:
            os.mkfifo(path)
        elif kind == 1:
            path.mkdir()
        elif kind == 2:
            path.symlink_to("photo.png")
        else:
            path.write_bytes(chance.choices(ways, weights=[4, 2, 2, 2, 1, 1, 1, 1])[0](chance))
        return path

    def door(path: Path) -> None:
        """Three readings, of a second each."""
        header = read_header(tmp_path, FoundFile(path.name, 1))
        size = (3, header.height, header.width)
        blank = Picture(np.zeros(size, np.uint8), "x")
        for read in (lambda: read_picture(path, size), lambda: read_mask(path, blank)):
            try:
                read()
            except UserError as error:
                if header.problem:
                    raise
                said = str(error)  # the error itself would keep the decoded image
            else:
                said = ""
        if header.problem:
            raise UserError(header.problem)
        chosen = plan({header: 1}, DataConfig("x", size=16))
        result = _decode_one(tmp_path, chosen, header)
        if isinstance(result, Failure):
            raise UserError(result.reason)
        if said:
            raise UserError(said)

    for number, content in enumerate(images):
        good = tmp_path / f"good-{number}.png"
        good.write_bytes(content)
        door_of(door, good)
    Image.init()
    found = fuzzer("image", door, make, writable=[tmp_path], memory=MAX_MEMORY + 64 * MEGABYTE, seconds=3)
    assert found.accepted
    assert found.refused > found.accepted // 4


def door_of(door: Callable[[Path], None], path: Path) -> None:
    """The door with good input, whose refusals (transparency, say) are no matter here."""
    try:
        door(path)
    except UserError:
        return
