"""The door of tars: headers, extensions, names, classes and captions as nobody's tool writes them."""

import io
import random
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.fuzz.conftest import Fuzzer
from tests.fuzz.conftest import fuzzer as fuzzer  # a fixture
from tests.fuzz.sandbox import CANARY

from markovae.data.data_config import DataConfig
from markovae.data.loading import read_source, require_readable, splits_of

BLOCK = 512
NAMES = (
    "a",
    "x/y",
    "../../up",
    "/etc/passwd",
    "/proc/self/environ",
    "\x1b[2J",
    "ü" * 90,
    "a\\b",
    ".",
    "",
    "-rf",
    CANARY,
)
ENDINGS = (".png", ".cls", ".txt", ".jpg", ".rgb.png", "", ".png.png", ".json", ".PNG", ".cls.txt")
KINDS = tuple(b"01234567xgLKSXDVN\0A\xff")
LABELS = (
    b"1",
    b"2",
    b"9" * 60_000,
    b"9" * 900,
    b"-1",
    b"1e999",
    b"\0",
    b"\xff",
    b"a\0b",
    "٣".encode(),
    b"\n\n",
    b"cat\ndog",
)


def picture(chance: random.Random) -> bytes:
    pixels = np.frombuffer(chance.randbytes(48), dtype=np.uint8).reshape(4, 4, 3)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def header(name: bytes, size: bytes, kind: bytes, prefix: bytes = b"") -> bytes:
    """A block whose sum is right, whatever it says."""
    block = bytearray(BLOCK)
    block[: len(name[:100])] = name[:100]
    block[100:108] = block[108:116] = block[116:124] = b"0000644\0"
    block[124:136] = size.ljust(12, b"\0")[:12]
    block[136:148] = b"00000000000\0"
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    block[345 : 345 + len(prefix[:155])] = prefix[:155]
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % BLOCK)


def octal(size: int) -> bytes:
    return b"%011o\0" % size


def odd_size(chance: random.Random) -> bytes:
    base256 = b"\x80" + chance.choice([2**33, 2**62, 2**63 - 1, 2**63, 2**80]).to_bytes(11, "big")
    negative = b"\xff" * 3 + (-chance.choice([1, 512, 1024, 2**40]) % 2**64).to_bytes(9, "big")
    return chance.choice([base256, negative, octal(2**33 - 1), octal(512), b"", b"xyz", b"00000000008\0", b" " * 12])


def extension(chance: random.Random) -> bytes:
    """A header of PAX or GNU before the next member, mostly with a body that is as long as it says."""
    kind = chance.choice([b"x", b"g", b"X", b"L", b"K"])
    size = chance.choice([100, 3000, 60_000, 65_536, 70_000, 500_000])
    body = chance.choice(
        [
            b"1" * size,
            b"2 " * (size // 2),
            b"11 a=12345\n" * (size // 11),
            b"12 size=999\n",
            b"30 size=9999999999999999999999\n",
            b"14 size=-1024\n",
            b"1 hdrcharset=" * (size // 13),
            b"21 hdrcharset=BINARY\n",
            b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n",
            b"31 GNU.sparse.map=0,1,2,3,4,5,6\n23 GNU.sparse.size=10\n",
            b"27 path=../../etc/passwd\nx\n",
            b"0 a=b\n",
            b"99999 a=b\n",
            b"9" * 10_000 + b" a=b\n",
            CANARY.encode() * 3,
            b"a" * size,
            chance.randbytes(3000),
        ]
    )
    said = octal(len(body)) if chance.random() < 0.8 else odd_size(chance)
    return header(b"././@LongLink", said, kind) + padded(body)


def member(chance: random.Random, name: str, content: bytes) -> bytes:
    kind = b"0" if chance.random() < 0.8 else bytes([chance.choice(KINDS)])
    size = octal(len(content)) if chance.random() < 0.9 else odd_size(chance)
    return header(name.encode(), size, kind, b"" if chance.random() < 0.9 else chance.randbytes(20)) + padded(content)


def hostile(chance: random.Random) -> bytes:
    made = bytearray()
    if sound := chance.random() < 0.7:  # then some images stand before the damage
        for number in range(4):
            made += header(b"sound%d.png" % number, octal(len(content := picture(chance))), b"0") + padded(content)
    for number in range(chance.randrange(1, 5)):
        for _ in range(chance.choice([0, 0, 0, 1, 1, 2, 40])):
            made += extension(chance)
        name = f"{number}" if chance.random() < 0.6 else chance.choice(NAMES)
        made += member(chance, name + (".png" if chance.random() < 0.8 else chance.choice(ENDINGS)), picture(chance))
        if chance.random() < 0.5:
            made += member(chance, name + ".cls", chance.choice(LABELS[:2] if chance.random() < 0.5 else LABELS))
        if chance.random() < 0.3:
            made += member(chance, name + ".txt", chance.choice([b"a cat", b"\xff", b"x" * 70_000, b"\0", b"\x1b[2J"]))
    made += bytes(2 * BLOCK)
    change = chance.randrange(6)
    if change == 0:
        del made[chance.randrange(len(made)) :]
    elif change == 1 and not sound:
        for _ in range(chance.randrange(1, 30)):
            made[chance.randrange(len(made))] = chance.randrange(256)
    return bytes(made)


def test_a_tar_is_read_or_refused(fuzzer: Fuzzer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case, cache = tmp_path / "case.tar", tmp_path / "cache"
    monkeypatch.setenv("MARKOVAE_CACHE", str(cache))
    monkeypatch.setattr("os.fsync", lambda handle: None)  # which most of the time goes to, and no tar has a say in

    def make(chance: random.Random) -> Path:
        shutil.rmtree(cache, ignore_errors=True)
        case.write_bytes(hostile(chance))
        return case

    def door(path: Path) -> object:
        config = DataConfig(str(path), bad_fraction=1)
        reading = read_source(config)
        require_readable(reading, config)
        splits = splits_of(reading)
        splits.record()
        return splits.train.images[:2]

    with tarfile.open(case, "w") as tar:
        for number in range(6):
            for name, content in ((f"{number}.png", picture(random.Random(number))), (f"{number}.cls", b"1")):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    door(case)
    found = fuzzer("tar", door, make, writable=[tmp_path])
    assert min(found.accepted, found.refused) > 0.1 * (found.accepted + found.refused)
