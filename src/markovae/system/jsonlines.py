"""The rows of a run's metrics.jsonl: one JSON object a line, each with its step. Nothing in it is taken on trust."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markovae.system.plain import open_plain

BLOCK = 1 << 16
LONGEST = 1 << 20  # bytes of a line; what is longer is no row
MOST = 1 << 63  # steps, images
LARGEST = 1e100  # of a figure: sums and squares of such are numbers still


@dataclass(frozen=True)
class Rows:
    """The rows of a file.

    Args:
        rows: those whose figures can be read.
        left_out: how many lines hold none.
    """

    rows: tuple[dict[str, Any], ...] = ()
    left_out: int = 0


def read_rows(path: Path) -> Rows:
    """The rows, none where the file is missing.

    Lines that a crash cut, without a step, or without the figures that their kind has, are left out and counted.
    Raises:
        UserError: where the file is a link, or no file.
    """
    found = [row if row is not None and has_figures(row) else None for _, row in backwards(path)]
    rows = tuple(row for row in reversed(found) if row is not None)
    return Rows(rows, len(found) - len(rows))


def backwards(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """The rows from the last to the first with the place in the file where each ends; None is no row.

    Raises:
        UserError: where the file is a link, or no file.
    """
    if not os.path.lexists(path):
        return
    with open_plain(path) as file:
        start = end = file.seek(0, 2)
        held, long = b"", False
        while end > 0:
            place = held.rfind(b"\n", 0, end - start - 1)
            while place < 0 and start > 0:
                if len(held) > LONGEST:
                    held, long = b"", True
                size = min(BLOCK, start)
                start -= size
                file.seek(start)
                held = file.read(size) + held
                place = held.rfind(b"\n", 0, end - start - 1)
            yield end, None if long else _row(held[place + 1 :])
            end, long = start + place + 1, False
            held = held[: place + 1]


def has_figures(row: Mapping[str, Any]) -> bool:
    """Whether a row has the figures that rows of its kind have, each a number."""
    if row.get("kind") == "train":
        return all(is_figure(row.get(name)) for name in ("seconds", "loss", "nats"))
    if row.get("kind") == "heldout":
        bits = row.get("bits_per_dim")
        return (
            is_figure(row.get("seconds"))
            and isinstance(bits, dict)
            and all(name in bits and (bits[name] is None or is_figure(bits[name])) for name in ("mean", "stderr"))
        )
    return True


def is_figure(value: Any) -> bool:
    """Whether something that was read is a number, and not an absurd one."""
    return type(value) in (int, float) and -LARGEST <= value <= LARGEST


def is_count(value: Any) -> bool:
    """Whether something that was read is a whole number that counts."""
    return type(value) is int and 0 <= value < MOST


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and is_count(row.get("step")) else None
