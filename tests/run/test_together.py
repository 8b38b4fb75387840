"""Runs of two processes: what they leave, and that nothing that happens to one of them loses anything."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from markovae.checkpoints.reading import open_checkpoint
from markovae.config import Config
from markovae.run.start import resume_run, train_run
from markovae.system.jsonlines import read_rows
from markovae.system.processes import current_rank
from markovae.training.trainer import Training

PARALLEL = ("ddp", "fsdp")


def tensors(run: Path) -> dict[str, torch.Tensor]:
    contents = open_checkpoint(run).contents
    files = {name: safetensors.torch.load(c) for name, c in contents.items() if name.endswith(".safetensors")}
    return {f"{file}/{name}": value for file, table in files.items() for name, value in table.items()}


def distance(one: Path, other: Path) -> float:
    """The largest relative distance, ‖a − b‖/‖a‖, of weights, averages and optimizer state."""
    a, b = tensors(one), tensors(other)
    assert a.keys() == b.keys()
    far = []
    for file in ("model", "ema", "optimizer"):
        names = [name for name in a if name.startswith(file)]
        pair = [torch.cat([table[name].double().flatten() for name in names]) for table in (a, b)]
        far.append(float((pair[0] - pair[1]).norm() / pair[0].norm()))
    return max(far)


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in read_rows(run / "metrics.jsonl").rows if row["kind"] == "train"]


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, rank: int, do) -> None:
    """`do(training)` while rank `rank` takes that step."""
    advance = Training.advance

    def changed(self: Training):
        if self.step + 1 == step and current_rank().rank == rank:
            do(self)
        return advance(self)

    monkeypatch.setattr(Training, "advance", changed)


@pytest.mark.parametrize("parallel", PARALLEL)
def test_two_processes_leave_one_run_that_is_the_one_processs_and_resume_theirs_bitwise(
    together, run_config: Config, tmp_path: Path, monkeypatch, capfd, parallel: str
):
    config = run_config.with_settings(
        [
            "train.label_dropout=0.5",
            "train.objective=bound",
            "train.level_sampling=importance",
            "train.steps=6",
            f"train.parallel={parallel}",
        ]
    )
    train_run(config, tmp_path / "one")
    capfd.readouterr()
    ended = together(lambda: train_run(config, tmp_path / "two") and None)
    assert [end.code for end in ended] == [0, 0], [end.said for end in ended]
    assert distance(tmp_path / "one", tmp_path / "two") < 2e-5
    assert sorted(p.name for p in (tmp_path / "one").rglob("*")) == sorted(
        p.name for p in (tmp_path / "two").rglob("*")
    )
    one, two = (read_rows(tmp_path / name / "metrics.jsonl").rows for name in ("one", "two"))
    assert [(row["kind"], row["step"]) for row in one] == [(row["kind"], row["step"]) for row in two]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-6)
    said = capfd.readouterr().err
    assert said.count("training images of") == 1
    assert [said.count(f"step {step}: held-out bound") for step in (3, 6)] == [1, 1]

    with monkeypatch.context() as patch:
        at_step(patch, 3, 1, lambda training: os.kill(os.getpid(), signal.SIGINT))
        cut = together(lambda: train_run(config, tmp_path / "cut") and None)
    assert [end.code for end in cut] == [130, 130], "a signal to one stops both"
    together(lambda: resume_run(tmp_path / "cut") and None)
    assert open_checkpoint(tmp_path / "cut").step == 6
    assert distance(tmp_path / "two", tmp_path / "cut") == 0


@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_a_run_of_two_goes_on_alone_and_the_other_way_round(
    together, run_config: Config, tmp_path: Path, monkeypatch, parallel: str
):
    config = run_config.with_settings([f"train.parallel={parallel}"])
    train_run(config, tmp_path / "whole")
    two, one = tmp_path / "two", tmp_path / "one"
    with monkeypatch.context() as patch:
        # Of several processes the others hear of a signal with the next step.
        at_step(patch, 9, 0, lambda training: os.kill(os.getpid(), signal.SIGTERM))
        begun = together(lambda: train_run(config, two) and None)
    assert [end.code for end in begun] == [143, 143], [end.said for end in begun]
    with monkeypatch.context() as patch:
        at_step(patch, 10, 0, lambda training: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit):
            train_run(config, one)
    assert [open_checkpoint(out).step for out in (two, one)] == [10, 10]
    resume_run(two)
    gone_on = together(lambda: resume_run(one) and None)
    assert [end.code for end in gone_on] == [0, 0], [end.said for end in gone_on]
    for out in (two, one):
        assert open_checkpoint(out).step == 12
        assert losses(out) == pytest.approx(losses(tmp_path / "whole"), rel=1e-6)
        # Twelve steps of float32 rounding, summed in another order: the state itself goes over to the last bit.
        assert distance(out, tmp_path / "whole") < 2e-5


def raising(training: Training) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    ("parallel", "cases"),
    [
        ("ddp", ((0, "killed"), (1, "raising"))),
        pytest.param("ddp", ((1, "killed"), (0, "raising")), marks=pytest.mark.slow),
        pytest.param(
            "fsdp", tuple((rank, what) for rank in (0, 1) for what in ("killed", "raising")), marks=pytest.mark.slow
        ),
    ],
    ids=["ddp", "ddp more", "fsdp"],
)
def test_a_rank_that_is_lost_ends_the_run_by_name_and_it_can_be_resumed(
    together, run_config: Config, tmp_path: Path, monkeypatch, parallel: str, cases
):
    config = run_config.with_settings(["train.steps=8", "train.keep_every=4", f"train.parallel={parallel}"])
    for rank, what in cases:
        out = tmp_path / f"{rank}-{what}"
        do = raising if what == "raising" else lambda training: os.kill(os.getpid(), signal.SIGKILL)
        with monkeypatch.context() as patch:
            at_step(patch, 7, rank, do)
            ended = together(lambda out=out: train_run(config, out) and None)
        assert ended[rank].code == (-signal.SIGKILL if what == "killed" else 1)
        other = ended[1 - rank]
        assert other.code == 3
        assert other.said.startswith(f"rank {rank} ended: rank {1 - rank} stops too; the last checkpoint is")
        assert other.said.endswith("step-00000004: start the processes again with --resume")
        assert other.seconds - ended[rank].seconds < 10
        together(lambda out=out: resume_run(out) and None)
    together(lambda: train_run(config, tmp_path / "whole") and None)
    for rank, what in cases:
        assert distance(tmp_path / f"{rank}-{what}", tmp_path / "whole") == 0


def test_a_frozen_rank_ends_the_run_after_the_timeout(together, run_config: Config, tmp_path: Path, monkeypatch):
    config = run_config.with_settings(["train.timeout=2"])
    at_step(monkeypatch, 7, 1, lambda training: os.kill(os.getpid(), signal.SIGSTOP))
    ended = together(lambda: train_run(config, tmp_path / "run") and None, limit=8.0)
    assert ended[0].code == 3
    assert ended[0].said.startswith("rank 1 did not answer for 2 s: rank 0 stops too")


def test_what_the_first_process_refuses_ends_all_in_silence(together, run_config: Config, tmp_path: Path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    ended = together(lambda: train_run(run_config, tmp_path / "full") and None)
    assert [end.code for end in ended] == [2, 2]
    assert "full is not empty" in ended[0].said
    assert "full" not in ended[1].said
    np.save(tmp_path / "few.npy", np.zeros((2, 4, 4), np.uint8))
    few = run_config.with_settings([f"data.source={tmp_path / 'few.npy'}"])
    ended = together(lambda: train_run(few, tmp_path / "run") and None)
    assert [end.code for end in ended] == [2, 2]
    assert "at least 3 different images" in ended[0].said
    assert ended[1].said == "2", "it leaves with the first one's exit code"


def test_a_look_that_is_cut_short_stops_all(together, run_config: Config, tmp_path: Path, monkeypatch):
    from markovae.run import evaluations

    def slow(*args):
        if current_rank().first:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(20)

    monkeypatch.setattr(evaluations, "held_out_row", slow)
    ended = together(lambda: train_run(run_config, tmp_path / "run") and None)
    assert [end.code for end in ended] == [143, 143]
    assert max(end.seconds for end in ended) < 10
    assert open_checkpoint(tmp_path / "run").step == 6


def test_a_number_that_is_none_on_one_rank_is_rolled_back_on_all(
    together, run_config: Config, tmp_path: Path, monkeypatch
):
    def poison(training: Training) -> None:
        if training.rollbacks == 0:
            with torch.no_grad():
                training.model.network.stem.weight[0, 0] = float("nan")

    at_step(monkeypatch, 6, 1, poison)
    config = run_config.with_settings(["train.rollback=1", "train.keep_every=4"])
    ended = together(lambda: train_run(config, tmp_path / "run") and None)
    assert [end.code for end in ended] == [0, 0], [end.said for end in ended]
    rows = [row for row in read_rows(tmp_path / "run" / "metrics.jsonl").rows if row["kind"] == "rollback"]
    assert [(row["step"], row["from_step"]) for row in rows] == [(4, 5)]
    assert "rank 1 has a weight" in rows[0]["reason"]
    assert open_checkpoint(tmp_path / "run").step == 12


def test_a_held_out_bound_that_is_no_number_ends_all(together, run_config: Config, tmp_path: Path, monkeypatch):
    from markovae.run import evaluations

    monkeypatch.setattr(evaluations, "held_out_row", lambda *args: {"bits_per_dim": {"mean": None}})
    ended = together(lambda: train_run(run_config, tmp_path / "run") and None)
    assert [end.code for end in ended] == [3, 3]
    assert "the held-out bound is NaN or Inf after step 6" in ended[0].said
