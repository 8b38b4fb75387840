"""Arrays in .npy and .npz files: headers are checked against the bytes present before anything is allocated."""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from markovae.system.regular import open_regular

Array = np.ndarray[Any, np.dtype[Any]]

MAX_HEADER = 10_000  # bytes
CHUNK = 2**20
# Matched, not evaluated: Python that somebody wrote is not even parsed.
FIELDS = {
    "descr": re.compile(r"""['"]descr['"]\s*:\s*['"]([^'"]*)['"]"""),
    "fortran_order": re.compile(r"""['"]fortran_order['"]\s*:\s*(True|False)"""),
    "shape": re.compile(r"""['"]shape['"]\s*:\s*\(([\d\sL,]{0,999})\)"""),
}
NUMBERS = re.compile(r"[<>|=]?[biufU]\d{1,4}")
# Unpacked bytes that are believed of packed ones: as many times, or else as many altogether.
MAX_RATIO, MAX_UNPACKED = 100, 2**30
PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True)
class _Header:
    """What a .npy file says of its array, and the bytes that this takes."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    length: int

    @property
    def size(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_npy(path: Path, mapped_above: int) -> Array:
    """The array of a .npy file, memory-mapped where the file has more than `mapped_above` bytes.

    Raises: ValueError, OSError and what numpy raises, with the reason, for anything but a whole array of numbers.
    """
    with open_regular(path) as file:
        held = file.seek(0, io.SEEK_END)
        file.seek(0)
        header = _header(file)
        _match(header, held)
        if held > mapped_above:
            handle: Any = file  # numpy's types ask for a writable one, which it does not need
            return np.memmap(handle, header.dtype, "r", header.length, header.shape, "F" if header.fortran else "C")
        return _filled(header, read_exactly(file, header.size))


def npz_sizes(path: Path) -> dict[str, int]:
    """The names of the arrays in a .npz file, with the bytes of each. Raises: zipfile.BadZipFile, OSError."""
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        return {info.filename.removesuffix(".npy"): info.file_size for info in archive.infolist()}


def read_npz(source: Path | bytes, names: Collection[str] | None = None) -> dict[str, Array]:
    """The arrays of these names, or all, of a .npz file, or of these bytes of one.

    Raises: as `read_npy`, and zipfile.BadZipFile.
    """
    content = io.BytesIO(source) if isinstance(source, bytes) else open_regular(source)
    with content as file, zipfile.ZipFile(file) as archive:
        packed = file.seek(0, io.SEEK_END)
        named = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        chosen = {name: info for name, info in named.items() if names is None or name in names}
        require_plausible(sum(info.file_size for info in chosen.values()), packed)
        return {name: _member(archive, info) for name, info in chosen.items()}


def require_plausible(unpacked: int, packed: int) -> None:
    """Refuse what claims to unpack to far more than a compressed array does. Raises: ValueError."""
    if unpacked > max(MAX_UNPACKED, MAX_RATIO * packed):
        raise ValueError(
            f"{packed:,} bytes that unpack to {unpacked:,}, more than {MAX_RATIO} times as many: save the array as .npy"
        )


def read_exactly(stream: Any, size: int) -> bytearray:
    """`size` bytes of a stream, or as many as there are: what is allocated grows with what arrives."""
    content = bytearray()
    while len(content) < size and (block := stream.read(min(CHUNK, size - len(content)))):
        content += block
    return content


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    if info.compress_type not in PACKINGS:
        raise ValueError(f"{info.filename!r} is packed in another way than numpy packs: save it by numpy.savez")
    with archive.open(info) as stream:
        header = _header(stream)
        _match(header, info.file_size)
        return _filled(header, read_exactly(stream, header.size))


def _header(stream: Any) -> _Header:
    start = stream.read(8)
    if start[:4] == b"PK\x03\x04":
        raise ValueError("it is an archive: call it .npz")
    if len(start) < 8 or start[:6] != b"\x93NUMPY" or start[6] not in (1, 2, 3):
        raise ValueError("it does not begin with the .npy magic")
    width = 2 if start[6] == 1 else 4
    length = stream.read(width)
    number = int.from_bytes(length, "little")
    if number > MAX_HEADER:
        raise ValueError(f"its header claims {number:,} bytes, at most {MAX_HEADER:,} are read")
    text = stream.read(number).decode("latin-1")
    fields = {name: pattern.search(text) for name, pattern in FIELDS.items()}
    kind, order, sizes = (found and found[1] for found in fields.values())
    if kind is None or order is None or sizes is None:
        raise ValueError("its header does not describe an array of numbers")
    if not NUMBERS.fullmatch(kind):
        raise ValueError(f"it holds elements of type {kind[:40]!r}: save numbers")
    shape = tuple(int(size) for size in re.findall(r"\d+", sizes))
    return _Header(shape, np.dtype(kind), order == "True", 8 + width + number)


def _match(header: _Header, held: int) -> None:
    if header.length + header.size != held:
        raise ValueError(
            f"its header claims {header.size:,} bytes of numbers and {max(0, held - header.length):,} are there"
        )


def _filled(header: _Header, content: bytearray) -> Array:
    if len(content) != header.size:
        raise ValueError(f"{header.size:,} bytes of numbers are claimed and {len(content):,} are there")
    return np.frombuffer(content, header.dtype).reshape(header.shape, order="F" if header.fortran else "C")
