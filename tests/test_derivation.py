"""docs/derivation.md: what it links to exists, and it tells of every row of `markovae verify`."""

import ast
import re
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest

from markovae.theory.checks import CHECKS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "derivation.md"
TEXT = PAGE.read_text(encoding="utf-8")
LINKS = sorted(set(re.findall(r"\[`([^`]+)`\]\(([^)]+\.py)\)", TEXT)))


@cache
def names(path: Path) -> set[str]:
    """What a file defines at its top, and the methods and fields of its classes as Class.name."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
        if isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


@pytest.mark.parametrize(("name", "link"), LINKS, ids=[name for name, _ in LINKS])
def test_every_function_and_test_that_is_linked_exists(name: str, link: str) -> None:
    path = (PAGE.parent / link).resolve()
    assert path.is_file(), f"{link} is no file"
    assert name in names(path), f"{link} defines no {name}"


def test_there_is_code_and_a_test_for_each_equation() -> None:
    assert len([link for _, link in LINKS if "/src/" in link]) > 60
    assert len([link for _, link in LINKS if "/tests/" in link]) > 45
    for part in re.findall(r"^\*code\*.*?(?=\n\n)", TEXT, re.M | re.S):
        assert "*test*" in part, part


def test_every_row_of_verify_is_told_and_no_other() -> None:
    rows = {line.name for check in CHECKS for line in check.lines}
    told = [name for part in re.findall(r"\*rows\*((?:\s*`[^`]+`,?)+)", TEXT) for name in re.findall("`([^`]+)`", part)]
    assert not [row for row in rows if not any(fnmatchcase(row, name) for name in told)]
    assert not [name for name in told if not any(fnmatchcase(row, name) for row in rows)]


def test_pictures_and_sections_are_there() -> None:
    for picture in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", TEXT):
        assert (PAGE.parent / picture).is_file(), picture
    headings = {
        re.sub(r"[^\w\- ]", "", line[3:].lower()).replace(" ", "-") for line in TEXT.splitlines() if line[:3] == "## "
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= headings


def test_mathematics_is_closed() -> None:
    """An odd number of dollars in a paragraph would turn the rest of it upside down."""
    for paragraph in TEXT.split("\n\n"):
        assert paragraph.replace("$$", "").count("$") % 2 == 0, paragraph
    assert TEXT.count("$$") % 2 == 0
