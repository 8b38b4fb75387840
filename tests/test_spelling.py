"""What people read is spelled as a dictionary of common mistakes wants it, in American English."""

import re
from pathlib import Path

import pytest

codespell = pytest.importorskip("codespell_lib")  # of the extra `test`

ROOT = Path(__file__).resolve().parents[1]


def misspelled(folder: Path, capsys: pytest.CaptureFixture[str], *paths: str) -> list[str]:
    config = ROOT / "pyproject.toml"
    found = codespell.main("--toml", str(config), *(str(folder / path) for path in paths))
    lines = [line for line in capsys.readouterr().out.splitlines() if "==>" in line]
    assert bool(found) == bool(lines)
    return lines


def test_code_and_pages_are_spelled_right(capsys: pytest.CaptureFixture[str]) -> None:
    paths = re.search(r"^SPELLED = (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert paths is not None
    assert misspelled(ROOT, capsys, *paths[1].split()) == []


def test_mistakes_and_british_spellings_are_found_and_words_of_settings_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "page.md").write_text("The optimiser was recieved. Centres of grey bins; fro by Theis.\n")
    assert [line.split(": ")[1] for line in misspelled(tmp_path, capsys, "page.md")] == [
        "optimiser ==> optimizer",
        "recieved ==> received",
    ]
