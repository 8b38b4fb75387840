"""Bundles broken in the ways that disks, people and enemies break them."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import random
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

MEGABYTE = 1 << 20


def mutated(content: bytes, other: bytes, chance: random.Random) -> tuple[str, bytes]:
    """(how, `content` broken in one way); `other` is the file of that name in another run."""
    while True:
        way = chance.choice((truncated, flipped, spliced, zeroed, extended, shuffled, swapped))
        made = way(content, other, chance)
        if made != content:
            return way.__name__, made


def truncated(content: bytes, other: bytes, chance: random.Random) -> bytes:
    return content[: chance.choice((0, 1, 8, len(content) - 1, chance.randrange(len(content))))]


def flipped(content: bytes, other: bytes, chance: random.Random) -> bytes:
    made = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 16))):
        made[chance.randrange(len(made))] ^= 1 << chance.randrange(8)
    return bytes(made)


def spliced(content: bytes, other: bytes, chance: random.Random) -> bytes:
    cut = chance.randrange(len(content))
    return content[:cut] + other[cut:]


def zeroed(content: bytes, other: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(content))
    length = min(chance.choice((1, 64, 512, 4096)), len(content) - start)
    return content[:start] + bytes(length) + content[start + length :]


def extended(content: bytes, other: bytes, chance: random.Random) -> bytes:
    return content + chance.randbytes(chance.choice((1, 8, 4096)))


def shuffled(content: bytes, other: bytes, chance: random.Random) -> bytes:
    cut = chance.randrange(len(content))
    return content[cut:] + content[:cut]


def swapped(content: bytes, other: bytes, chance: random.Random) -> bytes:
    return other


@dataclass
class Touch:
    """Unpickled, it makes the file `marker`: proof that something was executed."""

    marker: Path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.marker,)


def hostile(marker: Path) -> Iterator[tuple[str, bytes]]:
    """(what, bytes): what runs code when it is believed, and what grows."""
    yield from pickles(marker)
    yield from bombs()


def pickles(marker: Path) -> Iterator[tuple[str, bytes]]:
    """(what, bytes): pickles that run code when read, in every wrapping torch and numpy know."""
    trap = Touch(marker)
    for protocol in range(6):
        yield f"pickle {protocol}", pickle.dumps(trap, protocol)
        yield f"state dict {protocol}", pickle.dumps({"weight": np.zeros(3), "stem": trap}, protocol)
    command = b"touch " + str(marker).encode()
    yield "opcode global", b"cposix\nsystem\n(V" + command + b"\ntR."
    yield "opcode inst", b"(V" + command + b"\niposix\nsystem\n."
    yield "opcode obj", b"(cposix\nsystem\nV" + command + b"\no."
    size = struct.pack("<I", len(command))
    yield "opcode stack", b"\x80\x04\x8c\x05posix\x8c\x06system\x93X" + size + command + b"\x85R."
    for legacy in (False, True):
        buffer = io.BytesIO()
        torch.save({"model": trap}, buffer, _use_new_zipfile_serialization=not legacy)
        yield f"torch.save, legacy={legacy}", buffer.getvalue()
    buffer = io.BytesIO()
    np.save(buffer, np.array([trap], dtype=object), allow_pickle=True)
    yield "npy of objects", buffer.getvalue()
    buffer = io.BytesIO()
    np.savez(buffer, arr_0=np.array([trap], dtype=object))
    yield "npz of objects", buffer.getvalue()
    yield "tar", _tar({"pickle": pickle.dumps(trap), "tensors": pickle.dumps(trap), "../../escaped": b"x"})
    yield "zip", _zip({"archive/data.pkl": pickle.dumps(trap), "../../escaped": b"x"})
    yield "pickle in a header", _headed(pickle.dumps(trap, 0))
    yield "yaml", b"!!python/object/apply:os.system ['" + command + b"']\n"
    yield "gzip", gzip.compress(pickle.dumps(trap), mtime=0)


@cache
def bombs() -> list[tuple[str, bytes]]:
    """(what, bytes): small files that grow when they are believed."""
    return list(_bombs())


def _bombs() -> Iterator[tuple[str, bytes]]:
    zeros = bytes(128 * MEGABYTE)
    flat = _zip({"archive/data/0": zeros})
    yield "zip bomb", flat
    yield "zip of zip bombs", _zip({f"{number}.zip": flat for number in range(16)})
    yield "zip of many", _zip({f"archive/data/{number}": b"" for number in range(5000)})
    yield "gzip bomb", gzip.compress(zeros, 1, mtime=0)
    yield "brackets", b"[" * 60_000
    yield "braces", b'{"a":' * 10_000
    yield "nested toml", b"a = " + b"[" * 60_000
    yield "dotted toml", b".".join([b"a"] * 30_000) + b" = 1"
    dotted = b".".join([b"a"] * 31)
    yield "dotted toml of the largest size", dotted.join([b"[", b"]\n", *[b".b%d = 1\n" % k for k in range(5_400)]])
    yield "inline toml of the largest size", b"a = " + b"{a=" * 130_000
    yield "inline toml", b"a = " + b"{a=" * 20_000
    yield "long number", b'{"format": ' + b"9" * 60_000 + b"}"
    yield "exponent", b'{"format": 1e999999999, "step": 1e308}'
    yield "infinite", b'{"format": Infinity, "files": NaN}'
    yield "keys", json.dumps({str(number): number for number in range(6000)}).encode()
    yield "huge header", struct.pack("<Q", 1 << 62) + b"{}"
    yield "huge tensor", _headed(b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}')
    yield (
        "empty tensors",
        _headed(
            json.dumps(
                {f"w{i}": {"dtype": "F32", "shape": [0, 1 << 40], "data_offsets": [0, 0]} for i in range(2000)}
            ).encode()
        ),
    )
    yield (
        "many dimensions",
        _headed(json.dumps({"a": {"dtype": "F32", "shape": [1] * 10_000, "data_offsets": [0, 4]}}).encode(), bytes(4)),
    )


def _headed(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def _zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
