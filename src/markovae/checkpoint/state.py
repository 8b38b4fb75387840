"""What state.json must say, before anything is done with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from markovae.checkpoint.manifest import FORMAT, CheckpointError

LARGEST = 65_536  # bins of a pixel, sides of an image


def check_state(state: Mapping[str, Any], path: Path) -> None:
    """Check the keys that a bundle of this kind needs, and their types.

    Raises:
        CheckpointError: naming the first that is missing or wrong.
    """
    if state.get("format") != FORMAT:
        raise CheckpointError(f"{path} has format {state.get('format')!r}, not {FORMAT}")
    wanted = {**_ALWAYS, **_TRAINING} if state.get("kind") == "training" else _ALWAYS
    wanted = wanted | {key: fits for key, fits in _PERHAPS.items() if key in state}
    for key, fits in wanted.items():
        if key not in state or not fits(state[key]):
            raise CheckpointError(f"{path} has no {key}: it was not written by markovae")


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _some(value: Any) -> bool:
    return _whole(value) and value > 0


def _perhaps_whole(value: Any) -> bool:
    return value is None or _whole(value)


def _seconds(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0


def _shape(value: Any) -> bool:
    return isinstance(value, list) and all(type(side) is int and 0 < side <= LARGEST for side in value)


def _bins(value: Any) -> bool:
    return type(value) is int and 2 <= value <= LARGEST


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(type(name) is str for name in value)


def _precision(value: Any) -> bool:
    return value in (None, "float32", "bfloat16")


def _draws(value: Any) -> bool:
    return isinstance(value, dict) and all(_whole(value.get(key)) for key in ("seed", "batch", "skipped"))


def _table(value: Any) -> bool:
    return isinstance(value, dict)


_ALWAYS: dict[str, Callable[[Any], bool]] = {"step": _whole, "shape": _shape, "bins": _bins, "class_names": _names}
_TRAINING: dict[str, Callable[[Any], bool]] = {
    "total_steps": _perhaps_whole,
    "seconds": _seconds,
    "precision": _precision,
    "draws": _draws,
    "rollbacks": _whole,
    "data": _table,
}
_PERHAPS: dict[str, Callable[[Any], bool]] = {"parts": _some, "guess": _perhaps_whole, "spent": _seconds}
