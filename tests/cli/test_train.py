"""`markovae train`: a run and its report; what is refused, and that nothing is written then."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from markovae.checkpoints.reading import load, open_checkpoint
from markovae.cli import train
from markovae.cli.entry import command_line, main
from markovae.errors import UserError

from .conftest import check, settings


def test_a_run_ends_with_its_report(digits_run):
    names = {path.name for path in digits_run.iterdir()}
    assert {"config.toml", "checkpoints", "metrics.jsonl", "samples", "report.html", "report.json"} <= names
    record = json.loads((digits_run / "report.json").read_text(encoding="utf-8"))
    check(record, "report")
    assert record["run"]["step"] == 12
    assert record["run"]["images_seen"] == 96
    assert record["measurement"]["n"] == 180
    assert record["data"]["bins"] == 17


def test_flags_come_after_the_file_and_the_settings(tmp_path):
    (tmp_path / "c.toml").write_text('[data]\nsource = "digits"\n[train]\nsteps = 5\nbatch = 4\nlr = 0.5\n')
    words = ["train", "--config", str(tmp_path / "c.toml"), "--set", "train.batch=6", "--minutes", "2", "--out", "x"]
    config = train.configuration(command_line([*words, "--precision", "float32"]))
    assert config.data.source == "digits"
    assert (config.train.steps, config.train.minutes, config.train.batch, config.train.lr) == (None, 2.0, 6, 0.5)
    assert config.train.precision == "float32"
    assert train.configuration(command_line(["train", "a=b", "--out", "x"])).data.source == "a=b"


def test_json_is_the_report(images, tmp_path, json_of):
    out = tmp_path / "run"
    record = json_of("report", "train", images, "--out", out, "--steps", "2", *settings())
    assert record == json.loads((out / "report.json").read_text(encoding="utf-8"))


def test_a_run_goes_on_and_its_report_with_it(images, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", str(images), "--out", str(out), "--steps", "2", "--no-report", *settings()]) == 0
    assert not (out / "report.html").exists()
    assert main(["train", str(images), "--resume", "--out", str(out), "--steps", "4"]) == 0
    assert json.loads((out / "report.json").read_text(encoding="utf-8"))["run"]["step"] == 4
    written = (out / "report.json").stat().st_mtime_ns
    assert main(["train", "--resume", "--out", str(out)]) == 0
    assert "has finished" in capsys.readouterr().err
    assert (out / "report.json").stat().st_mtime_ns == written, "a report of the same step stays"


def test_constant_sigma_works_and_warns_with_its_figure(images, tmp_path, capsys):
    words = ["--set", "schedule.kind=constant", "--set", "schedule.delta=0.01"]
    out = tmp_path / "run"
    assert main(["train", str(images), "--out", str(out), "--steps", "1", "--no-report", *settings(), *words]) == 0
    assert "grey levels" in next(line for line in capsys.readouterr().err.splitlines() if "warning" in line)
    assert load(out).num_levels == 8


@pytest.mark.parametrize("flag", [["--config", "x"], ["--set", "a=b"], ["--init", "x"], ["--batch", "3"]])
def test_what_a_resumed_run_cannot_change_is_refused(flag, digits_run, refused):
    said = refused("train", "--resume", "--out", digits_run, *flag)
    assert said.startswith(f"{flag[0]} does not go with --resume")


def folder_of(path: Path, count: int, size: int = 8) -> Path:
    path.mkdir()
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 256, (size, size)).astype(np.uint8)
        Image.fromarray(pixels).save(path / f"{index}.png")
    return path


def test_bad_data_is_refused_and_nothing_is_written(tmp_path, refused):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no image")
    cases = [
        (tmp_path / "missing", "there is no data source"),
        (tmp_path / "empty", "image"),
        (tmp_path / "broken", "a.png"),
        (folder_of(tmp_path / "one", 1), "at least 3 different images"),
        (folder_of(tmp_path / "few", 6), "train.batch=8 but there are only 4 images"),
    ]
    for data, said in cases:
        assert said in refused("train", data, "--out", tmp_path / "run", "--steps", "2", *settings()), data
        assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_used_is_refused(tmp_path, images, digits_run, refused):
    full = folder_of(tmp_path / "full", 1)
    said = refused("train", images, "--out", full, *settings())
    assert "--resume" in said
    assert "name another" in said
    assert len(list(full.iterdir())) == 1
    assert "holds a run already" in refused("train", images, "--out", digits_run, *settings())
    assert "--out" in refused("train", images, "--out", full / "0.png" / "run", *settings())
    assert "is not a run" in refused("train", "--resume", "--out", full)
    said = refused("train", images, "--resume", "--out", digits_run)
    assert "where the run had" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["digits", "--set", "network.widht=3"], "unknown setting network.widht: did you mean network.width"),
        (["digits", "--set", "train.lr"], "--set train.lr: write it as"),
        (["digits", "--config", "missing.toml"], "missing.toml cannot be read"),
        (["digits", "--device", "cuda:77"], "device cuda:77 is not on this machine"),
        (["digits", "--device", "gpu"], "device gpu is not on this machine"),
        (["digits", "--init", "nowhere"], "nowhere is not a folder"),
        ([], "DATA is missing"),
        (["digits", "--json", "--no-report", "--steps", "1"], "leave --no-report out"),
    ],
)
def test_bad_options_are_refused(words, said, tmp_path, refused):
    assert said in refused("train", *words, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_stops_the_run_with_code_3(images, tmp_path, refused):
    words = settings(train__lr="1e30", train__adamw_lr="1e30", train__clip="1e30", train__warmup_steps="0")
    out = tmp_path / "run"
    said = refused("train", images, "--out", out, "--steps", "30", *words, code=3)
    assert "step" in said
    assert "last good checkpoint" in said
    assert open_checkpoint(out).step < 30


def test_a_learned_schedule_that_is_useless_stops_the_run_with_code_3(images, tmp_path, refused):
    words = settings(
        schedule__kind="learned", train__objective="bound", train__adamw_lr="1e30", train__warmup_steps="0"
    )
    out = tmp_path / "run"
    said = refused("train", images, "--out", out, "--steps", "3", *words, code=3)
    assert "after step 1: it is not kept" in said
    assert "last good checkpoint" in said
    assert open_checkpoint(out).step == 0


def test_weights_that_no_variance_can_be_fitted_to_stop_the_run_with_code_3(images, tmp_path, refused, monkeypatch):
    def overflow(*args, **options):
        raise UserError("the model's outputs are not finite: this model cannot be surveyed")

    monkeypatch.setattr("markovae.likelihood.fitting.fit_stages", overflow)
    out = tmp_path / "run"
    said = refused("train", images, "--out", out, "--steps", "2", *settings(target__reverse="isotropic"), code=3)
    assert "the reverse variance cannot be fitted after step" in said
    assert "last good checkpoint" in said


def test_a_truncated_checkpoint_is_named(digits_run, tmp_path, refused):
    run = tmp_path / "copy"
    shutil.copytree(digits_run, run)
    for path in (run / "checkpoints").glob("*/ema.safetensors"):
        path.write_bytes(path.read_bytes()[:-10])
    for command in (["sample", run], ["measure", run], ["train", "--resume", "--out", run]):
        said = refused(*command)
        assert "ema.safetensors has" in said
        assert "truncated" in said


def test_an_interrupt_during_the_report_says_how_to_get_it(digits_run, tmp_path, monkeypatch, capsys):
    def interrupted(*asked):
        raise KeyboardInterrupt

    run = tmp_path / "copy"
    shutil.copytree(digits_run, run)
    (run / "report.json").unlink()
    monkeypatch.setattr("markovae.report.report_writing.write_report", interrupted)
    assert main(["train", "--resume", "--out", str(run)]) == 130
    assert f"markovae train --resume --out {run}" in capsys.readouterr().err


def test_data_are_needed_unless_a_file_names_them():
    with pytest.raises(UserError, match="DATA is missing"):
        train.configuration(command_line(["train", "--out", "x"]))
    assert train.configuration(command_line(["train", "--out", "x", "--set", "data.source=digits"]))
