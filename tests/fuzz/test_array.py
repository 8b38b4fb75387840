"""The door of arrays: .npy, .npz and idx files, plain and packed, with anything changed."""

import gzip
import io
import os
import random
import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tests.fuzz.conftest import Fuzzer
from tests.fuzz.conftest import fuzzer as fuzzer  # a fixture
from tests.fuzz.sandbox import CANARY

from markovae.data.arrays import read_array_file, read_idx_folder
from markovae.data.data_config import DataConfig

GREYS = np.random.default_rng(0).integers(0, 256, (24, 6, 5), dtype=np.uint8)
LABELS = np.arange(24) % 3
SIZES = (-(2**63), -1, 0, 1, 2, 5, 6, 24, 25, 65_536, 2**31 - 1, 2**31, 2**32, 2**40, 2**63 - 1, 2**64, 10**30)
KINDS: tuple[Any, ...] = (
    *("|u1", "<u2", ">i4", "<f4", "<f8", "<f2", "<f16", "|b1", "<c8", "<U3", "|S4", "|O", "|V7", "|V0", "<M8[s]"),
    *(
        "<U2147483647",
        "|S99999999999",
        "u1,u1",
        "(2,3)u1",
        "no",
        "",
        [("a", "|O")],
        [("a", "<f4", (1 << 20,))],
        3,
        None,
    ),
)
TEXTS = (
    f"__import__('os').system('{CANARY}')",
    "{'descr': '|u1', 'fortran_order': False, 'shape': " + "(" * 4000,
    "{'descr': '|u1', 'fortran_order': False, 'shape': (" + "9" * 5000 + ",)}",
    "{'descr': '|u1', 'fortran_order': 2, 'shape': (24, 6, 5)}",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (24L, 6L, 5L)}",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (True, 720)}",
    "{'descr': '\\d', 'fortran_order': False, 'shape': (24, 6, 5)}",
    "{}",
    "",
    "\0",
)


def npy(chance: random.Random) -> bytes:
    """An array behind a header that says anything."""
    array = GREYS.astype(chance.choice(["|u1", "<u2", "<f4", "<i8", "|b1"]))
    if chance.random() < 0.1:
        array = array[:, :1, :1] * np.ones((1, 1, 5), array.dtype)
    shape: Any = array.shape
    if chance.random() < 0.4:
        shape = tuple(chance.choice([*SIZES, *array.shape]) for _ in range(chance.choice([0, 1, 3, 3, 4, 70])))
    kind: Any = array.dtype.str if chance.random() < 0.6 else chance.choice(KINDS)
    text = repr({"descr": kind, "fortran_order": chance.random() < 0.3, "shape": shape})
    if chance.random() < 0.15:
        text = chance.choice(TEXTS)
    version = chance.choice([1, 1, 2, 3, 0, 4])
    length = len(text) if chance.random() < 0.9 else chance.choice([0, 10, 9_999, 65_535])
    size = struct.pack("<H", length) if version == 1 else struct.pack("<I", chance.choice([length, length, 2**32 - 1]))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text.encode() + array.tobytes()


def npz(chance: random.Random) -> bytes:
    """An archive of such arrays, whose directory may lie."""
    buffer = io.BytesIO()
    packing = chance.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    with zipfile.ZipFile(buffer, "w", packing) as archive:
        names = chance.sample(["images", "labels", "x", "y", "../../x", "/etc/passwd", "ü" * 99, "a\nb"], 3)
        for name in names:
            good = io.BytesIO()
            np.save(good, LABELS if name in ("labels", "y") else GREYS)
            archive.writestr(f"{name}.npy", npy(chance) if chance.random() < 0.4 else good.getvalue())
        if chance.random() < 0.05:
            archive.writestr("images2.npy", bytes(1 << 24))
    content = bytearray(buffer.getvalue())
    if chance.random() < 0.4:
        start = content.index(b"PK\x01\x02") + chance.randrange(4, 46)
        content[start : start + 4] = struct.pack("<I", chance.choice([0, 1, 8, 2**31, 2**32 - 1, 2**32 - 2]))
    return bytes(content)


def idx(chance: random.Random) -> bytes:
    sizes = list(GREYS.shape)
    if chance.random() < 0.5:
        sizes = [chance.choice([0, 1, 5, 6, 24, 60_000, 2**31, 2**32 - 1]) for _ in range(chance.choice([1, 3, 4]))]
    kind = chance.choice([8, 8, 8, 9, 13, 0])
    return bytes([0, 0, kind, len(sizes)]) + b"".join(n.to_bytes(4, "big") for n in sizes) + GREYS.tobytes()


def broken(content: bytes, chance: random.Random) -> bytes:
    made = bytearray(content)
    way = chance.randrange(5)
    if way == 0:
        del made[chance.randrange(len(made)) :]
    elif way == 1:
        for _ in range(chance.randint(1, 8)):
            made[chance.randrange(len(made))] = chance.randrange(256)
    elif way == 2:
        made += bytes(chance.randint(1, 600))
    return bytes(made)


def test_an_array_is_read_or_refused(fuzzer: Fuzzer, tmp_path: Path) -> None:
    kinds = {"x.npy": npy, "x.npz": npz, "train-images-idx3-ubyte": idx, "train-images-idx3-ubyte.gz": idx}
    labels = tmp_path / "train-labels-idx1-ubyte"

    def make(chance: random.Random) -> Path:
        for old in tmp_path.iterdir():
            old.unlink()
        path = tmp_path / chance.choice(list(kinds))
        content = broken(kinds[path.name](chance), chance)
        if path.suffix == ".gz":
            content = gzip.compress(content if chance.random() < 0.9 else content + bytes(1 << 24), 1, mtime=0)
            content = content if chance.random() < 0.6 else broken(content, chance)
        if chance.random() < 0.02:
            os.mkfifo(path)
        else:
            path.write_bytes(content)
        if chance.random() < 0.3:
            labels.write_bytes(broken(bytes([0, 0, 8, 1, 0, 0, 0, 24]) + LABELS.astype(np.uint8).tobytes(), chance))
        return path

    def door(path: Path) -> None:
        config = DataConfig("x", size=8, enlarge=True)
        if "idx" in path.name and path.is_file():
            read_idx_folder(replace(config, source=str(tmp_path)))
        read_array_file(replace(config, source=str(path)))

    for name in kinds:
        path = tmp_path / name
        if path.suffix == ".npz":
            np.savez_compressed(path, images=GREYS, labels=LABELS)
        elif path.suffix == ".npy":
            np.save(path, GREYS)
        else:
            content = bytes([0, 0, 8, 3, 0, 0, 0, 24, 0, 0, 0, 6, 0, 0, 0, 5]) + GREYS.tobytes()
            path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
        door(path)
        path.unlink()
    found = fuzzer("array", door, make, writable=[tmp_path])
    assert found.accepted
    assert found.refused > found.accepted
