"""Range checks with one sentence each."""

from __future__ import annotations

import difflib

from markovae.errors import UserError


def at_least(name: str, value: float, limit: float, meaning: str) -> None:
    """value ≥ limit, or UserError."""
    if not value >= limit:
        raise UserError(f"{name}={value:g} must be at least {limit:g}: {meaning}")


def between(name: str, value: float, low: float, high: float, meaning: str) -> None:
    """low ≤ value ≤ high, or UserError."""
    if not low <= value <= high:
        raise UserError(f"{name}={value:g} must lie in {low:g}…{high:g}: {meaning}")


def above(name: str, value: float, limit: float, meaning: str) -> None:
    """value > limit, or UserError."""
    if not value > limit:
        raise UserError(f"{name}={value:g} must be above {limit:g}: {meaning}")


def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """A word from a list, or UserError naming the nearest one."""
    if value not in known:
        near = difflib.get_close_matches(value.lower(), known, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"{name}={value!r} must be one of {', '.join(known)}{hint}")
