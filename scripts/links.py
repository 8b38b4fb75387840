"""Point the links of docs/ to code at the files that define it: `python -m scripts.links` after a move.

A link is [`Name`](../src/markovae/….py) or into ../tests; Name is a function, a class, Class.method, a constant, or the
name of the file.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\[`([^`]+)`\]\((\.\./(?:src|tests)/[^)#]+\.py)\)")


def definitions(folder: Path) -> dict[str, list[Path]]:
    """The files below a folder by their names, by what they define at their top, and by Class.method."""
    found = defaultdict(list)
    for path in sorted(folder.rglob("*.py")):
        found[path.name].append(path)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found[node.name].append(path)
            if isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, ast.FunctionDef):
                        found[f"{node.name}.{inner.name}"].append(path)
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        found[target.id].append(path)
    return found


def relinked(page: Path, where: dict[str, dict[str, list[Path]]]) -> tuple[str, list[str]]:
    """The page with its links mended, and what cannot be: names that nothing, or that several files define."""
    lost = []

    def mend(link: re.Match[str]) -> str:
        name, old = link[1], (page.parent / link[2]).resolve()
        homes = where[Path(link[2]).parts[1]].get(name, [])
        if old in homes:
            return link[0]
        if len(homes) != 1:
            lost.append(f"{page.name}: {name} is defined in {len(homes)} files: {', '.join(map(str, homes)) or 'none'}")
            return link[0]
        return f"[`{name}`]({os.path.relpath(homes[0], page.parent)})"

    return LINK.sub(mend, page.read_text(encoding="utf-8")), lost


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where a link is wrong")
    options = parser.parse_args(arguments)
    where = {side: definitions(ROOT / side) for side in ("src", "tests")}
    wrong = []
    for page in sorted((ROOT / "docs").rglob("*.md")):
        text, lost = relinked(page, where)
        wrong += lost
        if text != page.read_text(encoding="utf-8"):
            if options.check:
                wrong.append(f"{page.name}: links to files that moved: run python -m scripts.links")
            else:
                page.write_text(text, encoding="utf-8")
    print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
