"""The options that choose a sampler: grids worked out once and kept, guidance, thresholds, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from markovae.checkpoints.reading import load, open_checkpoint
from markovae.cli.entry import main
from markovae.data.cache import cache_folder
from markovae.sampling.generation import sample
from markovae.sampling.guidance import Guidance
from markovae.sampling.plans import plan

from .conftest import settings


@pytest.fixture(scope="session")
def weaker_run(tmp_path_factory):
    """A less trained run of the digits."""
    folder = tmp_path_factory.mktemp("weaker")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARKOVAE_CACHE", str(folder / "cache"))
        words = ["--steps", "1", "--no-report", "--set", "train.seed=1", *settings()]
        assert main(["train", "digits", "--out", str(folder / "run"), *words]) == 0
    return folder / "run"


def drawn(run, out, *words):
    assert main(["sample", str(run), "--n", "2", "--out", str(out), *words]) == 0
    return np.load(out / "samples.npz", allow_pickle=False)["arr_0"].transpose(0, 3, 1, 2)


@pytest.mark.parametrize("spacing", ["uniform", "karras", "levels"])
def test_spacings_are_those_of_the_library(spacing, digits_run, tmp_path):
    found = drawn(digits_run, tmp_path / "out", "--steps", "5", "--sampler", "ddim", "--spacing", spacing)
    model = load(digits_run)
    assert np.array_equal(found, sample(model, 2, sampler=plan(model, "ddim", 5, spacing), labels=[0, 1]))
    assert Image.open(tmp_path / "out" / "00001.png").text["markovae:spacing"] == spacing


@pytest.mark.parametrize("spacing", ["optimal", "tuned"])
def test_a_grid_that_takes_work_is_kept_and_used_again(spacing, digits_run, tmp_path, capsys):
    words = ["--steps", "4", "--sampler", "dpmpp2m", "--spacing", spacing]
    before = sorted(path.name for path in digits_run.rglob("*"))
    first = drawn(digits_run, tmp_path / "a", *words)
    assert "searching the" in capsys.readouterr().err
    (kept,) = cache_folder().glob("grid-*")
    again = drawn(digits_run, tmp_path / "b", *words)
    assert str(kept) in capsys.readouterr().err
    assert np.array_equal(first, again)
    assert sorted(path.name for path in digits_run.rglob("*")) == before, "nothing is written into the run"
    written = Image.open(tmp_path / "a" / "00000.png").text["markovae:logsnr"].split()
    assert len(written) == 4
    assert [float(word) for word in written] == sorted(map(float, written), reverse=True)
    if spacing == "optimal":
        drawn(digits_run, tmp_path / "c", "--steps", "5", *words[2:])
        assert len(list(cache_folder().glob("grid-*"))) == 2, "another number of steps is another grid"


def test_guidance_within_its_interval(digits_run, tmp_path, json_of):
    words = ["--class", "3", "--guidance", "3", "--guidance-interval", "-2", "4", "--steps", "4"]
    found = drawn(digits_run, tmp_path / "out", *words)
    wanted = sample(load(digits_run), 2, steps=4, labels=3, guidance=3.0, interval=(-2.0, 4.0))
    assert np.array_equal(found, wanted)
    text = Image.open(tmp_path / "out" / "00000.png").text
    assert (text["markovae:guidance"], text["markovae:guidance-interval"]) == ("3", "-2.0 4.0")
    record = json_of("sample", "sample", digits_run, "--n", "1", "--out", tmp_path / "json", *words)
    assert record["guidance_interval"] == [-2.0, 4.0]
    words = ["--n", "2", "--guidance", "2", "--guidance-interval", "-2", "inf", "--steps", "4", "--json"]
    record = json_of("sample", "sample", digits_run, *words, "--out", tmp_path / "open")
    assert record["guidance_interval"] == [-2.0, None]


def test_guidance_needs_a_model_that_learnt_what_it_leads_away_from(tmp_path, refused):
    from .conftest import settings

    run = tmp_path / "run"
    assert (
        main(["train", "digits", "--out", str(run), "--steps", "1", "--no-report", *settings(train__label_dropout="0")])
        == 0
    )
    assert "never trained without one (train.label_dropout=0): leave it out, or autoguide" in refused(
        "sample", run, "--guidance", "2"
    )


def test_autoguidance_with_a_weaker_run(digits_run, weaker_run, tmp_path):
    words = ["--guidance", "2", "--autoguide", str(weaker_run), "--steps", "4"]
    found = drawn(digits_run, tmp_path / "out", *words)
    push = Guidance(2.0, weaker=load(weaker_run))
    assert np.array_equal(found, sample(load(digits_run), 2, steps=4, labels=[0, 1], guidance=push))
    text = Image.open(tmp_path / "out" / "00000.png").text
    assert text["markovae:autoguide"] == open_checkpoint(weaker_run).digest
    without = drawn(digits_run, tmp_path / "none", *words, "--class", "none")
    assert np.array_equal(without, sample(load(digits_run), 2, steps=4, labels="none", guidance=push))


@pytest.mark.parametrize("how", ["static", "dynamic"])
def test_thresholds_are_off_unless_asked_for(how, digits_run, tmp_path):
    words = ("--steps", "20", "--sampler", "ddim")
    off = drawn(digits_run, tmp_path / "off", *words)
    on = drawn(digits_run, tmp_path / "on", *words, "--threshold", how)
    assert not np.array_equal(on, off)
    assert Image.open(tmp_path / "on" / "00000.png").text["markovae:threshold"] == how
    assert "markovae:threshold" not in Image.open(tmp_path / "off" / "00000.png").text


def test_what_is_drawn_of_a_run_with_classes_is_said(digits_run, tmp_path, capsys):
    for words, said in (
        ([], "each of 10 classes in turn"),
        (["--class", "none"], "without a class"),
        (["--class", "4"], "seed 0)"),
    ):
        drawn(digits_run, tmp_path / str(len(said)), "--steps", "1", *words)
        assert said in capsys.readouterr().out


def test_what_does_not_go_together_is_one_sentence(digits_run, weaker_run, images, tmp_path, refused):
    run = tmp_path / "plain"
    assert main(["train", str(images), "--out", str(run), "--steps", "1", "--no-report", *settings()]) == 0
    cases = [
        ([digits_run, "--guidance-interval", "0", "4"], "interval shapes guidance"),
        ([digits_run, "--autoguide", weaker_run], "autoguide shapes guidance"),
        ([digits_run, "--guidance", "2", "--guidance-interval", "4", "0"], "interval 4…0 is empty"),
        ([digits_run, "--guidance", "2", "--guidance-interval", "a", "0"], "invalid float value: 'a'"),
        ([digits_run, "--guidance", "0"], "'0' must be a number above 0"),
        ([digits_run, "--guidance", "2", "--class", "none"], "guidance=2 needs a condition"),
        ([digits_run, "--guidance", "2", "--autoguide", digits_run], "is the run itself"),
        ([digits_run, "--guidance", "2", "--autoguide", tmp_path / "x"], "is not a folder"),
        ([digits_run, "--guidance", "2", "--autoguide", run], "knows other classes"),
        ([run, "--guidance", "2"], "trained without labels"),
        ([run, "--class", "all"], "trained without"),
        ([digits_run, "--spacing", "karas"], "did you mean karras?"),
        ([digits_run, "--spacing", "tuned", "--sampler", "pc"], "draws random numbers"),
        ([digits_run, "--spacing", "tuned", "--steps", "2"], "at least 3 steps"),
        ([digits_run, "--spacing", "optimal", "--steps", "9"], "levels=9 must lie in 1…8"),
        ([digits_run, "--threshold", "hard"], "static, dynamic"),
        ([digits_run, "--n", "0"], "0 must be at least 1"),
        ([digits_run, "--steps", "0"], "0 must be at least 1"),
    ]
    for words, said in cases:
        assert said in refused("sample", *words, "--out", tmp_path / "out"), words
        assert not (tmp_path / "out").exists()
    assert not list(cache_folder().glob("grid-*")), "a refusal leaves nothing behind"
