"""The rows of a run's metrics.jsonl: one JSON object a line, each with its step."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = 1 << 16


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows, none where the file is missing; what a crash left cut, and what has no step, is passed over."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        return [row for line in file if (row := _row(line)) is not None]


def backwards(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """The rows from the last to the first with the place in the file where each ends; None is no row."""
    if not path.exists():
        return
    with path.open("rb") as file:
        start = end = file.seek(0, 2)
        held = b""
        while end > 0:
            place = held.rfind(b"\n", 0, end - start - 1)
            while place < 0 and start > 0:
                size = min(BLOCK, start)
                start -= size
                file.seek(start)
                held = file.read(size) + held
                place = held.rfind(b"\n", 0, end - start - 1)
            line = held[place + 1 :]
            yield end, _row(line)
            end = start + place + 1
            held = held[: place + 1]


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and type(row.get("step")) is int else None
