"""Every reverse variance, decoder, schedule and objective: trained, saved, loaded, sampled and measured by a run."""

import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from markovae.checkpoints.manifest import MANIFEST, CheckpointError, make_manifest
from markovae.checkpoints.reading import load, open_checkpoint
from markovae.config import Config
from markovae.data.loading import load_data
from markovae.diffusion.reverse import DiagonalVariance, FullVariance, IsotropicVariance, LearnedVariance, StepVariance
from markovae.errors import UserError
from markovae.likelihood.fitting import with_reverse
from markovae.likelihood.measuring import measure
from markovae.run.start import resume_run, train_run
from markovae.sampling.generation import sample
from markovae.system.jsonlines import read_rows

from .conftest import on_images
from .test_start import interrupt_at, weights

KINDS = {
    "step": StepVariance,
    "isotropic": IsotropicVariance,
    "diagonal": DiagonalVariance,
    "learned": LearnedVariance,
    "full": FullVariance,
}
LEARNED = ["schedule.kind=learned", "train.objective=bound"]
IMPORTANCE = ["train.objective=bound", "train.level_sampling=importance"]


@pytest.fixture(scope="module")
def isotropic(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with the isotropic variance, which is fitted; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("isotropic")
    return train_run(on_images(tiny_config, folder).with_settings(["target.reverse=isotropic"]), folder / "run")


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_with_each_reverse_variance_ends_ready_to_measure_and_to_sample(
    run_config: Config, tmp_path: Path, kind: str
):
    settings = [f"target.reverse={kind}", "train.steps=2", "train.evaluations=1"]
    run = train_run(run_config.with_settings(settings), tmp_path / "run")
    model = load(run)
    assert isinstance(model.reverse, KINDS[kind])
    test = load_data(run_config.data).test.images
    assert bool(measure(model, test, draws=4).total.isfinite().all())
    few = measure(model, test, draws=None, levels=5)
    assert few.num_levels == 5
    assert bool(few.total.isfinite().all())
    assert sample(model, 2, sampler="ancestral", steps=6).shape == (2, 1, 4, 4)
    assert {row["kind"] for row in read_rows(run / "metrics.jsonl").rows} == {"train", "heldout"}
    fitted = "fitted.safetensors" in open_checkpoint(run).contents
    assert fitted == (kind in ("isotropic", "diagonal"))


@pytest.mark.parametrize(
    "settings",
    [["target.decoder=softmax"], ["target.decoder=ho_large", "schedule.kind=linear"], LEARNED, IMPORTANCE],
    ids=["softmax", "ho", "learned", "importance"],
)
def test_a_run_with_each_other_choice(run_config: Config, tmp_path: Path, settings: list[str]):
    few = ["train.steps=2", "train.evaluations=1"]
    run = train_run(run_config.with_settings([*settings, *few]), tmp_path / "run")
    model = load(run)
    test = load_data(run_config.data).test.images
    assert bool(measure(model, test, draws=4).total.isfinite().all())
    assert sample(model, 2, sampler="ancestral", steps=6).shape == (2, 1, 4, 4)
    assert sample(model, 2, steps=6).dtype == np.uint8


@pytest.mark.parametrize(
    "settings",
    [
        ["target.reverse=isotropic", "train.evaluations=0", "train.grids=0"],
        ["target.reverse=diagonal", *LEARNED],
        ["target.reverse=learned", *IMPORTANCE],
    ],
    ids=["isotropic", "diagonal and learned schedule", "learned variance and importance"],
)
def test_each_choice_resumes_bit_for_bit(run_config: Config, tmp_path: Path, monkeypatch, settings: list[str]):
    """Interrupted between two held-out figures, and right after the last step."""
    config = run_config.with_settings([*settings, "train.steps=6"])
    whole, cut = train_run(config, tmp_path / "whole"), tmp_path / "cut"
    for step, go in ((4, lambda: train_run(config, cut)), (6, lambda: resume_run(cut))):
        with monkeypatch.context() as patch:
            interrupt_at(patch, step, signal.SIGINT)
            with pytest.raises(SystemExit):
                go()
        assert open_checkpoint(cut).step == step
    resume_run(cut)
    assert weights(cut) == weights(whole)


# -- fitted variances ----------------------------------------------------------------------------------------------


def test_the_fitted_variance_is_that_of_the_averaged_model_on_training_images(isotropic: Path, run_config: Config):
    model, data = load(isotropic), load_data(run_config.data)
    again = with_reverse(model, "isotropic", data.train.images)
    assert torch.equal(again.reverse.errors.error, model.reverse.errors.error)
    other = with_reverse(model, "isotropic", data.test.images)
    assert not torch.equal(other.reverse.errors.error, model.reverse.errors.error)


def test_what_the_run_measured_last_is_what_the_loaded_model_gives(run_config: Config, tmp_path: Path):
    run = train_run(run_config.with_settings(["target.reverse=diagonal"]), tmp_path / "run")
    from markovae.run.heldout import held_out_row

    row = held_out_row(load(run), load_data(run_config.data).validation, run_config.train)
    last = [row for row in read_rows(run / "metrics.jsonl").rows if row["kind"] == "heldout"][-1]
    assert row["bits_per_dim"] == last["bits_per_dim"]


def test_a_checkpoint_before_the_first_fit_says_what_is_missing(isotropic: Path, run_config: Config):
    first = load(isotropic / "checkpoints" / "step-00000000")
    test = load_data(run_config.data).test.images
    with pytest.raises(UserError, match="not fitted yet: a run fits it with every held-out bound and at its end; fit"):
        measure(first, test, draws=2)
    assert sample(first, 1, steps=3).shape == (1, 1, 4, 4)  # a solver needs no variance
    raw = open_checkpoint(isotropic).model("model")
    with pytest.raises(UserError, match="not fitted yet"):
        measure(raw, test, draws=2)


def test_tables_that_do_not_fit_the_configuration_are_refused(isotropic: Path, tmp_path: Path):
    last = isotropic / "checkpoints" / "step-00000012"
    broken = tmp_path / "broken"
    shutil.copytree(last, broken)
    contents = {path.name: path.read_bytes() for path in broken.iterdir() if path.name != MANIFEST}
    contents["config.toml"] = contents["config.toml"].replace(b'"isotropic"', b'"diagonal"')
    (broken / "config.toml").write_bytes(contents["config.toml"])
    (broken / MANIFEST).write_bytes(make_manifest(contents))
    with pytest.raises(CheckpointError, match=r"fitted\.safetensors does not fit .* fitted variance table 'reverse\."):
        load(broken)


def test_exported_weights_keep_their_fit_and_their_schedule(run_config: Config, tmp_path: Path):
    from markovae.checkpoints.writing import export_weights

    run = train_run(run_config.with_settings([*LEARNED, "target.reverse=isotropic"]), tmp_path / "run")
    checkpoint, model = open_checkpoint(run), load(run)
    export_weights(
        tmp_path / "export",
        checkpoint.tensors("ema"),
        {**checkpoint.state, "kind": "weights"},
        checkpoint.config,
        checkpoint.tensors("fitted"),
    )
    shipped = load(tmp_path / "export")
    assert torch.equal(shipped.schedule.logsnr, model.schedule.logsnr)
    assert torch.equal(shipped.reverse.errors.error, model.reverse.errors.error)
    assert not torch.equal(shipped.network.stem.weight, model.network.stem.weight)
