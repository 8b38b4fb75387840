"""A long run: memory, file descriptors and shared memory stay as they are."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest
from tests.reliability import trainers

from markovae.run.start import train_run
from markovae.training.trainer import Training


def resident() -> float:
    """MiB of this process that lie in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def shared() -> set[str]:
    """Names in /dev/shm, our own folders left out."""
    return {name for name in os.listdir("/dev/shm") if not name.startswith("markovae-test-")}  # noqa: PTH208


class Look:
    """What a process holds, taken every `every` steps of a training."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, every: int) -> None:
        self.rows: list[tuple[int, float, int]] = []
        advance = Training.advance

        def looked(training: Training):
            step = advance(training)
            if step.index % every == 0:
                gc.collect()
                self.rows.append((step.index, resident(), descriptors()))
            return step

        monkeypatch.setattr(Training, "advance", looked)

    def slope(self) -> float:
        """MiB a thousand steps, by least squares over the later three quarters."""
        later = np.array(self.rows[len(self.rows) // 4 :])
        return float(np.polyfit(later[:, 0] / 1000, later[:, 1], 1)[0])


def watched_run(memory: Path, monkeypatch: pytest.MonkeyPatch, steps: int, *more: str) -> Look:
    """A run that evaluates, draws grids, saves and prunes all along."""
    trainers.write_images(memory / "images.npz")
    more = (f"train.steps={steps}", *more)
    look = Look(monkeypatch, max(steps // 50, 1))
    before = descriptors(), shared()
    train_run(trainers.config(str(memory / "images.npz"), "plain", *more), memory / "run")
    assert (descriptors(), shared()) == before
    assert {row[2] for row in look.rows} == {look.rows[0][2]}, "descriptors come and go"
    return look


def test_a_hundred_steps_leave_no_descriptor_and_little_memory(memory: Path, monkeypatch, capsys):
    look = watched_run(memory, monkeypatch, 100, "train.save_minutes=1e9", "train.keep_every=25", "train.evaluations=4")
    assert look.rows[-1][1] - look.rows[len(look.rows) // 2][1] < 4


@pytest.mark.slow
def test_five_thousand_steps(memory: Path, monkeypatch, capsys, tell):
    look = watched_run(memory, monkeypatch, 5000, "train.keep_every=5000", "train.evaluations=20", "train.grids=10")
    slope = look.slope()
    assert slope < 1
    tell(
        10,
        "memory, file descriptors and /dev/shm over 5,000 steps",
        "one run in one process with 20 evaluations, 10 grids and a save after each step, pruned; looked at every 100 "
        "steps, slope by least squares over the later three quarters",
        f"{slope:+.3f} MiB a thousand steps; {look.rows[0][2]} descriptors throughout; nothing new in /dev/shm",
        slope=slope,
    )
