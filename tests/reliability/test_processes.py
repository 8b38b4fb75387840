"""The command itself, in processes of its own: kills, signals, orphans, and many on one folder."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.reliability import trainers
from tests.reliability.outcome import leftovers, outcome

from markovae.checkpoints.reading import newest_checkpoint

STARTS = 600.0  # seconds that Python and torch may take to load on a busy machine


class Command:
    """`markovae` in a process, its words in a file."""

    def __init__(self, folder: Path, words: list[str]) -> None:
        self.said = folder / f"said-{time.monotonic_ns()}"
        with self.said.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "markovae", *words],
                stdout=said,
                stderr=said,
                env={**os.environ, "OMP_NUM_THREADS": "1", "MARKOVAE_CACHE": str(folder / "cache")},
            )

    def end(self, limit: float = 300.0) -> int:
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def descendants(self) -> set[int]:
        """Process ids below this one."""
        parents = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                except (OSError, ValueError):
                    continue
        found, more = {self.process.pid}, True
        while more:
            below = {pid for pid, parent in parents.items() if parent in found} - found
            found, more = found | below, bool(below)
        return found - {self.process.pid}


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if Path(f"/proc/{pid}").exists() and "Z" not in _state(pid)}


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"


def until(condition, limit: float = 120.0) -> None:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < limit, "waited in vain"
        time.sleep(0.02)


def prepared(memory: Path, kind: str = "plain", *more: str) -> list[str]:
    trainers.write_images(memory / "images.npz")
    return trainers.words(str(memory / "images.npz"), str(memory / "run"), kind, *more)


@pytest.mark.slow
def test_twenty_real_processes_killed(memory: Path, tell):
    chance, data = random.Random(7), memory / "images.npz"
    trainers.write_images(data)
    began = time.monotonic()
    assert Command(memory, trainers.words(str(data), str(memory / "whole"), "plain")).end() == 0
    length, whole, late = time.monotonic() - began, outcome(memory / "whole"), 0
    for number in range(20):
        out = memory / f"run-{number}"
        running = Command(memory, trainers.words(str(data), str(out), "plain"))
        if number % 2:  # half of them somewhere, half while they train
            time.sleep(chance.random() * length)
        else:
            until(lambda out=out: (out / "checkpoints").is_dir())
            time.sleep(chance.random() * 0.3)
        running.process.kill()
        late += running.end() == 0
        words = trainers.words(str(data), str(out), "plain")
        if (out / "checkpoints").is_dir() and any((out / "checkpoints").glob("step-*")):
            words = ["train", "--resume", "--out", str(out), "--no-report"]
        again = Command(memory, words)
        assert again.end() == 0, again.said.read_text()
        assert outcome(out) == whole
        assert not leftovers(out)
    tell(
        3,
        "SIGKILL of real processes",
        "20 processes of the command, half killed at any moment of their life, half while they train",
        f"20 of 20 resumed bitwise; {late} had ended before the kill",
        kills=20 - late,
    )


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["warm-up", "evaluation", "sampling", "saving"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_real_processes_in_each_phase(memory: Path, number: int, phase: str, tell):
    """Each phase is most of what the run does, so that the signal falls into it."""
    settings = {
        "warm-up": ("train.warmup_steps=20000", "train.evaluations=0", "train.grids=0", "train.save_minutes=9"),
        "evaluation": ("train.evaluations=20000", "train.eval_draws=200", "train.grids=0", "train.save_minutes=9"),
        "sampling": ("train.grids=20000", "train.evaluations=0", "schedule.num_levels=400", "train.save_minutes=9"),
        "saving": ("train.evaluations=0", "train.grids=0"),
    }[phase]
    running = Command(memory, prepared(memory, "plain", "train.steps=100000", *settings))
    until(lambda: (memory / "run" / "config.toml").exists(), STARTS)
    time.sleep(0.5 + random.Random(phase).random())
    began = time.monotonic()
    running.process.send_signal(number)
    assert running.end(30) == 128 + number, running.said.read_text()
    took = time.monotonic() - began
    stopped = re.search(r"stopped at step ([\d,]+)", running.said.read_text())
    assert stopped, running.said.read_text()
    assert newest_checkpoint(memory / "run").step == int(stopped[1].replace(",", ""))
    assert took < 10
    tell(
        3,
        f"{signal.Signals(number).name} during {phase}, a real process",
        "the command, of which that phase is most of the work",
        f"exit {128 + number} after {took:.1f} s, the step it had reached in its checkpoint",
        seconds=took,
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_a_command_that_reads_images(memory: Path, number: int, tell):
    rng = np.random.default_rng(0)
    (memory / "folder").mkdir()
    for index in range(3000):
        Image.fromarray(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(memory / "folder" / f"{index}.png")
    words = trainers.words(str(memory / "folder"), str(memory / "run"), "plain", "data.size=8")
    running = Command(memory, words)
    seen: set[int] = set()

    def workers() -> bool:
        seen.update(running.descendants())
        return len(seen) >= 2 or running.process.poll() is not None

    until(workers, STARTS)
    if running.process.poll() is not None:
        pytest.skip("one core: no workers were started")
    running.process.send_signal(number)
    running.end(30)
    until(lambda: not alive(seen), 10)
    tell(
        3,
        f"orphans after {signal.Signals(number).name}",
        "a real process that decodes 3,000 images in workers is stopped while they work",
        f"0 of {len(seen)} descendants were alive within 10 s",
        descendants=len(seen),
    )


@pytest.mark.slow
def test_eight_processes_on_one_folder(memory: Path, tell):
    """One trains; the others are told so, at once, whatever happens to the one."""
    words = prepared(memory, "plain", "train.steps=100000", "train.evaluations=0", "train.grids=0")
    started = [Command(memory, words) for _ in range(8)]
    until(lambda: sum(one.process.poll() is None for one in started) == 1, STARTS)
    (winner,) = [one for one in started if one.process.poll() is None]
    for one in started:
        if one is not winner:
            assert one.end() == 2
            assert re.search(rf"another process \({winner.process.pid}\) trains in", one.said.read_text())
    until(lambda: (memory / "run" / "config.toml").exists(), STARTS)
    took = []
    for _ in range(7):
        began = time.monotonic()
        late = Command(memory, ["train", "--resume", "--out", str(memory / "run")])
        assert late.end() == 2
        took.append(time.monotonic() - began)
        assert "another process" in late.said.read_text()
    winner.process.kill()
    winner.end()
    again = Command(memory, ["train", "--resume", "--out", str(memory / "run"), "--steps", "99999", "--no-report"])
    until(lambda: "resumed from" in again.said.read_text() or again.process.poll() is not None, STARTS)
    assert again.process.poll() is None, again.said.read_text()
    again.process.send_signal(signal.SIGTERM)
    assert again.end() == 143
    assert max(took) < 3
    tell(
        10,
        "eight processes on one run's folder",
        "eight processes of the command started at once, seven more one after another; then the one that holds the "
        "lock is killed and the run resumed",
        f"1 trained, 14 of 14 ended with exit 2 and a sentence that names it, the seven alone after {max(took):.1f} s "
        "at most; the lock did not survive the kill",
        longest=max(took),
    )
