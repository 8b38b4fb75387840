"""`markovae quality`: a record on stdout, words for people, comparisons refused before anything is drawn."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import markovae as mv
from markovae.checkpoints.reading import load_run
from markovae.cli.entry import main
from markovae.cli.quality_words import memorization_in_words
from markovae.data.faceset import render

from .conftest import check

REFERENCE = Path(__file__).parents[1] / "fixtures" / "reference"
QUICK = ("--n", "12", "--steps", "2")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all tests: the features of the same images are computed once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARKOVAE_CACHE", str(cache))


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An array file of sixty faces that no run has seen."""
    path = tmp_path_factory.mktemp("faces") / "faces.npy"
    np.save(path, np.stack([render(i, 32) for i in range(60_000, 60_060)]))
    return path


def test_the_reference_model(json_of: Callable[..., Any], faces: Path) -> None:
    record = json_of("quality", "quality", REFERENCE, faces, "--n", "8", "--steps", "1", "--seed", "5")
    shown = record["conditions"]
    assert (shown["n"], shown["steps"], shown["seed"], shown["extractor"]) == (8, 1, 5, "small")
    assert shown["reference_n"] == 12  # a fifth of sixty is held out
    assert record["data"] == {"source": str(faces), "matches_run": None}
    # One call gives the mean of all faces.
    assert record["kid"]["value"] > record["kid_floor"]["value"] + 5 * record["kid"]["stderr"]


def test_digits_with_their_classes(json_of: Callable[..., Any], digits_run: Path) -> None:
    record = json_of("quality", "quality", digits_run, *QUICK)
    assert record["data"] == {"source": "digits", "matches_run": True}
    assert record["conditions"]["reference_n"] > 300
    assert record == {**json_of("quality", "quality", digits_run, *QUICK), "seconds": record["seconds"]}


def test_the_command_and_python_give_one_record(json_of: Callable[..., Any], digits_run: Path) -> None:
    record = json_of("quality", "quality", digits_run, *QUICK)
    found = mv.evaluate(load_run(digits_run).model, mv.load_data("digits"), 12, steps=2, progress=False).to_dict()
    assert {name: record[name] for name in found} == found


def test_samples_of_any_maker(
    json_of: Callable[..., Any], refused: Callable[..., str], digits_run: Path, tmp_path: Path, capsys
) -> None:
    assert main(["sample", str(digits_run), "--n", "12", "--steps", "2", "--out", str(tmp_path / "drawn")]) == 0
    record = json_of("quality", "quality", tmp_path / "drawn", "digits")
    assert record["checkpoint"] is None
    assert record["conditions"]["sampler"] is None
    found = mv.evaluate(tmp_path / "drawn", "digits", progress=False).to_dict()
    assert {name: record[name] for name in found} == found
    assert main(["quality", str(tmp_path / "drawn" / "samples.npz"), "digits", "--n", "10"]) == 0
    assert "10 samples (given) against" in capsys.readouterr().out
    assert "name the images that they imitate" in refused("quality", tmp_path / "drawn")
    assert "--steps is for samples that are drawn" in refused("quality", tmp_path / "drawn", "digits", "--steps", "3")


def test_in_words(digits_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quality", str(digits_run), *QUICK]) == 0
    out = capsys.readouterr().out
    for words in ("KID", "floor", "Fréchet distance", "recall", "nearest training image", "compare at equal n only"):
        assert words in out
    assert "FID" not in out
    assert "12 samples (sde-dpmpp2m, 2 network evaluations each, seed 0) against" in out


@pytest.mark.parametrize(
    ("value", "stderr", "copies", "verdict"),
    [
        (0.19, 0.02, 0, "No memorization: samples lie farther"),
        (0.51, 0.02, 0, "No memorization: samples lie as far"),
        (0.7, 0.02, 0, "Memorization: samples lie nearer"),
        (0.51, 0.02, 4, "Memorization: some samples are copies"),
    ],
)
def test_memorization_is_said_in_words(value: float, stderr: float, copies: int, verdict: str) -> None:
    pair = {"sample": 7, "file": None, "train_index": 3, "train_file": "cats/3.png", "distance": 0.1}
    nearer = {"value": value, "stderr": stderr, "ci95": [value - 2 * stderr, value + 2 * stderr]}
    memory = {"nearer": nearer, "copies": copies, "suspicious": copies, "expected": 1.0, "searched": 90}
    said = memorization_in_words({**memory, "nearest": [pair] * 10}, 100)
    assert said.startswith(verdict)
    assert ("sample 7 of cats/3.png" in said) == bool(copies)
    assert (", …" in said) == (copies > 3)


def test_what_was_trained_on_is_told_in_a_reference_and_in_other_data(digits_run: Path, capsys) -> None:
    assert main(["quality", str(digits_run), *QUICK, "--against", "digits", "--json"]) == 0
    said = capsys.readouterr()
    record = json.loads(said.out)
    check(record, "quality")
    assert (record["against"], record["conditions"]["reference_n"]) == ("digits", 1797)
    assert "images of digits are training images here: copies of them count as good" in said.err
    assert main(["quality", str(digits_run), "digits", *QUICK]) == 0
    assert "The run was not trained on this split of digits" in capsys.readouterr().out


def test_comparing_needs_equal_conditions(
    json_of: Callable[..., Any], refused: Callable[..., str], digits_run: Path, tmp_path: Path
) -> None:
    record = json_of("quality", "quality", digits_run, *QUICK)
    path = tmp_path / "old.json"
    path.write_text(json.dumps(record), encoding="utf-8")
    again = json_of("quality", "quality", digits_run, *QUICK, "--compare", path)
    assert again["compared"]["kid_difference"] == 0
    command = ("quality", digits_run, "--n", "12", "--steps", "3", "--compare", path)
    assert "differ in steps (3 and 2)" in refused(*command)
    other = json_of("quality", *command, "--varying", "steps")
    expected = other["kid"]["value"] - record["kid"]["value"]
    assert other["compared"]["kid_difference"] == pytest.approx(expected)
    assert "'colour' is no condition" in refused(*command, "--varying", "colour")
    path.write_text("[]", encoding="utf-8")
    assert "no quality record" in refused(*command)
    path.write_text("{", encoding="utf-8")
    assert "is not JSON" in refused(*command)
    assert "cannot be read" in refused("quality", digits_run, "--compare", tmp_path / "missing.json")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--n", "0"), "must be at least 1"),
        (("--n", "3"), "n=3 must be at least 4"),
        (("--n", "99999"), "exceeds the"),
        (("--extractor", "smal"), "did you mean small?"),
        (("--extractor", "inception"), "--weights"),
        (("--weights", "x", "--extractor", "small"), "leave them out"),
        (("--weights", "x"), "x cannot be read"),
        (("--varying", "steps"), "goes with --compare"),
        (("--steps", "0"), "must be at least 1"),
        (("--against", "nowhere"), "no data source"),
    ],
)
def test_bad_options_are_one_sentence(
    refused: Callable[..., str], digits_run: Path, options: tuple[str, ...], words: str
) -> None:
    assert words in refused("quality", digits_run, *options)


def test_faces_are_no_digits(refused: Callable[..., str], digits_run: Path, faces: Path) -> None:
    assert "values per pixel" in refused("quality", digits_run, faces, *QUICK)
