"""Loggers: own objects, TensorBoard and Weights & Biases (by stand-ins of their packages), and what goes wrong."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import markovae as mv
from markovae.cli.entry import main
from markovae.config import Config
from markovae.errors import UserError
from markovae.run.loggers import LOGGERS


class Kept:
    """A logger that keeps what it gets."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log(self, values: dict[str, float], step: int) -> None:
        self.rows.append((step, values))


@pytest.fixture
def quick(run_config: Config) -> Config:
    return run_config.with_settings(["train.steps=3", "train.evaluations=1"])


def test_an_own_logger_gets_the_numbers_of_metrics_jsonl(quick: Config, tmp_path: Path):
    kept = Kept()
    run = mv.train(None, tmp_path / "run", quick, loggers=[kept], progress=False)
    written = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [step for step, _ in kept.rows] == [row["step"] for row in written]
    for (_, values), row in zip(kept.rows, written, strict=True):
        assert all(isinstance(value, float) for value in values.values())
        name, where = ("train/loss", row.get("loss")) if row["kind"] == "train" else ("heldout/n", row.get("n"))
        assert values[name] == where
    assert {"train", "heldout"} == {row["kind"] for row in written}
    assert "heldout/bits_per_dim/mean" in kept.rows[-1][1]


def test_a_logger_that_fails_is_left_out_and_ends_nothing(quick: Config, tmp_path: Path, capfd):
    class Broken(Kept):
        def log(self, values: dict[str, float], step: int) -> None:
            super().log(values, step)
            raise ConnectionError("nobody listens\nat all")

    broken, kept = Broken(), Kept()
    mv.train(None, tmp_path / "run", quick, loggers=[broken, kept], progress=False)
    assert len(broken.rows) == 1
    assert len(kept.rows) == 2
    warnings = [line for line in capfd.readouterr().err.splitlines() if "logger" in line]
    assert warnings == ["warning: logger Broken failed and is left out from here on: nobody listens"]


@pytest.mark.parametrize("name", LOGGERS)
def test_a_missing_package_is_one_sentence_before_anything_is_written(name, quick, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr("markovae.run.loggers.find_spec", lambda name: None)
    (tmp_path / "c.toml").write_text(quick.to_toml())
    assert main(["train", "--config", str(tmp_path / "c.toml"), "--out", str(tmp_path / "run"), "--log", name]) == 2
    assert f"pip install 'markovae[{name}]'" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("logger", ["tensorbord", object()])
def test_what_is_no_logger_is_refused(logger, quick: Config, tmp_path: Path):
    with pytest.raises(UserError, match="log"):
        mv.train(None, tmp_path / "run", quick, loggers=[logger])
    assert not (tmp_path / "run").exists()


class Service:
    """What stands in for SummaryWriter and for a wandb run."""

    made: "list[Service]"

    def __init__(self, *words: Any, **options: Any) -> None:
        self.words, self.options, self.rows, self.closed = words, options, [], False
        self.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.rows.append((step, name))

    def log(self, values: dict[str, float], step: int) -> None:
        self.rows += [(step, name) for name in values]

    def close(self) -> None:
        self.closed = True

    finish = close


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> list[Service]:
    """Both packages, as modules of this test."""
    Service.made = []
    board, wandb = ModuleType("torch.utils.tensorboard"), ModuleType("wandb")
    board.SummaryWriter = wandb.init = Service  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr("markovae.run.loggers.find_spec", lambda name: name)
    return Service.made


def test_the_services_get_every_row_and_are_closed(quick: Config, tmp_path: Path, services: list[Service]):
    out = tmp_path / "run"
    mv.train(None, out, quick, loggers=LOGGERS, progress=False)
    board, wandb = services
    assert board.words == (str(out / "tensorboard"),)
    assert (wandb.options["name"], wandb.options["dir"]) == ("run", str(out))
    assert wandb.options["config"]["train"]["steps"] == 3
    assert board.rows == wandb.rows
    assert {(3, "train/loss"), (3, "heldout/bits_per_dim/mean")} <= set(board.rows)
    assert board.closed
    assert wandb.closed


def test_a_run_that_is_resumed_is_continued_at_the_service(quick: Config, tmp_path: Path, services: list[Service]):
    out = tmp_path / "run"
    mv.train(None, out, quick, loggers="wandb", progress=False)
    mv.resume(out, steps=5, loggers="wandb", progress=False)
    first, second = services
    assert (first.options["id"], second.options["resume"]) == (second.options["id"], "allow")
    assert len(first.options["id"]) == 16
    assert min(step for step, _ in second.rows) > max(step for step, _ in first.rows)
    mv.train(None, tmp_path / "other", quick, loggers="wandb", progress=False)
    assert services[2].options["id"] != first.options["id"]


def test_a_service_that_does_not_start_is_told_with_its_remedy(quick: Config, tmp_path: Path, services, monkeypatch):
    def refuse(**options: Any) -> None:
        raise RuntimeError("api_key not configured (no-tty)\ncall wandb.login()")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    with pytest.raises(UserError, match=r"^logger wandb did not start: api_key not .*WANDB_MODE=offline"):
        mv.train(None, tmp_path / "run", quick, loggers="wandb", progress=False)
    assert mv.resume(tmp_path / "run", progress=False).checkpoint.step == 3, "the run is there and goes on without it"
