"""The header of a safetensors file, checked by arithmetic before a library, or a network, is made of what it says."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markovae.strict_json import parse_object, shown

MAX_HEADER = 4 << 20  # 40,000 tensors
MAX_DIMENSIONS = 16
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # numbers with a point alone
WHOLE_SIZES = {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class TensorEntry:
    """What a header says of one tensor.

    Args:
        dtype: F64, F32, F16 or BF16, or one of whole numbers.
        shape: of it.
        begin, end: of its bytes, counted from the start of the file.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(start: bytes, size: int, sizes: Mapping[str, int] = SIZES) -> dict[str, TensorEntry]:
    """Every tensor of a file by name; together they fill it exactly once.

    Args:
        start: of the file, its whole header at least.
        size: of the file in bytes.
        sizes: bytes of a number of each type that is allowed.
    Raises:
        ValueError: for anything else, in one clause ("holds no tensors: …").
    """
    length = int.from_bytes(start[:8], "little")
    if size < 8 or not 0 < length <= min(MAX_HEADER, size - 8, len(start) - 8):
        raise ValueError("holds no tensors: its first bytes tell of no header")
    header = parse_object(start[8 : 8 + length])
    header.pop("__metadata__", None)
    entries = {name: _entry(name, entry, 8 + length, sizes) for name, entry in header.items()}
    place = 8 + length
    for begin, end in sorted((entry.begin, entry.end) for entry in entries.values()):
        if begin != place:
            raise ValueError(f"holds no tensors: byte {place:,} belongs to none of them, or to two")
        place = end
    if place != size:
        raise ValueError(f"holds no tensors: they fill {place:,} of {size:,} bytes")
    return entries


def read_file_header(path: Path, sizes: Mapping[str, int] = SIZES) -> dict[str, TensorEntry]:
    """`read_header` of a file, of which no more is read.

    Raises:
        ValueError: as `read_header`.
        OSError: where it cannot be read.
    """
    with path.open("rb") as file:
        size, start = os.fstat(file.fileno()).st_size, file.read(8)
        return read_header(start + file.read(min(int.from_bytes(start, "little"), MAX_HEADER)), size, sizes)


def compare_shapes(
    wanted: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]], *, what: str = "weight"
) -> None:
    """Every tensor and no other, each of its shape.

    Args:
        wanted: of a model's tensors, by name.
        given: of what is to be taken for them.
        what: they are, in the error.
    Raises:
        ValueError: naming the first that is missing, left over, or of another shape.
    """
    for name in sorted(wanted.keys() ^ given.keys()):
        raise ValueError(f"{what} {shown(name)} is {'missing' if name in wanted else 'none of this model'}")
    for name, shape in wanted.items():
        if given[name] != shape:
            raise ValueError(f"{what} {shown(name)} has shape {given[name]} where this model takes {shape}")


def _entry(name: str, entry: Any, origin: int, sizes: Mapping[str, int]) -> TensorEntry:
    if isinstance(entry, dict) and set(entry) == {"dtype", "shape", "data_offsets"}:
        dtype, shape, offsets = str(entry["dtype"]), entry["shape"], entry["data_offsets"]
        if (
            dtype in sizes
            and _counts(shape)
            and len(shape) <= MAX_DIMENSIONS
            and _counts(offsets)
            and len(offsets) == 2
        ):
            begin, end = offsets
            if end - begin == math.prod(shape) * sizes[dtype]:
                return TensorEntry(dtype, tuple(shape), origin + begin, origin + end)
    raise ValueError(f"holds no tensors: what it says of {shown(name)} makes none")


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 48 for n in value)
