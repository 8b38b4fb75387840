"""`markovae compress`, `decompress` and `inspect FILE.mvz`: files and arrays there and back, and what is refused."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from markovae.cli import compress
from markovae.cli.entry import main
from markovae.data.digits import digits
from markovae.data.unchanged import read_unchanged
from markovae.errors import UserError

from .conftest import check

pytest.importorskip("constriction", reason="the extra codec is not installed")
Words = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine digits as PNGs, some in a sub-folder, two of one name."""
    for number, image in enumerate(digits().images[:9]):
        path = tmp_path / "in" / ("deep" if number > 6 else "") / f"digit-{number % 7}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(path)
    return tmp_path / "in"


@pytest.fixture(scope="module")
def array_file(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve digits from an array, in groups of 5; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("packed")
    np.save(folder / "a.npy", digits().images[:12])
    words = ("--model", str(digits_run), "--out", str(folder / "a.mvz"), "--levels", "4", "--group", "5")
    with redirect_stdout(StringIO()) as said:
        assert main(["compress", str(folder / "a.npy"), *words, "--json"]) == 0
    record = json.loads(said.getvalue())
    check(record, "compress")
    assert record["count"] == 12
    assert record["bytes"] == (folder / "a.mvz").stat().st_size
    assert sorted(path.name for path in folder.glob("a.*")) == ["a.mvz", "a.npy"]
    return folder / "a.mvz"


@pytest.fixture
def packed(array_file: Path, tmp_path: Path) -> Path:
    """A copy of `array_file`, beside the array, for one test to work on."""
    shutil.copytree(array_file.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / "a.mvz"


def test_an_array_comes_back_and_a_part_of_it(packed: Path, digits_run: Path, tmp_path: Path, json_of: Words, capsys):
    record = json_of("decompress", "decompress", packed, "--model", digits_run, "--out", tmp_path / "b")
    assert record["count"] == 12
    assert np.array_equal(np.load(tmp_path / "b" / "images.npy"), digits().images[:12])
    json_of("decompress", "decompress", packed, "--model", digits_run, "--out", tmp_path / "c", "--images", "4-6")
    assert np.array_equal(np.load(tmp_path / "c" / "images.npy"), digits().images[4:7])
    facts = json_of("inspect_mvz", "inspect", packed)
    assert [group["images"] for group in facts["groups"]] == [5, 5, 2]
    assert main(["inspect", str(packed)]) == 0
    said = capsys.readouterr().out
    assert "12 images of 1 x 8 x 8, 17 values" in said
    assert facts["model"] in said


def test_processes_of_torchrun_share_the_groups(packed: Path, digits_run: Path, tmp_path: Path, monkeypatch, capsys):
    out, told = tmp_path / "b.mvz", {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    words = ["compress", str(tmp_path / "a.npy"), "--model", str(digits_run), "--out", str(out), "--levels", "4"]
    for rank in ("1", "0"):
        assert not out.exists()
        for name, value in {**told, "RANK": rank, "LOCAL_RANK": rank}.items():
            monkeypatch.setenv(name, value)
        assert main([*words, "--group", "5"]) == 0
    assert out.read_bytes() == packed.read_bytes()
    assert "12 images" in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_command_leaves_groups_and_no_half_file(digits_run: Path, tmp_path: Path):
    """SIGKILL to real processes: the name is absent or whole, finished groups stay, the same command ends bitwise."""
    np.save(tmp_path / "a.npy", digits().images[:300])
    out, part = tmp_path / "a.mvz", tmp_path / "a.mvz.part"
    words = ["compress", str(tmp_path / "a.npy"), "--model", str(digits_run), "--levels", "8", "--group", "10"]
    assert main([*words, "--out", str(tmp_path / "whole.mvz")]) == 0
    for groups in (1, 8, 20, 29):
        with (tmp_path / "said").open("wb") as said:
            command = [sys.executable, "-m", "markovae", *words, "--out", str(out)]
            running = subprocess.Popen(command, stdout=said, stderr=said)
        while running.poll() is None and len(list(part.glob("group-*"))) < groups:
            time.sleep(0.002)
        running.kill()
        running.wait()
        kept = {path.name: path.read_bytes() for path in part.glob("group-*")}
        assert out.exists() or len(kept) >= groups, (tmp_path / "said").read_text()
        assert not out.exists() or out.read_bytes() == (tmp_path / "whole.mvz").read_bytes()
    if not out.exists():
        assert main([*words, "--out", str(out)]) == 0
    assert out.read_bytes() == (tmp_path / "whole.mvz").read_bytes()
    assert sorted(path.name for path in tmp_path.glob("*a.mvz*")) == ["a.mvz"], "no stage, no groups"


def test_files_come_back_by_their_names(folder: Path, digits_run: Path, tmp_path: Path, capsys):
    out = tmp_path / "a.mvz"
    how = ["--levels", "4", "--grid", "optimal"]
    assert main(["compress", str(folder), "--model", str(digits_run), "--out", str(out), *how]) == 0
    assert main(["inspect", str(out)]) == 0
    assert "names: deep/digit-0.png, deep/digit-1.png, digit-0.png" in capsys.readouterr().out
    assert main(["decompress", str(out), "--model", str(digits_run), "--out", str(tmp_path / "b")]) == 0
    rows = np.load(tmp_path / "b" / "images.npy")  # 17 values are no PNG
    assert np.array_equal(rows, read_unchanged([folder], (1, 8, 8))[0:9])


def test_restored_names_are_plain(tmp_path: Path):
    from markovae.cli.decompress import RestoredFiles

    written = RestoredFiles(bins=256)
    taken = RestoredFiles(bins=256)
    taken.add(np.zeros((3, 1, 4, 4), np.uint8), ("000001.png", "a b.png", "_000001.png"), 0, range(3))
    assert sorted(taken.files()) == ["000001.png", "000002.png", "_000001.png"], "none takes another's place"
    names = ("a/b.png", "c/b.png", "../../x y.png", "ok-1.webp", "é" * 200)
    written.add(np.zeros((5, 1, 4, 4), np.uint8), names, 10, range(10, 14))
    assert sorted(written.files()) == ["000011.png", "000012.png", "b.png", "ok-1.png"]


def test_a_progressive_image_is_shown_by_a_part(digits_run: Path, tmp_path: Path, json_of: Words, refused: Words):
    np.save(tmp_path / "a.npy", digits().images[:2])
    out, model = tmp_path / "a.mvz", ("--model", digits_run)
    json_of("compress", "compress", tmp_path / "a.npy", *model, "--out", out, "--levels", "6", "--progressive")
    record = json_of("decompress", "decompress", out, *model, "--out", tmp_path / "b", "--stop-after", "40")
    assert [view["image"] for view in record["views"]] == [0, 1]
    assert all(0 < view["bytes"] <= 40 and view["level"] > 0 for view in record["views"])
    assert np.load(tmp_path / "b" / "images.npy").shape == (2, 1, 8, 8)
    record = json_of("decompress", "decompress", out, *model, "--out", tmp_path / "c", "--stop-after", "4000")
    assert [view["level"] for view in record["views"]] == [0, 0]
    said = refused("decompress", out, *model, "--out", tmp_path / "d", "--stop-after", "4")
    assert said == "--stop-after 4 bytes show nothing of image 0: read more"


def test_what_cannot_be_is_one_sentence(packed: Path, digits_run: Path, tmp_path: Path, refused: Words):
    model, new = ("--model", digits_run), ("--out", tmp_path / "new")
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(tmp_path / "wide.png")
    Image.fromarray(np.zeros((8, 8, 4), np.uint8)).save(tmp_path / "clear.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    (tmp_path / "empty").mkdir()
    for words, said in (
        (("compress", tmp_path / "wide.png", *model, *new), "nothing is resized or converted here"),
        (("compress", tmp_path / "clear.png", *model, *new), "RGBA image of 8x8"),
        (("compress", tmp_path / "bad.png", *model, *new), "not an image of a known format"),
        (("compress", tmp_path / "empty", *model, *new), "holds no images"),
        (("compress", tmp_path / "none.png", *model, *new), "does not exist"),
        (("compress", tmp_path / "a.npy", *model, "--out", packed), "exists: name a new file"),
        (("compress", tmp_path / "a.npy", *model, *new, "--levels", "1"), "must be at least 2"),
        (("decompress", tmp_path / "a.npy", *model, *new), "not a compressed file of markovae"),
        (("decompress", tmp_path / "none.mvz", *model, *new), "cannot be read"),
        (("decompress", packed, *model, "--out", tmp_path / "empty" / ".." / "in.txt", "--images", "9-30"), "0…11"),
        (("decompress", packed, *model, *new, "--images", "3-1"), "must be A or A-B"),
        (("decompress", packed, *model, *new, "--stop-after", "9"), "not progressive"),
    ):
        assert said in refused(*words)
    assert not (tmp_path / "new").exists()


def test_classes_and_captions_are_taken_where_model_and_images_have_them():
    def loaded(num_classes: int, conditioner: object = None) -> Any:
        model, checkpoint = (
            SimpleNamespace(text_conditioner=conditioner, columns=None),
            SimpleNamespace(class_names=("cat", "dog")),
        )
        return SimpleNamespace(model=model, checkpoint=checkpoint, num_classes=num_classes, path="runs/a")

    images = SimpleNamespace(classes=("dog", "cat"), captions=("a dog\nanother", ""))
    assert compress._labels(loaded(2), images) == [1, 0]
    assert compress._labels(loaded(0), images) is None
    assert compress._labels(loaded(0, object()), images) == ["a dog", ""]
    with pytest.raises(UserError, match="have a class 'cow' and runs/a only cat, dog"):
        compress._labels(loaded(2), SimpleNamespace(classes=("cow",), captions=None))
