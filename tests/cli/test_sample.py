"""`markovae sample`: the files, where they come from, classes, and what is refused."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import markovae as mv
from markovae.checkpoints.reading import load, open_checkpoint
from markovae.cli import sample as command
from markovae.cli.entry import main
from markovae.sampling.generation import sample
from markovae.sampling.sampler_table import SAMPLERS, samplers_markdown

ROOT = Path(__file__).parents[2]


def drawn(run, out, *words):
    assert main(["sample", str(run), "--out", str(out), *words]) == 0
    return np.load(out / "samples.npz", allow_pickle=False)


def test_the_files_hold_the_samples_of_the_library(digits_run, tmp_path):
    out = tmp_path / "out"
    arrays = drawn(digits_run, out, "--n", "5", "--steps", "4", "--seed", "3")
    expected = sample(load(digits_run), 5, steps=4, seed=3, labels=[0, 1, 2, 3, 4])
    assert np.array_equal(arrays["arr_0"], expected.transpose(0, 2, 3, 1))
    assert arrays["arr_0"].dtype == np.uint8
    assert arrays["arr_1"].tolist() == [0, 1, 2, 3, 4]
    names = sorted(path.name for path in out.iterdir())
    assert names == [*(f"{i:05d}.png" for i in range(5)), "grid.png", "samples.npz"]
    for index in range(5):
        picture = Image.open(out / f"{index:05d}.png")
        assert picture.mode == "L"
        assert np.array_equal(np.asarray(picture), np.round(expected[index, 0] * (255 / 16)).astype(np.uint8))


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ((), {}),
        (("--class", "none", "--seed", "2"), {"labels": "none", "seed": 2}),
        (("--class", "3", "--guidance", "2"), {"labels": 3, "guidance": 2}),
        (("--sampler", "unipc3", "--steps", "5", "--spacing", "karras", "--threshold", "static", "--batch", "2"),
         {"sampler": "unipc3", "steps": 5, "spacing": "karras", "threshold": "static", "batch": 2}),
        (("--spacing", "optimal", "--steps", "4"), {"spacing": "optimal", "steps": 4}),
        (("--shard", "2/3", "--batch", "2"), {"shard": (2, 3), "batch": 2}),
    ],
)  # fmt: skip
def test_the_command_draws_what_the_library_draws_by_the_same_arguments(words, options, digits_run, tmp_path):
    arrays = drawn(digits_run, tmp_path / "out", "--n", "5", *words)
    expected = mv.sample(mv.load_run(digits_run).model, 5, **options)
    assert np.array_equal(arrays["arr_0"], expected.transpose(0, 2, 3, 1))


def test_the_documentation_has_the_table_of_samplers():
    assert samplers_markdown() in (ROOT / "docs" / "sampling.md").read_text(encoding="utf-8")


def test_a_png_says_how_to_draw_it_again(digits_run, tmp_path):
    drawn(digits_run, tmp_path / "out", "--n", "2", "--steps", "3", "--sampler", "ddim", "--class", "7")
    text = Image.open(tmp_path / "out" / "00001.png").text
    assert text["markovae:checkpoint"] == open_checkpoint(digits_run).digest
    wanted = {"sampler": "ddim", "steps": "3", "seed": "0", "index": "1", "class": "7"}
    assert {name: text[f"markovae:{name}"] for name in wanted} == wanted


def test_sample_i_does_not_depend_on_the_batch_or_the_count(digits_run, tmp_path):
    few = drawn(digits_run, tmp_path / "few", "--n", "3", "--steps", "4")["arr_0"].astype(int)
    many = drawn(digits_run, tmp_path / "many", "--n", "7", "--steps", "4", "--batch", "2")["arr_0"].astype(int)
    assert np.abs(few - many[:3]).max() <= 1


def test_classes_by_name_number_all_and_none(digits_run, tmp_path):
    words = ["--n", "3", "--steps", "2"]
    assert drawn(digits_run, tmp_path / "a", *words, "--class", "4")["arr_1"].tolist() == [4, 4, 4]
    assert drawn(digits_run, tmp_path / "b", *words, "--class", "all")["arr_1"].tolist() == [0, 1, 2]
    assert drawn(digits_run, tmp_path / "c", *words, "--class", "none").files == ["arr_0"]


def test_several_classes_are_rows_with_the_same_noise_down_each_column(digits_run, tmp_path):
    arrays = drawn(digits_run, tmp_path / "out", "--n", "3", "--steps", "2", "--class", "4", "--class", "7")
    assert arrays["arr_1"].tolist() == [4] * 3 + [7] * 3
    expected = mv.sample(mv.load_run(digits_run).model, 3, steps=2, labels=7)
    assert np.abs(arrays["arr_0"][3:].astype(int) - expected.transpose(0, 2, 3, 1)).max() <= 1
    with Image.open(tmp_path / "out" / "grid.png") as picture:
        assert picture.size == (8 * (3 * 9 - 1), 8 * (2 * 9 - 1)), "enlarged to 64 pixels a side"


def test_the_guidance_that_a_run_chose_is_the_default_of_its_classes(digits_run):
    model = mv.load_run(digits_run).model
    plain, guided = mv.sample(model, 3, steps=3), mv.sample(model, 3, steps=3, guidance=3)
    model.guidance = 3.0
    assert np.array_equal(mv.sample(model, 3, steps=3), guided)
    assert np.array_equal(mv.sample(model, 3, steps=3, guidance=1), plain)
    unconditional = mv.sample(model, 3, steps=3, labels="none")
    model.guidance = 1.0
    assert np.array_equal(mv.sample(model, 3, steps=3, labels="none"), unconditional)


def test_json_and_the_default_place(digits_run, json_of):
    words = ["sample", digits_run, "--n", "2", "--steps", "2", "--seed", "9"]
    first, second = (json_of("sample", *words) for _ in range(2))
    assert first["out"] == str(digits_run / "samples" / "sde-dpmpp2m-2-seed9-1")
    assert second["out"].endswith("seed9-2"), "nothing is overwritten"
    assert (first["n"], first["network_calls_per_sample"], first["labels"]) == (2, 2, [0, 1])


def test_the_help_names_every_sampler():
    words = set(re.findall(r"[\w-]+", command.EXAMPLES.partition("samplers:")[2]))
    assert set(SAMPLERS) <= words


def test_what_the_run_does_not_offer_is_refused(digits_run, tmp_path, refused):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    (tmp_path / "none").mkdir()
    cases = [
        ([digits_run, "--sampler", "dmipp"], "'dmipp' is unknown"),
        ([digits_run, "--class", "eleven"], "--class eleven is unknown: this run has 0, 1, 2"),
        ([digits_run, "--class", "all", "--class", "3"], "--class all and --class none stand alone"),
        ([digits_run, "--sampler", "ancestral", "--steps", "9"], "steps=9 exceeds"),
        ([digits_run, "--out", tmp_path / "full"], "is not empty: name a new folder"),
        ([digits_run, "--out", tmp_path / "full" / "a"], "is a file"),
        ([digits_run, "--out", tmp_path / "full" / "a" / "b"], "cannot be written"),
        ([tmp_path / "missing"], "is not a folder"),
        ([tmp_path / "none"], "is not a run"),
        ([open_checkpoint(digits_run).path], "is a checkpoint, not a run: name a folder with --out"),
    ]
    for words, said in cases:
        assert said in refused("sample", *words, "--n", "1", *(() if "--steps" in words else ("--steps", "1"))), words
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["a"]
    assert not any((tmp_path / "none").iterdir())


@pytest.mark.parametrize("words", [["--class", "3"], ["--guidance", "2"]])
def test_a_run_without_classes_takes_none(words, images, tmp_path, refused):
    from .conftest import settings

    run = str(tmp_path / "run")
    assert main(["train", str(images), "--out", run, "--steps", "1", "--no-report", *settings()]) == 0
    assert "trained without" in refused("sample", run, "--n", "1", *words)
    assert drawn(run, tmp_path / "out", "--n", "2", "--steps", "1").files == ["arr_0"]


def test_the_sampler_named_as_the_default_is_the_default() -> None:
    from markovae.cli.entry import command_line
    from markovae.sampling.sampler_table import DEFAULT_SAMPLER, SAMPLERS

    assert command_line(["sample", "runs/a"]).sampler == DEFAULT_SAMPLER
    assert DEFAULT_SAMPLER in SAMPLERS
