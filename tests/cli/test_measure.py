"""`markovae measure`: the contract, which images, and the library's own figures."""

import csv
import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from markovae.checkpoints.reading import load
from markovae.cli.entry import main
from markovae.cli.quality import own_data
from markovae.cli.running import open_run
from markovae.cli.sampling_options import as_named
from markovae.data.data_config import DataConfig
from markovae.data.loading import load_data
from markovae.likelihood.evaluation_data import like
from markovae.likelihood.measuring import measure

from .conftest import settings


def test_json_is_in_its_units_with_students_interval(digits_run, json_of):
    record = json_of("measure", "measure", digits_run, "--limit", "12", "--draws", "3", "--seed", "5")
    assert record["n"] == 12
    assert record["network_calls_per_example"] == 4
    low, high = record["bits_per_dim"]["ci95"]
    # Twelve images: Student's t with 11 degrees of freedom.
    assert high - low == pytest.approx(2 * 2.201 * record["bits_per_dim"]["stderr"], rel=1e-3)
    assert record["nats"]["mean"] == pytest.approx(record["bits_per_dim"]["mean"] * 64 * math.log(2))


def test_one_image_has_no_error_and_json_says_null(digits_run, json_of):
    record = json_of("measure", "measure", digits_run, "--limit", "1", "--draws", "all", "--levels", "4")
    assert record["bits_per_dim"]["stderr"] is None
    assert record["bits_per_dim"]["ci95"] == [None, None]
    assert record["levels"] == 4
    assert record["network_calls_per_example"] == 4


def test_text_gives_the_interval_the_terms_and_what_they_mean(digits_run, capsys):
    assert main(["measure", str(digits_run), "--limit", "4", "--draws", "2"]) == 0
    out = capsys.readouterr().out
    assert "bits/dim (95 % interval" in out
    assert "upper bound" in out
    assert "4 images (test part of digits)" in out
    terms = {
        line.split()[0]: float(line.split()[1])
        for line in out.splitlines()
        if line.startswith("  ") and "." in line.split()[1]
    }
    assert set(terms) == {"prior", "levels", "reconstruction"}
    assert float(out.split()[0]) == pytest.approx(sum(terms.values()), abs=2e-3)


def test_parts_and_other_data(digits_run, json_of, tmp_path):
    words = ["--draws", "1", "--limit", "3"]
    validation = json_of("measure", "measure", digits_run, "--split", "validation", *words)
    assert validation["nats"] != json_of("measure", "measure", digits_run, *words)["nats"]
    every = json_of("measure", "measure", digits_run, "digits", "--split", "all", "--draws", "1", "--limit", "1700")
    assert every["n"] == 1700
    assert every["data"]["matches_run"] is None


