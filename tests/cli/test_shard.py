"""`markovae shard`: what it writes, and that it says what it leaves out."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from markovae.cli.entry import main


def photos(folder: Path, broken: int) -> Path:
    """Thirty small images, and files that are none."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(30):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number:02}.png")
    for number in range(broken):
        (folder / f"broken{number:02}.png").write_bytes(b"no image")
    return folder


def test_what_gives_no_image_is_told_and_too_much_of_it_refused(tmp_path: Path, capsys):
    few, many = photos(tmp_path / "few", 2), photos(tmp_path / "many", 20)
    assert main(["shard", str(few), "--out", str(tmp_path / "out"), "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["count"] == 30
    assert "warning: 2 files of" in told.err
    assert "gave no image (broken00.png: not an image of a known format" in told.err
    assert main(["shard", str(many), "--out", str(tmp_path / "other")]) == 2
    assert "20 of 50 files are unreadable" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    assert main(["shard", str(few), "--out", str(tmp_path / "out")]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_too_few_images_make_no_shards(tmp_path: Path, capsys):
    np.save(tmp_path / "two.npy", np.random.default_rng(0).integers(0, 256, (2, 8, 8)).astype(np.uint8))
    assert main(["shard", str(tmp_path / "two.npy"), "--out", str(tmp_path / "out")]) == 2
    assert "at least 3 different images are needed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
