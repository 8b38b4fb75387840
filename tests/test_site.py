"""The site builds without a warning, from the disk, with the pages that are made of the code."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("material")  # of the extra `docs`

from mkdocs.commands.build import build
from mkdocs.config import load_config
from tests.browsing import PHONE, chromium, faint_texts, in_scheme, needs_browser, opens_well, resize, wait

import markovae

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        patch.chdir(ROOT)
        build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A window that each test sizes."""
    with chromium() as made:
        yield made


@needs_browser
@pytest.mark.parametrize("width", [PHONE, 1300])
def test_pages_open_at_once_stay_still_and_fit(site: Path, browser: Any, width: int) -> None:
    resize(browser, width)
    for page in ("derivation", "course/04_six_forms", "data", "results", "gallery", "reference/python"):
        opens_well(browser, (site / f"{page}.html").as_uri(), shift=0.001)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width, page
    assert browser.get_log("browser") == []


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out(site: Path, scheme: str) -> None:
    with chromium(width=1300) as browser:  # of its own: a window keeps the scheme in which it began
        in_scheme(browser, scheme)
        for page in ("index", "sampling", "course/02_gaussian_chain"):
            browser.get((site / f"{page}.html").as_uri())
            shown = browser.execute_script("return document.body.dataset.mdColorScheme")
            assert (shown, faint_texts(browser)) == ({"light": "default", "dark": "slate"}[scheme], []), page


@needs_browser
def test_the_search_leads_to_the_page_that_answers(site: Path, browser: Any) -> None:
    asked = {
        "bits back": "compression",
        "lossless compression": "compression",
        "posterior mean": "answers derivation",
        "alpha bar": "answers",
        "simple loss": "answers",
        "how many images": "answers",
        "overfitting": "answers",
        "serving": "answers photos",
        "anomaly detection": "measuring",
        "ornstein uhlenbeck time": "answers derivation",  # and no title with "times"
        "why is the bound tight": "answers",  # words that join others do not count
        "my photos": "photos",
        "is it memorising": "answers",  # in the other spelling
        "optimisers": "answers",
        "quantised": "answers derivation",
        "discretise": "answers derivation",
        "overfits": "answers",  # without its ending
        "xyzzy": "",
    }
    first = "return document.querySelector('.md-search-result__item a')?.getAttribute('href') ?? ''"

    def leads(browser: Any, pages: str) -> bool:
        href = browser.execute_script(first)
        return any(f"/{page}.html" in href for page in pages.split()) if pages else not href

    ask = """
        const field = document.querySelector('[data-md-component=search-query]');
        field.focus();
        field.value = arguments[0];
        field.dispatchEvent(new Event('keyup', {bubbles: true}));
    """
    resize(browser, 1200)
    browser.get((site / "index.html").as_uri())
    for words, pages in asked.items():
        for typed, to in (("", ""), (words, pages)):  # cleared between, so that no former answer counts
            browser.execute_script(ask, typed)
            wait(browser, lambda to=to: leads(browser, to), words, 60)


def test_the_site_builds_strictly_and_needs_no_other_host(site: Path) -> None:
    python = (site / "reference" / "python.html").read_text(encoding="utf-8")
    assert not [name for name in markovae.__all__ if name[0] != "_" and f".{name}" not in python]
    assert "--resume" in (site / "reference" / "commands.html").read_text(encoding="utf-8")
    assert "<math" in (site / "derivation.html").read_text(encoding="utf-8")
    derivation = (site / "derivation.html").read_text(encoding="utf-8")
    wide = derivation.count('<div style="overflow: auto hidden; padding: 0.4em 0" tabindex="0"><math')
    assert wide == derivation.count('display="block"') > 20
    assert "test_forms" not in (site / "search" / "search_index.json").read_text(encoding="utf-8"), "sources"
    for page in (*site.glob("*.html"), *(site / "course").glob("*.html")):
        article = re.search(r"<article.*?</article>", page.read_text(encoding="utf-8"), re.DOTALL)
        assert article is not None
        words = re.sub(r"<(pre|code|math)\b.*?</\1>", "", article[0], flags=re.DOTALL)
        assert not re.findall(r"\$\$|\\[a-z]{3,}|<img(?![^>]*alt=\"[^\"])", words), f"{page.name}: TeX, or no alt text"
    assert "data:image/png" in (site / "course" / "02_gaussian_chain.html").read_text(encoding="utf-8")
    loaded = re.compile(r"""<(?:script|link|img|iframe)[^>]*(?:src|href)=["'](https?:)?//""")
    assert not [page for page in site.rglob("*.html") if loaded.search(page.read_text(encoding="utf-8"))]