@pytest.fixture(scope="module")
def numbered_run(tmp_path_factory):
    """A run of classes 1, 2 and 3 on grey images of 8x8, and their file `run.npz` beside it; both stay as they are."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("numbered")
    np.savez(folder / "run.npz", rng.integers(0, 256, (60, 8, 8)).astype(np.uint8), rng.permutation(60) % 3 + 1)
    words = ["train", str(folder / "run.npz"), "--out", str(folder / "run"), "--steps", "2", "--no-report"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARKOVAE_CACHE", str(folder / "cache"))
        assert main([*words, *settings()]) == 0
    return folder / "run"


def test_all_images_of_other_data_are_measured_in_their_own_order(numbered_run, json_of, tmp_path, capsys):
    rng = np.random.default_rng(1)
    digits, labels = rng.integers(0, 256, (20, 8, 8)).astype(np.uint8), np.array([1, 3] * 10)
    np.savez(tmp_path / "some.npz", digits, labels)
    words = ["measure", numbered_run, tmp_path / "some.npz", "--draws", "1"]
    rows = tmp_path / "rows.csv"
    assert json_of("measure", *words, "--csv", rows)["data"]["split"] == "all"
    with rows.open(newline="") as file:
        found = [float(row["total_nats"]) for row in csv.DictReader(file)]
    whole = measure(load(numbered_run), digits[:, None], np.array([0, 2] * 10), draws=1)
    assert found == pytest.approx(whole.total.tolist(), rel=1e-6)
    few = json_of("measure", *words, "--limit", "3")
    assert few["nats"]["mean"] == pytest.approx(float(whole.total[:3].mean()), rel=1e-6)
    capsys.readouterr()
    assert json_of("measure", *words, "--split", "test")["n"] == 2
    assert main([*map(str, words), "--split", "test"]) == 0
    assert "the test part of" in (said := capsys.readouterr().err)
    assert "is 2 of 20 images: --split all has all" in said


def test_rows_carry_the_names_of_files(numbered_run, json_of, tmp_path):
    folder, rows = tmp_path / "pictures", tmp_path / "rows.csv"
    folder.mkdir()
    names = ["b, c.png", "a.png", "d.png"]
    for shade, name in enumerate(names):
        Image.fromarray(np.full((8, 8), 60 * shade, np.uint8)).save(folder / name)
    words = ["measure", numbered_run, folder, "--draws", "1", "--csv", rows]
    assert json_of("measure", *words)["n"] == 3
    with rows.open(newline="") as file:
        assert [row["file"] for row in csv.DictReader(file)] == sorted(names)


def test_a_test_file_that_is_also_trained_on_is_refused(numbered_run, refused, json_of, tmp_path):
    trained = np.asarray(load_data(str(numbered_run.parent / "run.npz")).train.images)[:3, 0]
    fresh = np.random.default_rng(5).integers(0, 256, (9, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "test.npz", np.concatenate([fresh, trained]), np.array([1, 2, 3] * 4))
    words = ["measure", numbered_run, tmp_path / "test.npz", "--split", "all", "--draws", "1"]
    said = refused(*words)
    assert "3 of the 12 images of" in said
    assert "are among those that" in said
    np.savez(tmp_path / "test.npz", fresh, np.array([1, 2, 3] * 3))
    assert json_of("measure", *words)["n"] == 9


def test_odd_images_are_ranked_by_file(digits_run, json_of, refused, tmp_path, capsys):
    rows = tmp_path / "rows.csv"
    words = ["measure", digits_run, "--rank", "--draws", "2", "--limit", "30"]
    record = json_of("rank", *words, "--csv", rows)
    assert (record["n"], len(record["images"])) == (30, 30)
    assert [row["rank"] for row in record["images"]] == list(range(1, 31))
    with rows.open(newline="") as file:
        assert [int(row["image"]) for row in csv.DictReader(file)] == [row["image"] for row in record["images"]]
    capsys.readouterr()
    assert main([*map(str, words), "--save"]) == 0
    out = capsys.readouterr().out
    saved = next((digits_run / "measurements").glob("test-*"))
    assert f"saved in {saved}" in out
    with Image.open(saved / "oddest.png") as sheet:
        assert sheet.size[0] >= 256
    shutil.rmtree(digits_run / "measurements")
    assert "held-out images: none of 30" in out or "are odd" in out
    assert "takes no --ode: leave it out" in refused("measure", digits_run, "--rank", "--ode")
    assert "give --draws a number" in refused("measure", digits_run, "--rank", "--draws", "all")


def test_a_single_image_of_one_class_can_be_measured(numbered_run, json_of, refused, tmp_path, capsys):
    image = np.full((1, 8, 8), 7, dtype=np.uint8)
    np.savez(tmp_path / "one.npz", image, np.array([3]))
    found = json_of("measure", "measure", numbered_run, tmp_path / "one.npz", "--draws", "all")
    whole = measure(load(numbered_run), image[:, None], np.array([2]), draws="all")
    assert found["nats"]["mean"] == pytest.approx(float(whole.total[0]), rel=1e-6)
    assert "at least 3 different images" in refused("measure", numbered_run, tmp_path / "one.npz", "--split", "test")
    np.savez(tmp_path / "other.npz", image, np.array([4]))
    capsys.readouterr()
    assert main(["measure", str(numbered_run), str(tmp_path / "other.npz")]) == 0
    said = capsys.readouterr().err
    assert "(4): measuring without classes" in said
    assert "under the model's learned null" in said
    np.savez(tmp_path / "other.npz", np.concatenate([image, image + 1]), np.array([3, 4]))
    said = refused("measure", numbered_run, tmp_path / "other.npz", "--split", "all")
    assert "has a class '4' and" in said
    assert "only 1, 2, 3: rename" in said


def test_classes_that_are_numbers_keep_theirs(numbered_run, json_of, refused, tmp_path):
    words = ["sample", numbered_run, "--n", "2", "--steps", "2", "--out", tmp_path / "three"]
    record = json_of("sample", *words, "--class", "3")
    assert record["labels"] == [3, 3]
    with np.load(tmp_path / "three" / "samples.npz") as samples:
        assert samples["arr_1"].tolist() == [3, 3]
    again = json_of(
        "measure", "measure", numbered_run, tmp_path / "three" / "samples.npz", "--split", "all", "--draws", "1"
    )
    assert again["n"] == 2
    assert "--class 0 is unknown: this run has 1, 2, 3" in refused("sample", numbered_run, "--class", "0")


def test_data_that_changed_since_are_measured_with_a_warning(images, tmp_path, json_of, capsys):
    run = tmp_path / "run"
    assert main(["train", str(images), "--out", str(run), "--steps", "1", "--no-report", *settings()]) == 0
    np.save(images, np.random.default_rng(1).integers(0, 256, (40, 8, 8)).astype(np.uint8))
    assert json_of("measure", "measure", run, "--draws", "1")["data"]["matches_run"] is False
    assert main(["measure", str(run), "--draws", "1"]) == 0
    err = capsys.readouterr().err
    assert "other pixels than when the run was made" in err
    assert "may have been trained on" in err


def test_files_without_an_image_and_what_was_done_to_the_others_are_told(images, tmp_path, capsys):
    run = str(tmp_path / "run")
    assert main(["train", str(images), "--out", run, "--steps", "1", "--no-report", *settings()]) == 0
    capsys.readouterr()
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (12, 12), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no image")
    assert main(["measure", run, str(folder), "--split", "all", "--draws", "1", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["n"] == 8
    assert "warning: 1 file of" in told.err
    assert "(broken.png: not an image" in told.err
    assert "data: " in told.err


def test_other_data_are_measured_by_a_run_that_held_out_and_told_its_axes(digits_run):
    opened = SimpleNamespace(model=SimpleNamespace(shape=(3, 8, 8)))
    config = DataConfig("faces", hold_out=("hair=curly, glasses=round",), layout="nchw")
    assert like(config, "photos", opened) == DataConfig("photos", size=8, channels="rgb", enlarge=True)
    assert like(config, "faces", opened).hold_out == config.hold_out


def test_what_does_not_fit_is_refused(digits_run, images, tmp_path, refused):
    cases = [
        ([images], "has 256 values per pixel, but the model needs 17"),
        (["nothing-there"], "there is no data source"),
        (["--levels", "9"], "levels=9 must lie in 1…8"),
    ]
    for words, said in cases:
        assert said in refused("measure", digits_run, *words), words
    assert "is not a folder" in refused("measure", tmp_path / "missing")


def test_classes_are_found_by_name_whatever_their_order(numbered_run, tmp_path):
    """A run of classes 1, 2, 3 against data of 3 and 1: quality conditions on the run's own numbers."""
    rng = np.random.default_rng(2)
    np.savez(tmp_path / "other.npz", rng.integers(0, 256, (40, 8, 8)).astype(np.uint8), np.array([3, 1] * 20))
    opened = open_run(
        SimpleNamespace(run_path=str(numbered_run), device="cpu", precision="float32", trust=()), trained_in=True
    )
    _, splits, _ = own_data(opened, str(tmp_path / "other.npz"))
    plain = load_data(str(tmp_path / "other.npz")).train
    assert splits.train.class_names == ("1", "2", "3")
    assert np.array_equal(splits.train.labels, np.array([0, 2])[plain.labels])


