"""What a person reads on stdout, in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markovae.log import plus_minus, show, show_json


def table(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Rows in columns, indented by two: the first `left` to the left, then to the right, and the last as it is."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    lines = []
    for row in rows:
        cells = [
            f"{cell:{'<' if i < left else '>'}{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        lines.append("  " + "  ".join([*cells, row[-1]]).rstrip())
    return "\n".join(lines)


def headline(bits: dict[str, Any]) -> str:
    """mean ± stderr with its interval; a single image has neither."""
    if bits["stderr"] is None:
        return f"{plus_minus(bits, 3)} bits/dim"
    low, high = bits["ci95"]
    return f"{plus_minus(bits, 3)} bits/dim (95 % interval {low:.3f} to {high:.3f})"


def show_record(record: Mapping[str, Any], in_words: Callable[[Any], str], as_json: bool) -> int:
    """Print a record as --json asks, or in words; exit code 0."""
    if as_json:
        show_json(record)
    else:
        show(in_words(record))
    return 0
