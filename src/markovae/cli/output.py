"""What a person reads on stdout, in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def table(rows: list[tuple[str, str, str]]) -> str:
    """Rows of (name, figure, meaning) in three columns, indented by two."""
    names, figures = (max((len(row[column]) for row in rows), default=0) for column in (0, 1))
    return "\n".join(f"  {name:<{names}}  {figure:>{figures}}  {meaning}" for name, figure, meaning in rows)


def headline(bits: dict[str, Any]) -> str:
    """mean ± stderr with its interval; a single image has neither."""
    if bits["stderr"] is None:
        return f"{bits['mean']:.3f} bits/dim"
    low, high = bits["ci95"]
    return f"{bits['mean']:.3f} ± {bits['stderr']:.3f} bits/dim (95 % interval {low:.3f} to {high:.3f})"


def counted(number: int, what: str) -> str:
    """A number of things in words: 1 image, 2 images."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def free_place(folder: Path, name: str) -> Path:
    """The first of NAME-1, NAME-2, … that is not there yet."""
    number = 1
    while (folder / f"{name}-{number}").exists():
        number += 1
    return folder / f"{name}-{number}"
