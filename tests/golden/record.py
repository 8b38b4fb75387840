"""Exact values that JSON can hold, and how two of them differ."""

import hashlib
import json
import math
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch

# Times, paths, versions, and the digests and sizes of files, whose format may change while what they hold does not.
LEFT_OUT = frozenset(
    {
        *("seconds", "images_per_second", "training_seconds", "path", "out", "saved", "file", "source", "name"),
        *("markovae", "device", "threads", "digest", "checkpoint", "encoder", "meanings", "notes", "warning"),
        *("schema_version", "config", "run", "_diffusers_version"),
    }
)
LONG = 12  # numbers in a list, above which it is kept as a hash
FIRST = 4  # values of an array that are kept to tell how far another one is off
FLOAT = re.compile(r"-?0x[01]\.[0-9a-f]+p[+-]\d+|nan|-?inf")
KERNELS = re.compile(r"avx\w*|fma|sse4\w*|amx\w*|bmi\d|f16c|asimd\w*|sve\w*|bf16|i8mm")


def packed(value: Any) -> Any:
    """A value as JSON: floats in hexadecimal, arrays as their SHA-256 and a few numbers, LEFT_OUT left out."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, torch.Tensor):
        return packed_array(value.detach().cpu().numpy())
    if isinstance(value, np.ndarray):
        return packed_array(value)
    if isinstance(value, Mapping):
        return {str(key): packed(item) for key, item in value.items() if key not in LEFT_OUT}
    if isinstance(value, list | tuple):
        numbers = all(isinstance(item, int | float) for item in value)
        if numbers and len(value) > LONG:
            return packed_array(np.array(value))
        return [packed(item) for item in value]
    if isinstance(value, str) and len(value) > 100:
        return hashlib.sha256(value.encode()).hexdigest()
    return value


def packed_array(array: np.ndarray) -> dict[str, Any]:
    """SHA-256 of the bytes, little-endian in C order, with shape, type, mean and the first values."""
    wire = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    found = {
        "sha256": hashlib.sha256(wire.tobytes()).hexdigest(),
        "shape": list(array.shape),
        "dtype": str(array.dtype),
    }
    if array.dtype.kind in "iufb" and array.size:
        found["mean"] = float(array.mean(dtype=np.float64)).hex()
        found["first"] = [float(x).hex() for x in array.ravel()[:: max(1, array.size // FIRST)][:FIRST]]
    return found


def packed_weights(weights: Sequence[torch.Tensor]) -> dict[str, Any]:
    """The tensors of a network, whatever they are called and however they are ordered."""
    arrays = [weight.detach().cpu().numpy() for weight in weights]
    each = sorted(f"{array.shape} {array.dtype} {hashlib.sha256(array.tobytes()).hexdigest()}" for array in arrays)
    return {
        "sha256": hashlib.sha256("\n".join(each).encode()).hexdigest(),
        "tensors": len(arrays),
        "numbers": sum(array.size for array in arrays),
        "absolute": math.fsum(float(np.abs(array).sum(dtype=np.float64)) for array in arrays).hex(),
    }


def machine() -> dict[str, str]:
    """What decides the last bits: where all of it is equal, equal code gives equal bits."""
    said = Path("/proc/cpuinfo").read_text().split("\n\n")[0] if Path("/proc/cpuinfo").exists() else ""
    facts = dict(re.split(r"\s*:\s*", line, maxsplit=1) for line in said.splitlines() if ":" in line)
    flags = facts.get("flags", facts.get("Features", "")).split()
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "machine": platform.machine(),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "processor": " ".join(facts.get(name, "?") for name in ("vendor_id", "cpu family", "model")),
        "flags": " ".join(sorted(flag for flag in flags if KERNELS.fullmatch(flag))),
    }


def differences(golden: Any, found: Any, tolerance: float, where: str = "") -> Iterator[str]:
    """Where two records differ, a line each.

    Args:
        tolerance: 0 compares to the bit; else numbers may be off by so much, relative or absolute, whichever is more,
            8-bit values by two, and hashes are not compared.
    """
    if isinstance(golden, dict) and isinstance(found, dict):
        for key in sorted(golden.keys() ^ found.keys()):
            yield f"{where}.{key} is {'new' if key in found else 'missing'}"
        near = max(tolerance, 2.0) if tolerance and golden.get("dtype") == "uint8" else tolerance
        for key in golden.keys() & found.keys():
            if not (tolerance and key == "sha256"):
                yield from differences(golden[key], found[key], near, f"{where}.{key}")
    elif isinstance(golden, list) and isinstance(found, list):
        if len(golden) != len(found):
            yield f"{where} has {len(found)} items, and golden are {len(golden)}"
        for place, pair in enumerate(zip(golden, found, strict=False)):
            yield from differences(*pair, tolerance, f"{where}[{place}]")
    elif golden != found or type(golden) is not type(found):
        a, b = _number(golden), _number(found)
        if a is None or b is None:
            yield f"{where} is {found!r}, golden is {golden!r}"
        elif not (tolerance and math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)):
            yield f"{where} is {b!r}, golden is {a!r}"


def _number(value: Any) -> float | None:
    if isinstance(value, str) and FLOAT.fullmatch(value):
        return float.fromhex(value)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def written(table: Mapping[str, Any]) -> str:
    """The text of golden.json: a line a case, so that a change shows which."""
    cases = ",\n".join(f"  {json.dumps(name)}: {json.dumps(case)}" for name, case in table["cases"].items())
    return f'{{\n "machine": {json.dumps(table["machine"])},\n "cases": {{\n{cases}\n }}\n}}\n'
