"""Columns on the command line: sweeps as titled grids, nats, edits, the report, and one sentence for what is wrong."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from markovae.cli.entry import main

from .conftest import check, settings


@pytest.fixture(scope="module")
def column_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run on 8x8 images with their light and hair, with its report."""
    folder, rng = tmp_path_factory.mktemp("columns"), np.random.default_rng(0)
    (folder / "photos").mkdir()
    rows = ["file_name,light,hair"]
    for i in range(60):
        light = int(rng.integers(50, 250))
        Image.fromarray(np.full((8, 8), light, np.uint8)).save(folder / "photos" / f"{i:02d}.png")
        rows.append(f"{i:02d},{light},{('black', 'red', '')[i % 3]}")
    (folder / "photos" / "metadata.csv").write_text("\n".join(rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARKOVAE_CACHE", str(folder / "cache"))
        columns = ["--set", "condition.columns=[light, hair]", "--set", "train.preset=none"]
        data = str(folder / "photos")
        assert main(["train", data, "--out", str(folder / "run"), "--steps", "4", *columns, *settings()]) == 0
        yield folder / "run"


def test_the_report_has_a_sheet_for_each_column(column_run: Path):
    record = json.loads((column_run / "report.json").read_text())
    assert [row["column"] for row in record["columns"]] == ["light", "hair"]
    assert record["columns"][1]["values"] == ["black", "red"]
    check(record, "report")
    page = (column_run / "report.html").read_text()
    assert "What columns change" in page
    assert "hair = red" in page


def test_a_sweep_is_a_titled_grid(column_run: Path, tmp_path: Path, capsys):
    words = ["sample", str(column_run), "--steps", "2", "--json", "--out", str(tmp_path / "drawn")]
    assert main([*words, "--where", "light=60..200:3", "--where", "hair=*"]) == 0
    record = json.loads(capsys.readouterr().out)
    check(record, "sample")
    assert record["n"] == 6
    assert record["where"]["light"] == ["60", "60", "130", "130", "200", "200"]
    drawn = np.load(tmp_path / "drawn" / "samples.npz")
    assert drawn["where"].tolist()[3] == "light=130; hair=red"
    grid = Image.open(tmp_path / "drawn" / "grid.png")
    assert grid.width > 2 * 64 + 50  # titles to the left
    assert grid.text["markovae:where"] == "light=60..200:3; hair=*"
    assert Image.open(tmp_path / "drawn" / "00003.png").text["markovae:where"] == "light=130; hair=red"


def test_columns_are_weighed(column_run: Path, capsys, json_of):
    words = ["measure", str(column_run), "--columns", "--split", "train", "--draws", "2", "--candidates", "4"]
    assert main([*words, "--limit", "12"]) == 0
    said = capsys.readouterr().out
    assert "nats per image that columns say" in said
    assert "hair" in said
    record = json_of("columns", *words, "--limit", "12")
    assert [row["column"] for row in record["columns"]] == ["light", "hair"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("sample", "--where", "hiar=red"), "did you mean hair?"),
        (("sample", "--where", "light=60", "--where", "light=80"), "--where names light twice"),
        (("sample", "--where", "hair=*", "--where", "light=*", "--n", "3"), "one image of each: leave --n out"),
        (("edit", "x.png", "--from-level", "0.5", "--where", "hair=*"), "and one image is drawn: name one"),
        (("measure", "--columns", "--draws", "all"), "--columns draws some levels of each image"),
        (("measure", "--columns", "--captions"), "--columns takes no --captions"),
    ],
)
def test_what_is_wrong_is_one_sentence(column_run: Path, words: tuple[str, ...], sentence: str, capsys):
    assert main([words[0], str(column_run), *words[1:]]) == 2
    assert sentence in capsys.readouterr().err


def test_a_run_without_columns_says_how_to_have_them(digits_run: Path, capsys):
    assert main(["sample", str(digits_run), "--where", "age=30"]) == 2
    assert "train with --set condition.columns=" in capsys.readouterr().err
