"""The site builds without a warning, from the disk, with the pages that are made of the code."""

import re
from pathlib import Path

import pytest

pytest.importorskip("material")  # of the extra `docs`

from mkdocs.commands.build import build
from mkdocs.config import load_config

import markovae

ROOT = Path(__file__).resolve().parents[1]


def test_the_site_builds_strictly_and_needs_no_other_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    monkeypatch.chdir(ROOT)
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True))
    python = (tmp_path / "reference" / "python.html").read_text(encoding="utf-8")
    assert not [name for name in markovae.__all__ if name[0] != "_" and f".{name}" not in python]
    assert "--resume" in (tmp_path / "reference" / "commands.html").read_text(encoding="utf-8")
    assert "<math" in (tmp_path / "derivation.html").read_text(encoding="utf-8")
    derivation = (tmp_path / "derivation.html").read_text(encoding="utf-8")
    assert (
        derivation.count('<div style="overflow-x: auto" tabindex="0"><math') == derivation.count('display="block"') > 20
    )
    assert "test_forms" not in (tmp_path / "search" / "search_index.json").read_text(encoding="utf-8"), "sources"
    for page in (*tmp_path.glob("*.html"), *(tmp_path / "course").glob("*.html")):
        article = re.search(r"<article.*?</article>", page.read_text(encoding="utf-8"), re.DOTALL)
        assert article is not None
        words = re.sub(r"<(pre|code|math)\b.*?</\1>", "", article[0], flags=re.DOTALL)
        assert not re.findall(r"\$\$|\\[a-z]{3,}|<img(?![^>]*alt=\"[^\"])", words), f"{page.name}: TeX, or no alt text"
    assert "data:image/png" in (tmp_path / "course" / "02_gaussian_chain.html").read_text(encoding="utf-8")
    loaded = re.compile(r"""<(?:script|link|img|iframe)[^>]*(?:src|href)=["'](https?:)?//""")
    assert not [page for page in tmp_path.rglob("*.html") if loaded.search(page.read_text(encoding="utf-8"))]
