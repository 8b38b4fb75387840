from pathlib import Path

from markovae.jsonlines import read_rows


def test_what_is_no_object_is_passed_over(tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n[3]\n\0\0\0\n\xff\n{"step": 2}\n{"st')
    assert read_rows(tmp_path / "metrics.jsonl") == [{"step": 1}, {"step": 2}]
    assert read_rows(tmp_path / "missing") == []
