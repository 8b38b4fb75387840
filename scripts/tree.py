"""Write the tree of the package, and the list of examples, into the docs: `python -m scripts.tree` after a change.

Each line is a package, a module or an example with the first sentence of its docstring, between two markers of a page.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "markovae"
BEGIN, END = "<!-- tree: python -m scripts.tree -->\n", "<!-- /tree -->\n"
EXTENDING = ROOT / "docs" / "extending.md"
DEPTHS = {ROOT / "README.md": 1, ROOT / "docs" / "architecture.md": 2}
WIDTH = 30


def order() -> list[str]:
    """The packages and modules at the top: ORDER of tests/test_architecture.py."""
    text = (ROOT / "tests" / "test_architecture.py").read_text(encoding="utf-8")
    found = re.search(r'^ORDER = """(.*?)"""', text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return [name for name in found[1].split() if name != "__main__"]


def sentence(path: Path) -> str:
    """The first sentence of a module's docstring, without its full stop."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[^.])\.(?= |$)", text)[0]


def lines(depth: int) -> Iterator[str]:
    """A line a package or module of the package's first `depth` levels."""
    for name in order():
        folder = SOURCE / name
        if not folder.is_dir():
            yield f"{name + '.py':{WIDTH}}{sentence(SOURCE / f'{name}.py')}"
            continue
        yield f"{name + '/':{WIDTH}}{sentence(folder / '__init__.py')}"
        for path in sorted(folder.glob("*.py")) * (depth > 1):
            if not path.stem.startswith("__"):
                yield f"{'  ' + path.name:{WIDTH}}{sentence(path)}"


def tree(depth: int) -> str:
    """The tree as a block of text."""
    return "```text\n" + "\n".join(lines(depth)) + "\n```\n"


def examples() -> str:
    """The files of examples/ as a list of links."""
    return "".join(
        f"- [`{path.name}`](../examples/{path.name}): {sentence(path)}.\n"
        for path in sorted((ROOT / "examples").glob("*.py"))
    )


def replaced(text: str, content: str) -> str:
    """The page with this between its markers. Raises ValueError where it has none."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no lines {BEGIN.strip()} and {END.strip()}")
    return before + begin + content + end + after


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where a page is not current")
    options = parser.parse_args(arguments)
    stale = []
    for page, content in {**{page: tree(depth) for page, depth in DEPTHS.items()}, EXTENDING: examples()}.items():
        text = page.read_text(encoding="utf-8")
        if (fresh := replaced(text, content)) != text:
            stale.append(page.name)
            if not options.check:
                page.write_text(fresh, encoding="utf-8")
    if stale and options.check:
        print(f"{', '.join(stale)}: the tree is not today's: run python -m scripts.tree", file=sys.stderr)
    return int(options.check and bool(stale))


if __name__ == "__main__":
    raise SystemExit(main())
