"""Run the course's notebooks and write them with their pictures: `python -m scripts.notebooks`, minutes on two cores.

docs/course/NN_name.py is the notebook as text (jupytext's percent format); NN_name.ipynb beside it has the same cells
with what they printed and drew.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

COURSE = Path(__file__).resolve().parents[1] / "docs" / "course"


def texts() -> list[Path]:
    """The notebooks as text, in order."""
    return sorted(COURSE.glob("[0-9][0-9]_*.py"))


def cells(path: Path) -> list[tuple[str, str]]:
    """(kind, source) of each cell of a notebook, in either form."""
    return [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the notebooks that are named, or all; exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stems", nargs="*", help="such as 01_markovian_vaes; all if none is named")
    wanted = parser.parse_args(arguments).stems
    for path in texts():
        if wanted and path.stem not in wanted:
            continue
        notebook = jupytext.read(path)
        NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # times of day
        nbformat.write(notebook, path.with_suffix(".ipynb"))
        print(path.stem)
    return 0


if __name__ == "__main__":
    sys.exit(main())
