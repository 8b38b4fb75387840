"""Range checks with one sentence each."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from markovae.errors import UserError
from markovae.strict_json import shown

MAX_WIDTH = 1 << 14  # channels, features, units of an embedding
MAX_LEVELS = 12  # of a U-Net: 4,096 pixels halved to one
MAX_FACTOR = 64  # of a width; blocks a level; sides of a patch
MAX_COUNT = 1 << 53  # whole numbers that a float64 counts exactly


def within(name: str, value: float, low: float, high: float, meaning: str) -> None:
    """low ≤ value ≤ high, or UserError naming the one that is passed."""
    if not value >= low:
        raise UserError(f"{name}={_told(value)} must be at least {low:g}: {meaning}")
    if not value <= high:
        raise UserError(f"{name}={_told(value)} must be at most {high:g}: {meaning}")


def between(name: str, value: float, low: float, high: float, meaning: str) -> None:
    """low ≤ value ≤ high, or UserError."""
    if not low <= value <= high:
        raise UserError(f"{name}={_told(value)} must lie in {low:g}…{high:g}: {meaning}")


def whole_numbers(name: str, values: Sequence[int], most: int, meaning: str) -> None:
    """One number from 1 to `most` for each of 1…12 levels, or UserError."""
    if not 1 <= len(values) <= MAX_LEVELS or not all(1 <= value <= most for value in values):
        raise UserError(
            f"{name}={shown(list(values))} must be numbers of 1…{most:,} for 1…{MAX_LEVELS} levels: {meaning}"
        )


def above(name: str, value: float, limit: float, meaning: str) -> None:
    """value > limit, or UserError."""
    if not value > limit:
        raise UserError(f"{name}={_told(value)} must be above {limit:g}: {meaning}")


def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """A word from a list, or UserError naming the nearest one."""
    if value not in known:
        near = difflib.get_close_matches(value.lower(), known, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"{name}={shown(value)} must be one of {', '.join(known)}{hint}")


def _told(value: float) -> str:
    """A number in six digits; whole ones may be larger than any float."""
    return f"{value:g}" if abs(value) < 1 << 63 or isinstance(value, float) else shown(value)
