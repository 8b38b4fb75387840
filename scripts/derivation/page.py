"""What the trainings leave behind: figures, one JSON file of numbers, and tables inside docs/derivation.md."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from markovae.system.files import write_file

Figures = Iterator[tuple[str, str]]
NUMBERS = "trained.json"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def with_tables(text: str, tables: dict[str, str]) -> str:
    """The page with each table put between its two marks, `<!-- trained: name -->` and `<!-- end -->`.

    Raises:
        ValueError: for a table whose marks the page has not.
    """
    for name, content in tables.items():
        pattern = rf"(<!-- trained: {name} -->\n).*?(\n<!-- end -->)"
        text, count = re.subn(pattern, lambda found, new=content: found[1] + new + found[2], text, flags=re.S)
        if count != 1:
            raise ValueError(f"the page has {count} places marked <!-- trained: {name} -->: it must have one")
    return text


def write_numbers(folder: Path, numbers: dict[str, Any]) -> None:
    """The numbers as JSON, rounded to what they mean."""
    content = json.dumps(rounded(numbers), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    write_file(folder / NUMBERS, content.encode())


def read_numbers(folder: Path) -> dict[str, Any]:
    """The numbers as they were written; none where there are none yet."""
    path = folder / NUMBERS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def rounded(value: Any) -> Any:
    """Six significant digits of every number."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value
