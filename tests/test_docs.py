"""The pages are true: trees are of today, links lead to what they name, and paths exist."""

import re
from pathlib import Path

import pytest

import markovae
from scripts import links, tree

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_trees_are_of_today() -> None:
    assert tree.main(["--check"]) == 0, "run python -m scripts.tree"


def test_a_tree_has_each_package_and_each_module_once_and_in_order() -> None:
    packages = [line.split()[0].rstrip("/").removesuffix(".py") for line in tree.lines(1)]
    assert packages == tree.order()
    listed = tree.lines(2)
    modules = [line.split()[0] for line in listed if line.startswith("  ")]
    assert len(modules) == len([p for p in tree.SOURCE.glob("*/*.py") if p.stem != "__init__"])
    assert all(len(line.split(maxsplit=1)) == 2 for line in listed), "a module without a docstring"


def test_a_page_without_its_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="no lines <!-- tree"):
        tree.replaced("# Page", "")


def test_links_to_code_name_the_file_that_defines_what_they_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert links.main(["--check"]) == 0, capsys.readouterr().err


def test_a_link_to_code_that_moved_is_mended_and_one_to_nothing_is_told(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    home = tmp_path / "src" / "markovae" / "new.py"
    home.parent.mkdir(parents=True)
    home.write_text("class Bound:\n    def total(self): ...\n", encoding="utf-8")
    page.write_text("[`Bound.total`](../src/markovae/old.py) [`Gone`](../src/markovae/old.py)", encoding="utf-8")
    text, lost = links.relinked(page, {"src": links.definitions(tmp_path / "src"), "tests": {}})
    assert text == "[`Bound.total`](../src/markovae/new.py) [`Gone`](../src/markovae/old.py)"
    assert lost == ["page.md: Gone is defined in 0 files: none"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_and_links_of_a_page_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    wrong = [
        p
        for p in re.findall(r"`((?:tests|src|docs|scripts|benchmarks|configs)/[\w/.]+)`", text)
        if not (ROOT / p).exists()
    ]
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        place, _, anchor = target.partition("#")
        path = page.parent / place if place else page
        if "://" in target:
            continue
        if not path.exists() or (anchor and anchor not in anchors(path)):
            wrong.append(target)
    assert not wrong


@pytest.mark.parametrize("name", ["Makefile", ".ci/run", "pyproject.toml"])
def test_paths_of_the_commands_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    named = re.findall(r"(?:tests|scripts|benchmarks|configs|docs)/[\w/]+(?:\.\w+)?", text)
    modules = [module.replace(".", "/") for module in re.findall(r"-m (scripts[\w.]*)", text)]
    assert not [p for p in named if not (ROOT / p).exists()]
    assert not [m for m in modules if not (ROOT / m).is_dir() and not (ROOT / f"{m}.py").is_file()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_of_the_library_on_a_page_are_public(page: Path) -> None:
    used = set(re.findall(r"\bmv\.(\w+)", page.read_text(encoding="utf-8")))
    assert used <= {*markovae.__all__}


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