@pytest.mark.parametrize("names", [("7", "07"), ("10150123456789012345", "10150123456789012346"), ("²", "3")])
def test_names_that_are_no_plain_numbers_keep_their_places(names):
    opened = SimpleNamespace(class_names=names, num_classes=2)
    assert as_named(opened, torch.tensor([1, 0])).tolist() == [1, 0]


def test_two_runs_of_other_classes_are_compared_without_any(numbered_run, tmp_path, json_of, refused):
    rng = np.random.default_rng(3)
    np.savez(tmp_path / "two.npz", rng.integers(0, 256, (40, 8, 8)).astype(np.uint8), np.arange(40) % 2 + 7)
    words = ["train", str(tmp_path / "two.npz"), "--out", str(tmp_path / "rival"), "--steps", "2", "--no-report"]
    assert main([*words, *settings()]) == 0
    np.save(tmp_path / "flat.npy", rng.integers(0, 256, (5, 8, 8)).astype(np.uint8))
    asked = ["--against", tmp_path / "rival", "--split", "all", "--draws", "1"]
    assert json_of("measure", "measure", numbered_run, tmp_path / "flat.npy", *asked)["n"] == 5
    said = refused("measure", numbered_run, numbered_run.parent / "run.npz", *asked)
    assert "different classes: measure each by itself" in said
