from pathlib import Path

import pytest

from markovae import jsonlines
from markovae.jsonlines import backwards, read_rows

LINES = b'{"step": 1}\n[3]\n{"stap": 2}\n{"step": "2"}\n\0\0\0\n\xff\n\n{"step": 2, "kind": "heldout"}\n{"st'


def test_what_is_no_row_is_passed_over(tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_bytes(LINES)
    assert read_rows(tmp_path / "metrics.jsonl") == [{"step": 1}, {"step": 2, "kind": "heldout"}]
    assert read_rows(tmp_path / "missing") == []
    assert list(backwards(tmp_path / "missing")) == []


@pytest.mark.parametrize("block", [1, 5, 65_536])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_from_the_end_it_is_the_same_rows_with_their_places(tmp_path: Path, monkeypatch, block: int, end: bytes):
    monkeypatch.setattr(jsonlines, "BLOCK", block)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(LINES + end)
    found = list(backwards(path))
    assert [row for _, row in reversed(found) if row is not None] == read_rows(path)
    lines = path.read_bytes().splitlines(keepends=True)
    assert [place for place, _ in reversed(found)] == [sum(map(len, lines[: i + 1])) for i in range(len(lines))]
