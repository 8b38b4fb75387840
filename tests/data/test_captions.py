import json
from pathlib import Path

import pytest

from markovae.data.captions import read_written
from markovae.data.image_files import find_files
from markovae.errors import UserError

PATHS = ["a/x.png", "y.png"]


def read(folder: Path, paths: list[str] = PATHS):
    written = read_written(folder, paths, find_files(folder).others)
    return written.captions, written.notes


def test_no_file_no_captions(tmp_path: Path):
    assert read(tmp_path) == (None, ())


def test_csv_with_quotes_commas_and_a_byte_order_mark(tmp_path: Path):
    text = '\ufefffile_name,text,other\na\\x.png,"red, ""round""",1\n./y.png, two ,\n'
    (tmp_path / "captions.csv").write_text(text, encoding="utf-8")
    assert read(tmp_path) == (
        ('red, "round"', "two"),
        ("captions from captions.csv", "columns from captions.csv: other"),
    )


def test_json_lines_with_gaps_and_strangers(tmp_path: Path):
    rows = [{"file_name": "y.png", "text": "grün"}, {"file_name": "z.png", "text": "away"}]
    (tmp_path / "metadata.jsonl").write_text("\n\n".join(json.dumps(row) for row in rows))
    captions, notes = read(tmp_path)
    assert captions == ("", "grün")
    assert notes[1:] == (
        "1 row names a file that is not a readable image (z.png)",
        "1 of 2 images have no caption (a/x.png)",
    )


def test_several_captions_are_lines_of_one_text(tmp_path: Path):
    (tmp_path / "captions.csv").write_text('file_name,text\ny.png,one\na/x.png,\ny.png,"two\nhalves"\n')
    captions, notes = read(tmp_path)
    assert captions == ("", "one\ntwo halves")
    assert notes[-1] == "1 images have several captions: training draws one of them each time"
    (tmp_path / "captions.csv").unlink()
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "y.png", "text": ["one", " ", "two"]}))
    assert read(tmp_path)[0] == ("", "one\ntwo")


