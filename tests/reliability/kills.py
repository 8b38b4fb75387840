"""Campaigns of kills: at random moments, and pinned between the calls that write."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.reliability import trainers
from tests.reliability.forkserver import ForkServer
from tests.reliability.outcome import leftovers, outcome

from markovae.checkpoints.manifest import CheckpointError
from markovae.checkpoints.reading import newest_checkpoint

# Steps between saves.
INTERVAL = {"plain": 1, "accumulate": 1, "bfloat16": 1, "dropout": 1, "rare": 5, "short": 1}


@dataclass
class Tally:
    """What came of a campaign.

    Args:
        kills: that hit a living trainer.   early: of them, before the first checkpoint.
        different: runs whose end was not the uninterrupted run's.   most_lost: by one kill, in intervals between saves.
    """

    kills: int = 0
    early: int = 0
    runs: int = 0
    different: list[str] = field(default_factory=list)
    most_lost: float = 0.0


@dataclass
class Reference:
    """An uninterrupted run.

    Args:
        end: its outcome.   steps: of its last checkpoint.   seconds: that it took.
    """

    end: dict[str, str]
    steps: int
    seconds: float


class Campaign:
    """Kills trainers of every kind and compares what they come to with runs that were left alone.

    Args:
        folder: for runs, with the data in images.npz.   references: made so far, and shared by the campaigns of a
            folder.
    """

    def __init__(self, server: ForkServer, folder: Path, seed: int, references: dict[str, Reference]) -> None:
        self.server, self.folder, self.random = server, folder, random.Random(seed)
        self.data = str(folder / "images.npz")
        self.tally = Tally()
        self._references = references

    def reference(self, kind: str) -> Reference:
        """The uninterrupted run of a kind, made once."""
        if kind not in self._references:
            out = self.folder / f"whole-{kind}"
            began = time.monotonic()
            assert self.server.run("command", self.folder / "said", arguments=self._words(out, kind)) == 0
            seconds = time.monotonic() - began
            self._references[kind] = Reference(outcome(out), newest_checkpoint(out).step, seconds)
        return self._references[kind]

    def kill_at_random(self, number: int, kind: str) -> None:
        """One run, killed once or twice at moments drawn from its whole length, then taken to its end."""
        reference, out = self.reference(kind), self.folder / f"cut-{number}-{kind}"
        steps = self.folder / f"cut-{number}.steps"
        for _ in range(self.random.choice((1, 2))):
            steps.unlink(missing_ok=True)
            words = self._resume(out) if self._begun(out) else self._words(out, kind)
            said = self.folder / f"cut-{number}.txt"
            child = self.server.start("command", said, arguments=words, steps=str(steps))
            time.sleep(self.random.random() * reference.seconds)
            os.kill(child, signal.SIGKILL)
            if self.server.wait(child) == -signal.SIGKILL:
                self._count(out, steps, kind)
        self._finish(out, kind, reference)

    def kill_at_call(self, call: int, kind: str) -> bool:
        """One run killed right before its disk's `call`-th call, then taken to its end; False: it has fewer calls."""
        reference, out = self.reference(kind), self.folder / f"pinned-{call}-{kind}"
        said = self.folder / f"pinned-{call}.txt"
        code = self.server.run("pinned", said, data=self.data, out=str(out), kind=kind, kill=call)
        if code == 0:
            return False
        assert code == -signal.SIGKILL, said.read_text()
        self.tally.kills += 1
        self._finish(out, kind, reference)
        return True

    def stop_at_random(self, number: int, kind: str, signal_: int) -> tuple[float, bool]:
        """One run, stopped once by a signal at a moment drawn from its whole length, then taken to its end.

        Returns: seconds from the signal to the end, and whether it had begun to train by then.
        """
        reference, out = self.reference(kind), self.folder / f"stopped-{number}-{kind}"
        steps, said = self.folder / f"stopped-{number}.steps", self.folder / f"stopped-{number}.txt"
        child = self.server.start("command", said, arguments=self._words(out, kind), steps=str(steps))
        time.sleep(self.random.random() * reference.seconds)
        began = time.monotonic()
        os.kill(child, signal_)
        code, begun = self.server.wait(child), self._begun(out)
        took = time.monotonic() - began
        taken = [int(line) for line in steps.read_text().split()] if steps.exists() else []
        done = begun and newest_checkpoint(out).step == reference.steps
        # Before the command has a handler in place, and after it gave it back, SIGTERM is the system's to deal with.
        own = code == 128 + signal_ or (done and code == 0)
        assert own or (code == -signal_ and (done or not begun)), (code, said.read_text())
        if code == 128 + signal_ and taken:
            assert newest_checkpoint(out).step == taken[-1], "the present step is saved"
            self.tally.kills += 1
        self._finish(out, kind, reference)
        return took, begun

    def _count(self, out: Path, steps: Path, kind: str) -> None:
        self.tally.kills += 1
        if not self._begun(out):
            self.tally.early += 1
            return
        taken = [int(line) for line in steps.read_text().split()] if steps.exists() else []
        lost = taken[-1] - newest_checkpoint(out).step if taken else 0
        self.tally.most_lost = max(self.tally.most_lost, lost / INTERVAL[kind])

    def _finish(self, out: Path, kind: str, reference: Reference) -> None:
        said = self.folder / "said"
        words = self._resume(out) if self._begun(out) else self._words(out, kind)
        code = self.server.run("command", said, arguments=words)
        self.tally.runs += 1
        if code != 0 or outcome(out) != reference.end or leftovers(out):
            self.tally.different.append(f"{out.name}: exit {code}, left {leftovers(out)}")
        else:
            shutil.rmtree(out)

    def _begun(self, out: Path) -> bool:
        """Whether the run has a checkpoint to resume from."""
        try:
            newest_checkpoint(out)
        except (CheckpointError, OSError):
            return False
        return True

    def _words(self, out: Path, kind: str) -> list[str]:
        return trainers.words(self.data, str(out), kind)

    def _resume(self, out: Path) -> list[str]:
        return ["train", "--resume", "--out", str(out), "--no-report"]
