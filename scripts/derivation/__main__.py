"""Train what the derivation claims about learning, and put figures, numbers and tables where the page shows them.

    python -m scripts.derivation [--parts hierarchy targets draws blind] [--jobs 2] [--to docs]

Each training's result lies in the user's cache under a hash of its settings: a part run again costs nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from types import ModuleType

from scripts.derivation import blind, draws, hierarchy, targets
from scripts.derivation.page import read_numbers, with_tables, write_numbers
from scripts.derivation.store import Unit, results

from markovae.errors import StoppedRun, UserError
from markovae.log import log
from markovae.system.files import write_file

ROOT = Path(__file__).resolve().parent.parent.parent
PARTS: dict[str, ModuleType] = {"hierarchy": hierarchy, "targets": targets, "draws": draws, "blind": blind}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts.derivation", description="The trainings of docs/derivation.md.")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="only these (default: all)")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="trainings at a time")
    parser.add_argument("--to", type=Path, default=ROOT / "docs", help="the folder of derivation.md")
    options = parser.parse_args(arguments)
    try:
        train([unit for name in options.parts for unit in PARTS[name].UNITS.values()], options.jobs)
        show(options.parts, options.to)
    except UserError as error:
        log(str(error))
        return 2
    except StoppedRun as error:
        log(str(error))
        return 3
    return 0


def train(units: list[Unit], jobs: int) -> None:
    """Every unit's result, told as they come."""
    started = time.monotonic()
    for number, unit in enumerate(results(units, jobs), start=1):
        words = ", ".join(f"{key} {value}" for key, value in unit.spec.items() if isinstance(value, str | float | bool))
        log(f"[{number}/{len(units)}, {time.monotonic() - started:.0f} s] {unit.part}: {words}")


def show(parts: list[str], folder: Path) -> None:
    """Figures and numbers to `folder`/images/derivation, tables into `folder`/derivation.md."""
    pictures, page = folder / "images" / "derivation", folder / "derivation.md"
    numbers = read_numbers(pictures)
    for name in parts:
        part = PARTS[name]
        numbers[name] = part.gains()
        for file, picture in part.figures(numbers[name]):
            write_file(pictures / file, picture.encode())
    write_numbers(pictures, numbers)
    write_file(page, with_all_tables(page.read_text(encoding="utf-8"), read_numbers(pictures)).encode())
    log(f"written: {page}, {pictures}")


def with_all_tables(text: str, numbers: dict[str, object]) -> str:
    """The page with the tables that these numbers make."""
    for name, found in numbers.items():
        text = with_tables(text, PARTS[name].tables(found))
    return text


if __name__ == "__main__":
    sys.exit(main())
