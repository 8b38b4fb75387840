"""`markovae train --objective`: what it stands for, what comes after it, and a run to the end."""

import numpy as np

from markovae.checkpoints.reading import load, open_checkpoint
from markovae.cli import train
from markovae.cli.entry import command_line, main
from markovae.diffusion.reverse import IsotropicVariance

from .conftest import settings


def configured(*words: str):
    return train.configuration(command_line(["train", "digits", "--out", "x", *words]))


def test_settings_come_after_the_objective():
    config = configured("--objective", "bound", "--set", "target.reverse=diagonal")
    assert (config.train.objective, config.train.level_sampling, config.target.reverse) == (
        "bound",
        "importance",
        "diagonal",
    )
    assert configured().train.objective == "weighted"
    learned = configured("--objective", "bound", "--set", "schedule.kind=learned")
    assert (learned.schedule.kind, learned.train.level_sampling) == ("learned", "uniform")
    assert configured("--objective", "simple").train.weighting == "noise"


def test_objective_comes_after_the_file(tmp_path):
    (tmp_path / "c.toml").write_text('[schedule]\nkind = "learned"\n[train]\nobjective = "bound"\nsteps = 5\n')
    config = configured("--config", str(tmp_path / "c.toml"), "--objective", "bound")
    assert (config.train.level_sampling, config.train.steps) == ("uniform", 5)


def test_words_that_do_not_go(refused, tmp_path):
    assert "did you mean bound?" in refused("train", "digits", "--out", "x", "--objective", "bond")
    assert "--objective does not go with --resume" in refused("train", "--resume", "--out", "x", "--objective", "bound")
    said = refused("train", "digits", "--out", "x", "--set", "schedule.kind=learned", *settings())
    assert said.startswith(
        "schedule.kind=learned is itself the distribution of levels and follows the bound: set train.objective"
    )
    np.save(tmp_path / "large.npy", np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8))
    said = refused("train", tmp_path / "large.npy", "--out", "x", "--set", "target.reverse=full", *settings())
    assert "these images have 3,072: 1,024 is the limit" in said


def test_a_run_that_minimises_the_bound_is_measured_and_sampled(tmp_path, json_of):
    out = tmp_path / "run"
    words = ["train", "digits", "--out", str(out), "--steps", "60", "--objective", "bound", "--no-report"]
    assert main([*words, *settings(train__fit_images="32")]) == 0
    assert isinstance(load(out).reverse, IsotropicVariance)
    assert set(open_checkpoint(out).state["level_sampling"]) == {"moment", "visits"}
    record = json_of("measure", "measure", out, "--limit", "20", "--draws", "all")
    assert 0 < record["bits_per_dim"]["mean"] < 12
    json_of("sample", "sample", out, "--n", "2", "--sampler", "ancestral", "--steps", "4", "--out", tmp_path / "s")
