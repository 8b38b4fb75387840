"""Tensors of a bundle: safetensors whose header is checked by arithmetic before a library sees the bytes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from markovae.checkpoint.manifest import CheckpointError, parse_json

MAX_HEADER = 16 << 20
MAX_DIMENSIONS = 16
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # a bundle holds numbers with a point alone


def shapes_of(content: bytes, path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of a safetensors file.

    Raises:
        CheckpointError: where the header is none, or its tensors do not fill the file exactly once.
    """
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or not 0 < length <= min(MAX_HEADER, len(content) - 8):
        raise CheckpointError(f"{path} holds no tensors: its first bytes tell of no header")
    header = parse_json(content[8 : 8 + length], path)
    header.pop("__metadata__", None)
    pieces = []
    shapes = {}
    for name, entry in header.items():
        shape, begin, end = _entry(name, entry, path)
        shapes[name] = shape
        pieces.append((begin, end))
    place = 0
    for begin, end in sorted(pieces):
        if begin != place:
            raise CheckpointError(f"{path} holds no tensors: byte {place:,} belongs to none of them, or to two")
        place = end
    if place != len(content) - 8 - length:
        raise CheckpointError(f"{path} holds no tensors: they fill {place:,} of {len(content) - 8 - length:,} bytes")
    return shapes


def read_tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, every number finite.

    Raises:
        CheckpointError: for anything else.
    """
    shapes_of(content, path)
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(content)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} holds no tensors: {error}") from None
    for name, value in tensors.items():
        if not bool(value.isfinite().all()):
            raise CheckpointError(f"{path} is of no use: {name} is not finite")
    return tensors


def _entry(name: str, entry: Any, path: Path) -> tuple[tuple[int, ...], int, int]:
    """(shape, first byte, byte after the last) of a tensor."""
    if isinstance(entry, dict) and set(entry) == {"dtype", "shape", "data_offsets"}:
        shape, offsets, size = entry["shape"], entry["data_offsets"], SIZES.get(str(entry["dtype"]))
        if size and _counts(shape) and len(shape) <= MAX_DIMENSIONS and _counts(offsets) and len(offsets) == 2:
            begin, end = offsets
            if end - begin == math.prod(shape) * size:
                return tuple(shape), begin, end
    raise CheckpointError(f"{path} holds no tensors: what it says of {name[:80]!r} makes none")


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 48 for n in value)
