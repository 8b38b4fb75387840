"""What state.json must say, before anything is done with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from markovae.checkpoint.manifest import FORMAT, CheckpointError
from markovae.strict_json import shown

LARGEST_SIDE = 4096  # of an image, as in data.size
LARGEST_IMAGE = 1 << 26  # numbers
MAX_BINS = 65_536
MAX_CLASSES, MAX_NAME = 1 << 20, 1000
MAX_WIDTH = 65_536  # features of a caption's token
MAX_COUNT = 1 << 53  # steps, images: what a float64 counts exactly


def check_state(state: Mapping[str, Any], path: Path) -> None:
    """Check the keys that a bundle of this kind needs, and the type and range of all that is read.

    Raises:
        CheckpointError: naming the first that is missing or wrong.
    """
    if state.get("format") != FORMAT:
        raise CheckpointError(f"{path} has format {shown(state.get('format'))}, not {FORMAT}")
    training = state.get("kind") == "training"
    wanted = {**_ALWAYS, **_TRAINING} if training else _ALWAYS
    wanted = wanted | {key: fits for key, fits in _PERHAPS.items() if key in state}
    for key, fits in wanted.items():
        if key not in state:
            raise CheckpointError(f"{path} has no {key}: it was not written by markovae")
        if not fits(state[key]):
            raise CheckpointError(f"{path} has {key}={shown(state[key])}: it was not written by markovae")
    draws = state.get("draws")
    if draws is not None and (state["step"] + draws["skipped"]) * draws["batch"] > MAX_COUNT:
        raise CheckpointError(f"{path} has draws of more than {MAX_COUNT:,} images: it was not written by markovae")
    data = state.get("data")
    for key in ("shape", "bins"):
        if isinstance(data, dict) and data.get(key) not in (None, state[key]):
            raise CheckpointError(
                f"{path} has {key}={shown(state[key])}, and of its data {key}={shown(data[key])}: it was not written "
                "by markovae"
            )


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_COUNT


def _some(value: Any) -> bool:
    return _count(value) and value > 0


def _perhaps_count(value: Any) -> bool:
    return value is None or _count(value)


def _seed(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _seconds(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= MAX_COUNT


def _shape(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(side) is int and 0 < side <= LARGEST_SIDE for side in value)
        and math.prod(value) <= LARGEST_IMAGE
    )


def _bins(value: Any) -> bool:
    return type(value) is int and 2 <= value <= MAX_BINS


def _names(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= MAX_CLASSES
        and all(type(name) is str and len(name) <= MAX_NAME for name in value)
    )


def _precision(value: Any) -> bool:
    return value in (None, "float32", "bfloat16")


def _draws(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and _seed(value.get("seed"))
        and _some(value.get("batch"))
        and _count(value.get("skipped"))
        and _perhaps_count(value.get("images"))
    )


def _data(value: Any) -> bool:
    """The record of a split: what a part has is looked at where it is compared with the data."""
    return isinstance(value, dict) and all(
        isinstance(value.get(part, {}), dict) and _perhaps_count(value.get(part, {}).get("count"))
        for part in ("train", "validation", "test")
    )


def _text(value: Any) -> bool:
    texts = ("encoder", "sha256", "captions_sha256")
    return (
        isinstance(value, dict)
        and all(value.get(key) is None or type(value[key]) is str for key in texts)
        and (value.get("width") is None or (type(value["width"]) is int and 0 < value["width"] <= MAX_WIDTH))
    )


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and all(type(text) is str for text in value.values())


def _table(value: Any) -> bool:
    return isinstance(value, dict)


_ALWAYS: dict[str, Callable[[Any], bool]] = {"step": _count, "shape": _shape, "bins": _bins, "class_names": _names}
_TRAINING: dict[str, Callable[[Any], bool]] = {
    "total_steps": _perhaps_count,
    "seconds": _seconds,
    "precision": _precision,
    "draws": _draws,
    "rollbacks": _count,
    "data": _data,
}
_PERHAPS: dict[str, Callable[[Any], bool]] = {
    **_TRAINING,
    "parts": _some,
    "guess": _perhaps_count,
    "spent": _seconds,
    "images_seen": _count,
    "text": _text,
    "versions": _texts,
    "origin": _table,
}
