"""The folder of a run: one process at a time, rows of figures, checkpoints."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

from markovae.checkpoint.reading import CHECKPOINTS
from markovae.checkpoint.writing import checkpoints_in
from markovae.errors import UserError
from markovae.files import STAGE, clear_stages, refused, write_file

LOCK = ".lock"


@final
class RunFolder:
    """Where the parts of a run lie.

    Args:
        path: the run's folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / CHECKPOINTS
        self.samples = self.path / "samples"
        self.metrics = self.path / "metrics.jsonl"
        self.config = self.path / "config.toml"
        self.split = self.path / "split.json"

    def create(self) -> None:
        """Make the folder for a new run; call `hold` next, then `require_empty`.

        Raises:
            UserError: where it cannot be made or is a file.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file: name a folder with --out")
        self.require_empty()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be made ({error.strerror}): name a folder that can be written with --out"
            ) from None

    def require_empty(self) -> None:
        """Nothing is ever overwritten.

        Raises:
            UserError: where the folder holds anything.
        """
        if self.path.is_dir() and any(map(_counts, self.path.iterdir())):
            what = "holds a run already" if self.checkpoints.is_dir() else "is not empty"
            raise UserError(f"{self.path} {what}: add --resume to go on with it, or name another folder with --out")

    def open(self) -> None:
        """Check that this is a run.

        Raises:
            UserError: where it is none.
        """
        if not self.path.is_dir() or not self.checkpoints.is_dir():
            raise UserError(f"{self.path} is no run: it holds no {CHECKPOINTS}/; leave --resume out to start one there")

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep every other process out while the block runs; the lock dies with the process.

        Raises:
            UserError: where another process holds the folder, or it cannot be written.
        """
        try:
            handle = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written ({error.strerror}): name another folder with --out"
            ) from None
        try:
            _lock(handle, self.path)
            os.ftruncate(handle, 0)
            os.write(handle, f"{os.getpid()}\n".encode())
            yield
        finally:
            os.close(handle)

    def clear(self) -> None:
        """Delete what an interrupted write left behind."""
        for folder in (self.path, self.checkpoints, self.samples):
            if folder.is_dir():
                clear_stages(folder)

    def has_checkpoint(self, name: str) -> bool:
        """Whether a checkpoint of that name is there, verified or not."""
        return any(path.name == name for path in checkpoints_in(self.checkpoints))

    def append(self, row: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl.

        Raises:
            StoppedRun: when the disk refuses.
        """
        line = (json.dumps(row, allow_nan=False) + "\n").encode()
        try:
            with self.metrics.open("ab") as file:
                file.write(line)
        except OSError as error:
            raise refused(self.metrics, len(line), error) from error

    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl; a line cut short by a kill is passed over."""
        return read_rows(self.metrics)

    def forget_after(self, step: int) -> None:
        """Drop the rows of steps beyond `step`: they are about to be taken again."""
        kept = [row for row in self.rows() if row.get("step", 0) <= step]
        write_file(self.metrics, "".join(json.dumps(row) + "\n" for row in kept).encode())


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, one a line; lines that are none are passed over."""
    rows = []
    if path.exists():
        for line in path.read_bytes().splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                rows.append(row)
    return rows


def _counts(entry: Path) -> bool:
    """Whether an entry is more than what a run leaves that was stopped before its first save."""
    if entry.name == CHECKPOINTS and entry.is_dir():
        return any(not inside.name.startswith(STAGE) for inside in entry.iterdir())
    return entry.name != LOCK and not entry.name.startswith(STAGE)


def _lock(handle: int, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: its own files are locked by writing them
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(handle, 32, 0).decode("ascii", "replace").strip()
        raise UserError(
            f"another process ({holder or 'unknown'}) trains in {path}: wait for it, or name another folder with --out"
        ) from None
