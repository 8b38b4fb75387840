"""The folder of a run: one process at a time, rows of figures, checkpoints."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, final

from markovae.checkpoints.reading import CHECKPOINTS
from markovae.errors import UserError
from markovae.run.loggers import Loggers
from markovae.system.files import STAGE, SYSTEM, Disk, append, clear_stages, refused, replace_file, sync
from markovae.system.jsonlines import backwards, has_figures
from markovae.system.lock import LOCK, Lock
from markovae.system.plain import open_plain

TEACHER = "teacher"  # the weights that a student learns from, a bundle


@final
class RunFolder:
    """Where the parts of a run lie.

    Args:
        path: the run's folder, which may be a link; nothing in it is reached through one.
        disk: where it lies.
    """

    def __init__(self, path: str | Path, disk: Disk = SYSTEM) -> None:
        self.path = Path(path)
        self.disk = disk.inside(self.path)
        self.checkpoints = self.path / CHECKPOINTS
        self.samples = self.path / "samples"
        self.metrics = self.path / "metrics.jsonl"
        self.config = self.path / "config.toml"
        self.split = self.path / "split.json"
        self.unreadable = self.path / "unreadable.jsonl"
        self.lock: Lock | None = None
        self.loggers = Loggers()

    def require_empty(self) -> None:
        """Nothing is ever overwritten.

        Raises:
            UserError: where the folder holds anything.
        """
        if self.path.is_dir() and any(map(_counts, self.path.iterdir())):
            what = "holds a run already" if self.checkpoints.is_dir() else "is not empty"
            raise UserError(f"{self.path} {what}: add --resume to continue it, or name another folder with --out")

    def open(self) -> None:
        """Check that this is a run.

        Raises:
            UserError: where it is not.
        """
        if not self.path.is_dir() or not self.checkpoints.is_dir():
            inside = [one.parent for one in self.path.absolute().parents if one.name == CHECKPOINTS]
            around = next((run for run in inside if (run / "config.toml").is_file()), None)
            if around is not None:
                raise UserError(
                    f"{self.path} lies in the run {around}: name the run, which continues from its newest checkpoint; "
                    "--init starts a new one from any"
                )
            raise UserError(f"{self.path} is not a run: it has no {CHECKPOINTS}/: leave --resume out to start there")

    def clear(self) -> None:
        """Delete what an interrupted write left behind."""
        for folder in (self.path, self.checkpoints, self.samples):
            if folder.is_dir():
                clear_stages(folder, self.disk)

    def require_held(self) -> None:
        """The folder is still the one that this process holds: see `Lock.require`."""
        if self.lock is not None:
            self.lock.require()

    def append(self, row: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl, and pass it to the loggers.

        Raises:
            StoppedRun: when the disk refuses, or the folder is another one by now.
        """
        self.require_held()
        append(self.metrics, (json.dumps(row, allow_nan=False) + "\n").encode(), self.disk)
        self.loggers.log(row)

    def flush(self) -> None:
        """Flush metrics.jsonl to the disk, where it is there.

        Raises:
            StoppedRun: when the disk refuses.
        """
        try:
            if self.metrics.exists():
                sync(self.metrics, self.disk)
        except OSError as error:
            raise refused(self.metrics, 0, error, self.disk) from error

    def last(self, kind: str) -> dict[str, Any] | None:
        """The last row of a kind, of those that can be read."""
        rows = (row for _, row in backwards(self.metrics) if row is not None and has_figures(row))
        return next((row for row in rows if row.get("kind") == kind), None)

    def forget_after(self, step: int) -> None:
        """Drop the rows of steps beyond `step`, which are the last ones: they are about to be taken again."""
        self.require_held()
        if not self.metrics.exists():
            return
        kept = next((end for end, row in backwards(self.metrics) if row is not None and row["step"] <= step), 0)
        with open_plain(self.metrics) as file:
            before = file.read(kept)
            # A file with a second name, such as a copy made of hard links, is left to that one.
            if file.read(1) or not before.endswith(b"\n") or os.fstat(file.fileno()).st_nlink > 1:
                replace_file(self.metrics, before.removesuffix(b"\n") + b"\n" * bool(before), self.disk)


def _counts(entry: Path) -> bool:
    """Whether an entry is more than what a run leaves that was stopped before its first save."""
    if entry.name == CHECKPOINTS and entry.is_dir():
        return any(not inside.name.startswith(STAGE) for inside in entry.iterdir())
    return entry.name != LOCK and not entry.name.startswith(STAGE)
