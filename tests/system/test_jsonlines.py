import json
import os
from pathlib import Path

import pytest

from markovae.errors import UserError
from markovae.system import jsonlines
from markovae.system.jsonlines import LONGEST, Rows, backwards, read_rows

LINES = b'{"step": 1}\n[3]\n{"stap": 2}\n{"step": "2"}\n\0\0\0\n\xff\n\n{"step": 2, "kind": "other"}\n{"st'


def test_what_is_no_row_is_passed_over(tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_bytes(LINES)
    assert read_rows(tmp_path / "metrics.jsonl") == Rows(({"step": 1}, {"step": 2, "kind": "other"}), 7)
    assert read_rows(tmp_path / "missing") == Rows()
    assert list(backwards(tmp_path / "missing")) == []


@pytest.mark.parametrize("block", [1, 5, 65_536])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_from_the_end_it_is_the_same_rows_with_their_places(tmp_path: Path, monkeypatch, block: int, end: bytes):
    monkeypatch.setattr(jsonlines, "BLOCK", block)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(LINES + end)
    found = list(backwards(path))
    assert tuple(row for _, row in reversed(found) if row is not None) == read_rows(path).rows
    lines = path.read_bytes().splitlines(keepends=True)
    assert [place for place, _ in reversed(found)] == [sum(map(len, lines[: i + 1])) for i in range(len(lines))]


TRAIN = {"kind": "train", "step": 3, "seconds": 1.5, "loss": 0.5, "nats": 20}
HELDOUT = {"kind": "heldout", "step": 3, "seconds": 1.5, "bits_per_dim": {"mean": 3.0, "stderr": None}}
ODD = ["x", None, [], {}, True, float("nan"), float("inf"), 10**200, -(10**200), "9" * 5000]


@pytest.mark.parametrize("row", [TRAIN, HELDOUT], ids=["train", "heldout"])
def test_a_row_without_the_figures_of_its_kind_is_left_out_and_counted(tmp_path: Path, row: dict):
    path = tmp_path / "metrics.jsonl"
    odd: list[dict] = [{**row, name: value} for name in row if name != "kind" for value in ODD]
    odd += [{key: value for key, value in row.items() if key != name} for name in row if name != "kind"]
    odd += [{**HELDOUT, "bits_per_dim": bits} for bits in ({"mean": 1.0}, {"mean": "1", "stderr": None}, [1.0, 2.0])]
    path.write_text("".join(json.dumps(one) + "\n" for one in [row, *odd, row]), encoding="ascii")
    assert read_rows(path) == Rows((row, row), len(odd))


def test_deep_and_long_lines_are_no_rows(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    long = b'{"step": 5, "text": "' + b"x" * 3 * LONGEST + b'"}'
    deep = b'{"step": 4, "x": ' + b"[" * 500_000 + b"]" * 500_000 + b"}"
    path.write_bytes(b"\n".join([b'{"step": 1}', deep, long, b'{"step": 2}', long]))
    assert read_rows(path) == Rows(({"step": 1}, {"step": 2}), 3)
    assert [row and row["step"] for _, row in backwards(path)] == [None, 2, None, None, 1]


def test_a_link_and_a_pipe_are_not_read(tmp_path: Path):
    (tmp_path / "real").write_bytes(LINES)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    os.mkfifo(tmp_path / "pipe")
    for name, kind in (("link", "a link"), ("pipe", "no file but"), (".", "no file but")):
        with pytest.raises(UserError, match=kind):
            read_rows(tmp_path / name)
