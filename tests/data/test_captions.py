import json
from pathlib import Path

import pytest

from markovae.data.captions import read_captions
from markovae.errors import UserError

PATHS = ["a/x.png", "y.png"]


def test_no_file_no_captions(tmp_path: Path):
    assert read_captions(tmp_path, PATHS) == (None, ())


def test_csv_with_quotes_commas_and_a_byte_order_mark(tmp_path: Path):
    text = '\ufefffile_name,text,other\na\\x.png,"red, ""round""",1\n./y.png, two \n'
    (tmp_path / "captions.csv").write_text(text, encoding="utf-8")
    assert read_captions(tmp_path, PATHS) == (('red, "round"', "two"), ("captions from captions.csv",))


def test_json_lines_with_gaps_and_strangers(tmp_path: Path):
    rows = [{"file_name": "y.png", "text": "grün"}, {"file_name": "z.png", "text": "away"}]
    (tmp_path / "metadata.jsonl").write_text("\n\n".join(json.dumps(row) for row in rows))
    captions, notes = read_captions(tmp_path, PATHS)
    assert captions == ("", "grün")
    assert notes[1:] == ("1 caption names a file that is no readable image", "1 of 2 images have no caption (a/x.png)")


def test_several_captions_are_lines_of_one_text(tmp_path: Path):
    (tmp_path / "captions.csv").write_text('file_name,text\ny.png,one\na/x.png,\ny.png,"two\nhalves"\n')
    captions, notes = read_captions(tmp_path, PATHS)
    assert captions == ("", "one\ntwo halves")
    assert notes[-1] == "1 images have several captions: training draws one of them each time"
    (tmp_path / "captions.csv").unlink()
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "y.png", "text": ["one", " ", "two"]}))
    assert read_captions(tmp_path, PATHS)[0] == ("", "one\ntwo")


def test_a_text_file_beside_each_image(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.txt").write_text("\ufeffa red hat\n\nround glasses\n", encoding="utf-8")
    (tmp_path / "README.txt").write_text("of no image")
    captions, notes = read_captions(tmp_path, PATHS)
    assert captions == ("a red hat\nround glasses", "")
    assert notes[:2] == ("captions from .txt files", "1 of 2 images have no caption (y.png)")
    (tmp_path / "captions.csv").write_text("file_name,text\ny.png,blue\n")
    captions, notes = read_captions(tmp_path, PATHS)
    assert captions == ("", "blue")
    assert "1 .txt files beside images are passed over: captions.csv is read" in notes


def test_a_text_file_that_is_none_is_one_sentence(tmp_path: Path):
    (tmp_path / "y.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"y\.txt is not UTF-8"):
        read_captions(tmp_path, PATHS)
    (tmp_path / "y.txt").write_bytes(b"a" * 70_000)
    with pytest.raises(UserError, match="holds a caption a line"):
        read_captions(tmp_path, PATHS)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("captions.csv", b"name,text\n", "columns file_name and text"),
        ("captions.csv", b"", "columns file_name and text"),
        ("captions.csv", b'file_name,text\ny.png,"one\na/x.png,two\n', "quotation mark that is not closed"),
        ("captions.csv", b"file_name,text\ny.png\n", "line 2 must have"),
        ("captions.csv", b"file_name,text\ny.png,\xff\xfe\n", "not UTF-8"),
        ("captions.csv", b"file_name,text\nq.png,a\n", "names none of the 2 images"),
        ("metadata.jsonl", b"{", "line 1 is not JSON"),
        ("metadata.jsonl", b"[1]", "line 1 must be an object"),
        ("metadata.jsonl", b"[" * 100_000, "line 1 is no JSON that captions"),
        ("metadata.jsonl", b'{"file_name": "y.png", "text": ' + b"9" * 5000 + b"}", "line 1 is no JSON that captions"),
        ("metadata.jsonl", b'{"file_name": "y.png", "text": "a \\ud800 b"}', "half a character"),
        ("metadata.jsonl", b'\n{"file_name": "y.png"}', "line 2 must have"),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, name: str, content: bytes, sentence: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read_captions(tmp_path, PATHS)


def test_two_files_are_one_too_many(tmp_path: Path):
    (tmp_path / "captions.csv").write_text("file_name,text\n")
    (tmp_path / "metadata.jsonl").write_text("")
    with pytest.raises(UserError, match="keep the one that is meant"):
        read_captions(tmp_path, PATHS)
