"""The door of compressed files: a good one with anything changed, behind checksums that are right."""

import hashlib
import json
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tests.compression.conftest import gaussian as gaussian  # a fixture
from tests.compression.conftest import pictures
from tests.fuzz.conftest import Fuzzer
from tests.fuzz.conftest import fuzzer as fuzzer  # a fixture

from markovae.compression.codec import compress, decompress, describe
from markovae.compression.mvz_format import FORMAT, RECORD, START, USUAL, inflated, open_mvz, read_mvz
from markovae.diffusion.model import Diffusion

NUMBERS = (
    -(2**63),
    -1,
    0,
    1,
    2,
    3,
    4,
    5,
    255,
    256,
    65_535,
    2**31,
    2**40,
    2**63 - 1,
    10**30,
    1.5,
    True,
    None,
    "1",
    [],
    {},
)
BATCHES = ("", "AA==", "A" * 1000, "=", "\ud800", "/v8=" * 4)


def anything(chance: random.Random, value: Any) -> Any:
    """Another value of about that kind, or of none."""
    if isinstance(value, list) and chance.random() < 0.7:
        changed = list(value)
        for _ in range(chance.randrange(1, 3)):
            if changed:
                changed[chance.randrange(len(changed))] = chance.choice(NUMBERS)
        return changed * chance.choice([0, 1, 1, 1, 2, 1000])
    if isinstance(value, str) and chance.random() < 0.7:
        return chance.choice([*BATCHES, value[::-1], value.upper(), value + "0", value[:-1], "ab" * 32])
    return chance.choice(NUMBERS)


def header(chance: random.Random, packed: bytes) -> bytes:
    said = json.loads(inflated(packed, 1 << 19))
    for _ in range(chance.choice([0, 1, 1, 1, 2, 3])):
        name = chance.choice([*said, "other"])
        if chance.random() < 0.1:
            said.pop(name, None)
        else:
            said[name] = anything(chance, said.get(name))
    text = json.dumps(said).encode()
    if chance.random() < 0.1:
        text = chance.choice([b"[" * 5000, b"{}", b"null", b"\xff" * 99, b'{"a":' * 99, text * 2, bytes(1 << 22)])
    return deflated(text) + (b"x" if chance.random() < 0.05 else b"")


def deflated(text: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS, zdict=USUAL)
    return packer.compress(text) + packer.flush()


def record(chance: random.Random, content: bytes) -> tuple[bytes, bytes]:
    """(how a record begins, and the rest), but for the checksum between them."""
    side_bytes, _, pixels, _ = RECORD.unpack_from(content)
    side, words = content[RECORD.size : RECORD.size + side_bytes], bytearray(content[RECORD.size + side_bytes :])
    if chance.random() < 0.5:
        said = json.loads(inflated(side, 1 << 22)) if side else {}
        name = chance.choice([*said, "plain", "labels", "captions", "names", "condition", "other"])
        said[name] = anything(chance, said.get(name, []))
        side = json.dumps(said).encode()
        side = deflated(side) if chance.random() < 0.9 else side
    way = chance.random()
    if way < 0.4 and words:
        for _ in range(chance.randrange(1, 9)):
            words[chance.randrange(len(words))] = chance.randrange(256)
    elif way < 0.5:
        words = bytearray(len(words)) if chance.random() < 0.5 else bytearray(b"\xff" * len(words))
    elif way < 0.6:
        words = words[: 4 * chance.randrange(len(words) // 4 + 1)]
    elif way < 0.65:
        words += bytes(4 * chance.randrange(9))
    sizes = chance.choice([(len(side), len(words))] * 8 + [(2**32 - 1, 2**32 - 1), (0, len(side) + len(words))])
    return RECORD.pack(*sizes, pixels, bytes(8))[:-8], bytes(side) + bytes(words)


def case(chance: random.Random, files: list[bytes]) -> bytes:
    """A file of another header, other records, or other bytes."""
    good = chance.choice(files)
    if chance.random() < 0.2:
        made = bytearray(good)
        for _ in range(chance.randrange(1, 5)):
            made[chance.randrange(len(made))] = chance.randrange(256)
        return bytes(made)[: chance.choice([len(made), len(made), chance.randrange(len(made))])]
    file = read_mvz(good)
    packed = good[START.size : file.edges[0]]
    packed = header(chance, packed) if chance.random() < 0.6 else packed
    records = [good[a:b] for a, b in zip(file.edges, file.edges[1:], strict=False)]
    head, check = RECORD.size - 8, hashlib.sha256(packed).digest()[:16]
    made = [record(chance, part) if chance.random() < 0.5 else (part[:head], part[RECORD.size :]) for part in records]
    made *= chance.choice([0, 1, 1, 1, 1, 1, 2])
    chance.shuffle(made)
    start = struct.pack("<3sBI", good[:3], FORMAT, chance.choice([len(packed)] * 9 + [2**32 - 1]))
    parts = []
    for number, (begin, rest) in enumerate(made):
        mark = hashlib.sha256(check + number.to_bytes(8, "little") + begin + rest).digest()[:8]
        parts.append(begin + mark + rest)
    return start + check + packed + b"".join(parts)


def test_a_compressed_file_is_decoded_to_its_pixels_or_refused(
    fuzzer: Fuzzer, gaussian: Callable[..., Diffusion], tmp_path: Path
) -> None:
    model, images = gaussian(levels=3), pictures(6)
    files = [
        compress(model, images, levels=3, group=3, names=list("abcdef")),
        compress(model, images, levels=3, batch=2, portable=True, fit=pictures(50, seed=1)),
        compress(model, images[:2], levels=3, progressive=True),
    ]
    hashes = {
        hashlib.sha256(part.tobytes()).digest() for part in (images, images[:3], images[3:], images[:1], images[1:2])
    }
    path = tmp_path / "case.mvz"

    def make(chance: random.Random) -> Path:
        path.write_bytes(case(chance, files))
        return path

    def door(found: Path) -> None:
        file = open_mvz(found)
        describe(file)
        count = file.header.num_groups
        for number in range(count):  # a group that decodes is one of those that were written
            group = decompress(model, file, groups=[number])
            assert hashlib.sha256(np.ascontiguousarray(group.astype(np.uint8)).tobytes()).digest() in hashes

    for good in files:
        path.write_bytes(good)
        door(path)
    found = fuzzer("compressed file", door, make, readable=[tmp_path])
    assert found.refused > found.accepted > 0
