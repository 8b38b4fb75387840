"""`mv.train` and `mv.resume`: the same runs as `markovae train`."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import markovae as mv
from markovae.cli.entry import main
from markovae.config import Config
from markovae.errors import UserError

TIMES = ("seconds", "images_per_second")


def rows(run: Path) -> list[dict]:
    kept = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in kept]


def weights(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(run.glob("checkpoints/*/*.safetensors"))}


def test_the_command_and_the_function_train_the_same_run(run_config: Config, tmp_path: Path):
    (tmp_path / "c.toml").write_text(run_config.to_toml())
    data = str(tmp_path / "images.npy")
    words = ["--config", str(tmp_path / "c.toml"), "--set", "train.steps=4", "--device", "cpu", "--no-report"]
    assert main(["train", data, "--out", str(tmp_path / "command"), *words]) == 0
    config = run_config.with_settings(["train.steps=4"])
    run = mv.train(data, tmp_path / "function", config, device="cpu", progress=False)
    assert rows(run.path) == rows(tmp_path / "command")
    assert weights(run.path) == weights(tmp_path / "command") != {}
    assert run.checkpoint.step == 4
    assert torch.equal(run.model.schedule.logsnr, mv.load(tmp_path / "command").schedule.logsnr)

    assert main(["train", "--resume", "--out", str(tmp_path / "command"), "--steps", "6", "--no-report"]) == 0
    run = mv.resume(run.path, steps=6, progress=False)
    assert run.checkpoint.step == 6
    assert rows(run.path) == rows(tmp_path / "command")
    assert weights(run.path) == weights(tmp_path / "command")


def test_nothing_is_told_without_progress_but_warnings(run_config: Config, tmp_path: Path, capfd):
    config = run_config.with_settings(["train.steps=2", "train.optimizer=adamw", "train.lr=0.5"])
    mv.train(None, tmp_path / "run", config, progress=False)
    assert [line.split(":")[0] for line in capfd.readouterr().err.splitlines()] == ["warning"]


def test_what_is_no_place_of_images_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"not ndarray: save them, or train with mv\.fit"):
        mv.train(np.zeros((4, 1, 4, 4), np.uint8), tmp_path / "run")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="name the images"):
        mv.train(None, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_job_that_torchrun_starts_anew_continues(run_config: Config, tmp_path: Path, monkeypatch):
    mv.train(None, tmp_path / "run", run_config.with_settings(["train.steps=2"]), progress=False)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert mv.train(None, tmp_path / "run", run_config, progress=False).checkpoint.step == 2
