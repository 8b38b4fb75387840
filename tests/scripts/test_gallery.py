"""The gallery's page is of its record, its commands are those of today, and its pictures are there and small."""

import shlex

import pytest

from markovae.cli.entry import COMMANDS
from scripts import gallery

RECORD = gallery.recorded()
TOTAL = 1_500_000


def test_the_page_says_what_was_made() -> None:
    assert len(RECORD) >= 10
    assert gallery.PAGE.read_text(encoding="utf-8") == gallery.page(RECORD), "run python -m scripts.gallery --only"
    exhibits = {exhibit.name: (exhibit.train, exhibit.draw) for exhibit in gallery.EXHIBITS}
    assert {name: (made.train, made.draw) for name, made in RECORD.items()} == {name: exhibits[name] for name in RECORD}


def test_the_pictures_are_there_and_small() -> None:
    sizes = {path.stem: path.stat().st_size for path in gallery.PICTURES.glob("*.png")}
    assert set(sizes) == set(RECORD)
    assert max(sizes.values()) <= gallery.MOST
    assert sum(sizes.values()) <= TOTAL


def test_every_sheet_is_drawn_into_the_folder_that_is_read() -> None:
    for exhibit in gallery.EXHIBITS:
        words = shlex.split(exhibit.draw)
        assert words[0] == "markovae"
        assert words[1] in COMMANDS
        assert words[words.index("--out") + 1] == f"{exhibit.name}-sheet"
        assert any(f"runs/{other.name}" == words[2] for other in gallery.EXHIBITS if other.train)


@pytest.mark.parametrize(("seconds", "text"), [(3.2, "3 s"), (114.1, "1.9 min"), (2085.9, "35 min")])
def test_times_are_said_with_two_digits(seconds: float, text: str) -> None:
    assert gallery.in_words(seconds) == text
