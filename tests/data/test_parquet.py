"""Parquet files as hubs hold them; only where the optional reader is installed."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from markovae.data.data_config import DataConfig
from markovae.data.loading import kind_of, load_data, read_source
from markovae.errors import UserError

RNG = np.random.default_rng(4)


def png() -> tuple[np.ndarray, bytes]:
    pixels, buffer = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8), io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return np.moveaxis(pixels, -1, 0), buffer.getvalue()


def write(path: Path, rows: list[dict[str, object]], names: list[str] | None = None) -> Path:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.Table.from_pylist(rows)
    if names:
        note = json.dumps({"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}})
        table = table.replace_schema_metadata({"huggingface": note})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path)
    return path


def rows(count: int) -> tuple[list[np.ndarray], list[dict[str, object]]]:
    made = [png() for _ in range(count)]
    return [pixels for pixels, _ in made], [
        {"image": {"bytes": content, "path": None}, "label": n % 2, "caption": f"picture {n}", "width": 8}
        for n, (_, content) in enumerate(made)
    ]


def test_images_classes_captions_and_parts(tmp_path: Path):
    images, table = rows(9)
    write(tmp_path / "data" / "train-00000-of-00001.parquet", table, ["cat", "dog"])
    tested, table = rows(3)
    write(tmp_path / "data" / "test-00000-of-00001.parquet", table, ["cat", "dog"])
    config = DataConfig(str(tmp_path))
    assert kind_of(config) == "parquet"
    reading = read_source(config)
    split = reading.split
    assert (len(split.train), len(split.validation), len(split.test)) == (8, 1, 3)
    assert np.array_equal(reading.data.images[split.test], np.stack(tested))
    assert np.array_equal(reading.data.images[3:], np.stack(images))
    assert reading.data.class_names == ("cat", "dog")
    assert reading.data.captions is not None
    assert reading.data.captions[3] == "picture 0"
    assert "columns: width" in reading.summary.notes
    assert reading.data.columns == {"width": ("8",) * 12}
    assert len(load_data(tmp_path / "data" / "train-00000-of-00001.parquet").train) == 7


def test_bytes_alone_and_bad_rows(tmp_path: Path):
    table: list[dict[str, object]] = [{"png": png()[1], "label": "x"} for _ in range(4)]
    table += [{"png": b"no image", "label": "x"}, {"png": None, "label": "y"}]
    reading = read_source(DataConfig(str(write(tmp_path / "x.parquet", table))))
    assert len(reading.data) == 4
    assert [name for name, _ in reading.summary.unreadable] == ["x.parquet:4", "x.parquet:5"]
    assert reading.summary.unreadable[1][1] == "the row has no bytes of an image"


def test_what_is_no_such_file_is_one_sentence(tmp_path: Path):
    with pytest.raises(UserError, match=r"no column of image bytes .its columns are a, b"):
        load_data(write(tmp_path / "x.parquet", [{"a": 1, "b": "x"}]))
    (tmp_path / "y.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=r"y.parquet is not a readable parquet file"):
        load_data(tmp_path / "y.parquet")


def test_without_the_reader_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("markovae.data.parquet.import_module", missing)
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"needs pyarrow: pip install 'markovae\[parquet\]'"):
        load_data(tmp_path / "x.parquet")


def test_a_table_beside_is_joined_by_the_path_of_an_image(tmp_path: Path):
    _, table = rows(9)
    for n, row in enumerate(table):
        row["image"] = row["image"] | {"path": f"{n:03}.png"}  # type: ignore[operator]
        del row["caption"], row["label"]
    write(tmp_path / "train-0.parquet", table)
    lines = [f"{n:03}.png,number {n},{n % 2}" for n in range(9)]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,text,label", *lines]))
    (tmp_path / "README.md").write_text("x")
    reading = read_source(DataConfig(str(tmp_path)))
    assert reading.data.captions == tuple(f"number {n}" for n in range(9))
    assert reading.data.class_names == ("0", "1")
    assert "1 other file beside the data is not read (.md 1; README.md)" in reading.summary.notes


def test_a_table_beside_rows_without_names_is_told(tmp_path: Path):
    write(tmp_path / "train-0.parquet", rows(9)[1])
    (tmp_path / "metadata.csv").write_text("file_name,text\n000.png,x\n")
    notes = read_source(DataConfig(str(tmp_path))).summary.notes
    assert any("that which a row of a parquet file gives" in note for note in notes)
