"""The real thing: torchrun, two processes, and what is done to them. Each takes a minute, most of it torch starting."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from markovae.checkpoints.reading import open_checkpoint
from markovae.cli.entry import main
from markovae.data.digits import digits
from markovae.system.jsonlines import read_rows

from .conftest import settings

pytestmark = pytest.mark.slow


class Job:
    """torchrun with two processes of `markovae` on this machine."""

    def __init__(self, folder: Path, *words: str | Path, torchrun: tuple[str, ...] = ()) -> None:
        self.log = folder / f"job-{time.monotonic_ns()}.log"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *torchrun]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "-m", "markovae", *map(str, words)],
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def workers(self) -> dict[int, int]:
        """Process id of each rank."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            try:
                mine = (entry / "stat").read_text().rsplit(")", 1)[1].split()[1] == str(self.process.pid)
                told = dict(pair.split("=", 1) for pair in (entry / "environ").read_text().split("\0") if "=" in pair)
            except (OSError, ValueError):
                continue
            if mine and "RANK" in told:
                found[int(told["RANK"])] = int(entry.name)
        return found

    def end(self, limit: float = 120.0) -> int:
        try:
            return self.process.wait(limit)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    started: list[Job] = []

    def start(*words: str | Path, torchrun: tuple[str, ...] = ()) -> Job:
        started.append(Job(tmp_path, *words, torchrun=torchrun))
        return started[-1]

    yield start
    for one in started:
        with suppress(subprocess.TimeoutExpired):
            one.end(0.0)


def until(condition: Callable[[], object], limit: float = 120.0) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < limit, "waited in vain"
        time.sleep(0.05)
    return time.monotonic() - began


def train(images: Path, out: Path, *more: str) -> list[str | Path]:
    words = settings(train__keep_every="10", train__evaluations="0", train__grids="0")
    return ["train", images, "--out", out, "--steps", "100000", "--no-report", *words, *more]


def steps(out: Path) -> int:
    return max((int(p.name.removeprefix("step-")) for p in (out / "checkpoints").glob("step-*")), default=-1)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_run_of_two_ends_with_its_report(job, images, tmp_path, parallel: str):
    out = tmp_path / "run"
    started = job("train", images, "--out", out, "--steps", "12", *settings(train__parallel=parallel))
    assert started.end() == 0, started.said()
    assert (out / "report.json").exists()
    assert started.said().count("report.html") == 1
    rows = read_rows(out / "metrics.jsonl").rows
    assert [row["step"] for row in rows if row["kind"] == "train"] == [10, 12]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_the_job_within_ten_seconds_and_is_named(job, images, tmp_path, rank):
    started = job(*train(images, tmp_path / "run"))
    until(lambda: steps(tmp_path / "run") >= 10)
    os.kill(started.workers()[rank], signal.SIGKILL)
    began = time.monotonic()
    assert started.end() != 0
    assert time.monotonic() - began < 10
    assert re.search(rf"rank\s*: {rank} \(local_rank: {rank}\)\s*exitcode\s*: -9", started.said())
    saved = steps(tmp_path / "run")
    again = job("train", "--resume", "--out", tmp_path / "run", "--steps", str(saved + 5), "--no-report")
    assert again.end() == 0, again.said()
    assert open_checkpoint(tmp_path / "run").step == saved + 5


def test_a_frozen_rank_ends_the_job_after_the_timeout_and_is_named(job, images, tmp_path):
    started = job(*train(images, tmp_path / "run", "--set", "train.timeout=5"))
    until(lambda: steps(tmp_path / "run") >= 10)
    os.kill(started.workers()[1], signal.SIGSTOP)
    began = time.monotonic()
    assert started.end() != 0
    assert time.monotonic() - began < 5 + 35
    assert "rank 1 did not answer for 5 s" in started.said()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_job_saves_the_present_step(job, images, tmp_path, number):
    out = tmp_path / "run"
    started = job(*train(images, out))
    until(lambda: steps(out) >= 10)
    began = time.monotonic()
    os.killpg(started.process.pid, number)  # as a terminal or a scheduler does: to all of them
    assert started.end() != 0
    assert time.monotonic() - began < 10
    match = re.search(r"stopped at step (\d+)", started.said().replace(",", ""))
    assert match, started.said()
    assert open_checkpoint(out).step == int(match[1])
    assert not started.workers()


def test_a_restarted_job_goes_on_from_its_checkpoint(job, images, tmp_path):
    out = tmp_path / "run"
    words = settings(train__keep_every="10", train__evaluations="0", train__grids="0")
    started = job(
        "train", images, "--out", out, "--steps", "3000", "--no-report", *words, torchrun=("--max-restarts", "1")
    )
    until(lambda: steps(out) >= 10)
    os.kill(started.workers()[1], signal.SIGKILL)
    assert started.end(300) == 0, started.said()
    assert "resumed from" in started.said()
    assert open_checkpoint(out).step == 3000


def test_what_is_refused_is_refused_once(job, tmp_path):
    np.save(tmp_path / "few.npy", np.zeros((2, 8, 8), np.uint8))
    started = job("train", tmp_path / "few.npy", "--out", tmp_path / "run", *settings())
    assert started.end() != 0
    assert started.said().count("at least 3 different images") == 1


@pytest.mark.parametrize("group", ["7", "all"])
def test_two_processes_share_the_groups_of_a_file(job, digits_run, tmp_path, group: str):
    """The file is the one that a single process writes; of one group the second process finds nothing to do."""
    pytest.importorskip("constriction", reason="the extra codec is not installed")
    np.save(tmp_path / "a.npy", digits().images[:90])
    words = ["compress", tmp_path / "a.npy", "--model", digits_run, "--levels", "6", "--group", group]
    started = job(*words, "--out", tmp_path / "two.mvz")
    assert started.end(300) == 0, started.said()
    assert started.said().count("90 images in") == 1
    assert main([str(word) for word in (*words, "--out", tmp_path / "one.mvz")]) == 0
    assert (tmp_path / "two.mvz").read_bytes() == (tmp_path / "one.mvz").read_bytes()
    assert not list(tmp_path.glob("*.part"))
