"""What goes to stdout: text a person reads, or one JSON object."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def print_json(record: Mapping[str, Any]) -> None:
    """Print one object; a number that is none must be None by now."""
    print(json.dumps(record, indent=1, allow_nan=False))


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
