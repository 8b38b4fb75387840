"""docs/results.md from the records in docs/results/: every figure there was measured by a committed command.

    python benchmarks/results.py            write the page and its pictures
    python benchmarks/results.py --check    exit 1 where the page is not what the records say

A section is a module of this folder with `section(records) -> Section`, in SECTIONS: records are the JSON objects of
docs/results/ by file name without its ending. Sections without records are left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import results_bits
import results_captions
import results_control
import results_guidance
import results_nats
import results_recipe
import results_samplers
from markovae.system.files import make_folder, write_file
from results_common import Section

DOCS = Path(__file__).resolve().parent.parent / "docs"
RECORDS = DOCS / "results"
SECTIONS: tuple[Callable[[Mapping[str, Any]], Section | None], ...] = (
    results_bits.section,
    results_recipe.section,
    results_samplers.section,
    results_guidance.section,
    results_control.section,
    results_captions.section,
    results_nats.section,
)
HEAD = """\
# Results

Written by `python benchmarks/results.py` from the records in `docs/results/`, which the commands named below wrote.
± is one standard error.
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    files = pages(records(RECORDS))
    if options.check:
        stale = [path for path, content in files.items() if not path.is_file() or path.read_bytes() != content]
        print(*(f"{path} is not what the records say: run benchmarks/results.py" for path in stale), sep="\n")
        return bool(stale)
    for path, content in files.items():
        make_folder(path.parent)
        write_file(path, content)
    return 0


def records(folder: Path) -> dict[str, Any]:
    """The JSON objects of a folder by name."""
    return {path.stem: json.loads(path.read_bytes()) for path in sorted(folder.glob("*.json"))}


def pages(found: Mapping[str, Any]) -> dict[Path, bytes]:
    """The page and its pictures, by path."""
    sections = [made for make in SECTIONS if (made := make(found)) is not None]
    text = "\n".join([HEAD, *(section.text for section in sections)])
    pictures = {RECORDS / name: svg.encode() for section in sections for name, svg in section.pictures.items()}
    return {DOCS / "results.md": text.encode(), **pictures}


if __name__ == "__main__":
    sys.exit(main())
