"""Tensors of a bundle: safetensors whose header and numbers are checked before a library sees the bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from markovae.checkpoints.manifest import CheckpointError
from markovae.system.tensor_headers import SIZES, TensorEntry, read_header

# The bits of an exponent that all are one in NaN and in infinities, and in no other number.
_EXPONENT = {"F64": 0x7FF0 << 48, "F32": 0x7F80 << 16, "F16": 0x7C00, "BF16": 0x7F80}
_BLOCK = 1 << 20  # numbers looked at at once


def entries_of(content: bytes, path: Path) -> dict[str, TensorEntry]:
    """What the header of a safetensors file says of its tensors.

    Raises:
        CheckpointError: where the header is not valid, or its tensors do not fill the file exactly once.
    """
    try:
        return read_header(content, len(content))
    except ValueError as error:
        raise CheckpointError(f"{path} {error}") from None


def require_finite(content: bytes, path: Path) -> None:
    """Every number of a safetensors file is one; nothing is copied.

    Raises:
        CheckpointError: naming the first tensor that holds NaN or an infinity.
    """
    for name, entry in entries_of(content, path).items():
        mask, kind = _EXPONENT[entry.dtype], np.dtype(f"<u{SIZES[entry.dtype]}")
        numbers = np.frombuffer(content, kind, (entry.end - entry.begin) // kind.itemsize, entry.begin)
        for start in range(0, len(numbers), _BLOCK):
            if ((numbers[start : start + _BLOCK] & kind.type(mask)) == mask).any():
                raise CheckpointError(f"{path} is of no use: {name} is not finite")


def read_tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, every number finite.

    Raises:
        CheckpointError: for anything else.
    """
    require_finite(content, path)
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(content)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} holds no tensors: {error}") from None
    return tensors
