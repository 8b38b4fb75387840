"""The table of docs/reliability.md from what the soak tests found: python -m scripts.reliability.

Every soak test leaves its row in build/reliability as JSON; the rows stand between two marks of the page, by point.
A row takes the place of the one with its point and figure; of tests that were not run the rows stay.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FOUND = ROOT / "build" / "reliability"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- soak: begin -->", "<!-- soak: end -->"
COLUMNS = ("point", "figure", "method", "result")


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a table, those of one point together."""
    lines = [f"| {' | '.join(COLUMNS)} |", "| --- | --- | --- | --- |"]
    for row in sorted(rows, key=lambda row: (row["point"], row["figure"])):
        cells = [str(row[key]).replace("|", "\\|") for key in COLUMNS]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def rows_of(page: str) -> list[dict[str, Any]]:
    """The rows of the table that the page has."""
    lines = page.partition(BEGIN)[2].partition(END)[0].strip().splitlines()[2:]
    cells = [[cell.replace("\\|", "|") for cell in line[2:-2].split(" | ")] for line in lines]
    return [{**dict(zip(COLUMNS, row, strict=True)), "point": int(row[0])} for row in cells]


def with_table(page: str, made: str) -> str:
    """The page with this table between its marks.

    Raises:
        ValueError: where the page has no marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} has no place for the table: it needs {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{after}"


def main() -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--found", type=Path, default=FOUND, help="folder of the rows")
    options = parser.parse_args()
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(options.found.glob("*.json"))]
    if not rows:
        print(f"{options.found} holds no rows: run make soak first")
        return 2
    page = PAGE.read_text(encoding="utf-8")
    known = {(row["point"], row["figure"]): row for row in (*rows_of(page), *rows)}
    PAGE.write_text(with_table(page, table(list(known.values()))), encoding="utf-8")
    print(f"{len(rows)} rows in {PAGE}, of {len(known)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