def test_a_text_file_beside_each_image(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.txt").write_text("\ufeffa red hat\n\nround glasses\n", encoding="utf-8")
    (tmp_path / "README.txt").write_text("of no image")
    captions, notes = read(tmp_path)
    assert captions == ("a red hat\nround glasses", "")
    assert notes == (
        "captions from .txt files",
        "1 text file belongs to no readable image (README.txt)",
        "1 of 2 images have no caption (y.png)",
        "1 images have several captions: training draws one of them each time",
    )
    (tmp_path / "captions.csv").write_text("file_name,text\ny.png,blue\n")
    captions, notes = read(tmp_path)
    assert captions == ("", "blue")
    assert "1 .txt files beside images are skipped: captions are read from captions.csv" in notes


def test_a_text_file_that_is_none_is_one_sentence(tmp_path: Path):
    (tmp_path / "y.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"y\.txt is not UTF-8"):
        read(tmp_path)
    (tmp_path / "y.txt").write_bytes(b"a" * 70_000)
    with pytest.raises(UserError, match="holds a caption a line"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("captions.csv", b"name,text\n", "columns file_name and text"),
        ("captions.csv", b"", "columns file_name and text"),
        ("captions.csv", b'file_name,text\ny.png,"one\na/x.png,two\n', "unclosed quotation mark"),
        ("captions.csv", b"file_name,text\ny.png\n", "line 2 has 1 fields where its first line names 2"),
        ("captions.csv", b"file_name,text\ny.png,\xff\xfe\n", "not UTF-8"),
        ("captions.csv", b"file_name,text\nq.png,a\n", "matches no image of the 2"),
        ("metadata.jsonl", b"{", "line 1 is not JSON"),
        ("metadata.jsonl", b"[1]", "line 1 must be an object"),
        ("metadata.jsonl", b"[" * 100_000, "line 1 nests too deep"),
        ("metadata.jsonl", b'{"file_name": "y.png", "text": ' + b"9" * 5000 + b"}", "line 1 nests too deep"),
        ("metadata.jsonl", b'{"file_name": "y.png", "text": "a \\ud800 b"}', "half a character"),
        ("metadata.jsonl", b'\n{"file_name": "y.png", "text": 3}', "line 2 must have"),
        ("metadata.jsonl", b'{"text": "a"}', "line 1 must have"),
        ("captions.csv", b"file_name,text\ny.png,a, b\n", "line 2 has 3 fields"),
        ("captions.csv", b"file_name,text,text\ny.png,a,b\n", "names a column twice"),
        ("metadata.csv", b"text\na\n", "columns file_name and text"),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, name: str, content: bytes, sentence: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read(tmp_path)


def test_two_files_are_one_too_many(tmp_path: Path):
    (tmp_path / "captions.csv").write_text("file_name,text\ny.png,a\n")
    (tmp_path / "metadata.jsonl").write_text("")
    assert read(tmp_path)[0] == ("", "a")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "y.png", "text": "b"}')
    with pytest.raises(UserError, match="keep the one that is meant"):
        read(tmp_path)


def test_a_file_of_captions_that_is_a_link_out_of_the_data_is_refused_unread(tmp_path: Path):
    """`0.txt -> /proc/self/environ` became a caption."""
    data, secret = tmp_path / "data", tmp_path / "secret.txt"
    (data / "a").mkdir(parents=True)
    secret.write_text("password")
    for name, target in (("y.txt", "/proc/self/environ"), ("y.txt", "../secret.txt"), ("a/x.txt", str(secret))):
        (data / name).symlink_to(target)
        with pytest.raises(UserError, match=rf"{name} leads to .*would become a caption") as raised:
            read(data)
        assert "password" not in str(raised.value)
        (data / name).unlink()
    for name in ("captions.csv", "metadata.jsonl"):
        (data / name).symlink_to("/etc/passwd")
        with pytest.raises(UserError, match=rf"{name} leads to .*would become a caption"):
            read(data)
        (data / name).unlink()
    for target in ("/dev/zero", "/dev/stdin", "/nowhere", "y.txt"):  # devices, dead ends and loops are no files
        (data / "y.txt").symlink_to(target)
        assert read(data) == (None, ())
        (data / "y.txt").unlink()


def test_links_that_stay_with_the_data_or_with_the_image_are_read(tmp_path: Path):
    """Stores of contents (Hugging Face's snapshots, git-annex) and folders that the person linked in."""
    data, store, other = (tmp_path / name for name in ("data", "store", "other"))
    for folder in (data, store, other):
        folder.mkdir()
    (store / "1a").write_bytes(b"image")
    (store / "2b").write_text("from the store")
    (data / "y.png").symlink_to(store / "1a")
    (data / "y.txt").symlink_to("../store/2b")
    (other / "x.png").write_bytes(b"image")
    (other / "x.txt").write_text("from another disk")
    (data / "a").symlink_to(other)
    captions, _ = read(data)
    assert captions == ("from another disk", "from the store")
    (store / "3c").write_text("file_name,text\ny.png,one table\n")
    (data / "captions.csv").symlink_to(store / "3c")
    assert read(data)[0] == ("", "one table")


def test_names_in_a_table_are_compared_and_never_opened(tmp_path: Path):
    names = ["y.png", "../../etc/passwd", "/etc/passwd", "/proc/self/environ", "a/../../x.png", "y.png\0", "C:\\x"]
    rows = [json.dumps({"file_name": name, "text": f"t{number}"}) for number, name in enumerate(names)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    captions, notes = read(tmp_path)
    assert captions == ("", "t0")
    assert any("6 rows name a file that is not a readable image (../../etc/passwd, " in note for note in notes)


def test_tables_in_the_folders_of_their_images_and_of_other_names(tmp_path: Path):
    """Hugging Face's imagefolder: metadata.csv, one per split or class; and names as from the data's own folder."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "metadata.csv").write_text("file_name;caption;age\nx.png;a, b;3\n")
    (tmp_path / "metadata.jsonl").write_text('{"image": "y.png", "prompt": "c", "boxes": [[1, 2]]}')
    captions, notes = read(tmp_path)
    assert captions == ("a, b", "c")
    assert notes == (
        "captions from a/metadata.csv (column caption)",
        "columns from a/metadata.csv: age",
        "captions from metadata.jsonl (column prompt)",
        "the column boxes of metadata.jsonl is not used: it holds a list that is not a list of texts",
    )
    (tmp_path / "a" / "metadata.csv").write_text("file_name,text\na/x.png,from above\n")
    assert read(tmp_path)[0] == ("from above", "c")


def test_a_table_without_captions_stops_nothing_and_is_told(tmp_path: Path):
    (tmp_path / "metadata.csv").write_text("file_name,label\ny.png,cat\n")
    assert read(tmp_path) == (
        None,
        ("columns from metadata.csv: label",),
    )
    (tmp_path / "y.txt").write_text("beside")
    assert read(tmp_path)[0] == ("", "beside")
    (tmp_path / "metadata.csv").write_text("id,label\n1,cat\n")
    assert read(tmp_path)[0] == ("", "beside")


def test_rows_without_a_text_are_told_by_line(tmp_path: Path):
    rows = ['{"file_name": "y.png", "text": "a"}', '{"file_name": "a/x.png", "text": null}', '{"file_name": "q.png"}']
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    captions, notes = read(tmp_path)
    assert captions == ("", "a")
    assert "2 rows have no text in metadata.jsonl (line 2)" in notes


def test_names_are_compared_in_composed_characters(tmp_path: Path):
    """macOS decomposes names, and tables are written composed: café in NFD against NFC, both ways."""
    composed, decomposed = "caf\u00e9.png", "cafe\u0301.png"
    for stored, written in ((composed, decomposed), (decomposed, composed)):
        (tmp_path / "captions.csv").write_text(f"file_name,text\n{written},coffee\n", encoding="utf-8")
        assert read(tmp_path, [stored])[0] == ("coffee",)
    (tmp_path / "captions.csv").unlink()
    (tmp_path / "cafe\u0301.txt").write_text("beside")
    assert read(tmp_path, [composed])[0] == ("beside",)


@pytest.mark.parametrize("name", ["y.TXT", "y.caption", "y.Caption", "y.png.txt"])
def test_texts_beside_images_by_every_name_that_people_give_them(tmp_path: Path, name: str):
    (tmp_path / name).write_text("beside")
    assert read(tmp_path)[0] == ("", "beside")


def test_tags_in_one_file_and_a_sentence_in_another_are_both_captions(tmp_path: Path):
    """kohya_ss issue 2407; seen: the second was said to belong to no image."""
    (tmp_path / "y.txt").write_text("one")
    (tmp_path / "y.caption").write_text("two")
    (tmp_path / "y.png.CAP").write_text("three")
    captions, notes = read(tmp_path)
    assert captions == ("", "one\ntwo\nthree")
    assert not any("belong" in note for note in notes)


def test_a_column_of_an_endless_name_is_left_out_and_told_in_short(tmp_path: Path):
    (tmp_path / "metadata.csv").write_text(f"file_name,text,{'n' * 100_000},age\ny.png,red,1,2\n")
    _, notes = read(tmp_path)
    assert any("it holds a name of 100,000 characters, at most 200" in note for note in notes)
    assert max(map(len, notes)) < 300


def test_headers_in_capitals_are_the_same_columns(tmp_path: Path):
    (tmp_path / "metadata.csv").write_text("File_Name,Caption,Age\ny.png,a cat,3\n")
    captions, notes = read(tmp_path)
    assert captions == ("", "a cat")
    assert notes[:2] == ("captions from metadata.csv (column Caption)", "columns from metadata.csv: Age")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("x.png,one", "may mean 2 images (a/x.png, b/x.png): write the folder, or the tar, before each name"),
        ("x.png,one\ny.png,two", "captions.csv has names that may mean 2 images (a/x.png, b/x.png)"),
    ],
)
def test_a_name_that_may_mean_several_images_is_told(tmp_path: Path, rows: str, said: str):
    """Seen: "a file that is not a readable image"."""
    (tmp_path / "captions.csv").write_text(f"file_name,text\n{rows}\n")
    paths = ["a/x.png", "b/x.png", "y.png"]
    try:
        notes = read_written(tmp_path, paths, ["captions.csv"]).notes
    except UserError as error:
        notes = (str(error),)
    assert any(said in note for note in notes)
