"""The table of docs/reliability.md: rows by point, between two marks, and nothing else of the page changes."""

import json
import re
from pathlib import Path

import pytest
from scripts.reliability import BEGIN, END, PAGE, main, rows_of, table, with_table

ROWS = [
    {"point": 10, "figure": "memory", "method": "a long run", "result": "flat"},
    {"point": 3, "figure": "kills", "method": "a | b", "result": "200 of 200"},
]


def test_rows_stand_by_point_and_bars_are_no_columns():
    lines = table(ROWS).splitlines()
    assert lines[2] == "| 3 | kills | a \\| b | 200 of 200 |"
    assert lines[3] == "| 10 | memory | a long run | flat |"


def test_only_what_is_between_the_marks_changes():
    page = PAGE.read_text(encoding="utf-8")
    once = with_table(page, table(ROWS))
    assert once.partition(BEGIN)[0] == page.partition(BEGIN)[0]
    assert once.partition(END)[2] == page.partition(END)[2]
    assert with_table(once, table(ROWS)) == once
    with pytest.raises(ValueError, match="has no place for the table"):
        with_table("a page", "a table")


def test_the_rows_of_the_page_are_read_as_they_were_written():
    assert rows_of(f"{BEGIN}\n\n{table(ROWS)}\n\n{END}") == [ROWS[1], ROWS[0]]
    page = PAGE.read_text(encoding="utf-8")
    assert len(rows_of(page)) > 20
    assert with_table(page, table(rows_of(page))) == page


def test_the_doors_name_what_is_there():
    """Functions and tests of the threat model."""
    text = PAGE.read_text(encoding="utf-8")
    rows = text[text.index("| door | what") :].split("\n\n")[0].splitlines()[2:]
    assert len(rows) > 10
    for row in rows:
        _, _, _, where, shown, _ = row.split("|")
        assert re.search(r"\[`\w+`\]\(\.\./src/", where), "a link to the function, which tests/test_docs.py follows"
        for path in re.findall("`(.*?)`", shown):
            assert (PAGE.parents[1] / path).is_file(), path


def test_the_script_writes_what_the_soak_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    page = tmp_path / "reliability.md"
    page.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    monkeypatch.setattr("scripts.reliability.PAGE", page)
    monkeypatch.setattr("sys.argv", ["reliability", "--found", str(tmp_path)])
    assert main() == 2
    assert "run make soak first" in capsys.readouterr().out
    (tmp_path / "kills-0.json").write_text(json.dumps(ROWS[1]))
    assert main() == 0
    assert "| 200 of 200 |" in page.read_text()
    (tmp_path / "kills-0.json").write_text(json.dumps({**ROWS[1], "result": "199 of 200"}))
    (tmp_path / "memory-0.json").write_text(json.dumps(ROWS[0]))
    assert main() == 0
    (tmp_path / "kills-0.json").unlink()
    assert main() == 0
    assert [row["result"] for row in rows_of(page.read_text())] == ["199 of 200", "flat"]
