"""A run holds files and folders alone: a link, a pipe or a device is refused before anything is touched."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from markovae.errors import UserError
from markovae.system.files import STAGE
from markovae.system.regular import open_regular

FOLDERS = ("checkpoints", "samples", "measurements", "edits")
FILES = (
    ".lock",
    "config.toml",
    "metrics.jsonl",
    "report.html",
    "report.json",
    "split.json",
    "unreadable.jsonl",
)


def require_plain(run: Path) -> None:
    """Whatever lies under a name that a run writes to or clears is a file or a folder. `run` itself may be a link.

    Raises:
        UserError: naming the first that is a link, a pipe or a device.
    """
    for path in _own(run):
        try:
            kind = path.lstat().st_mode
        except FileNotFoundError:
            continue  # another process took it away
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            raise refusal(path)


def open_plain(path: Path) -> BinaryIO:
    """Open a file of a run to read it: through no link, and nothing that waits for a writer.

    Raises:
        UserError: for anything but a regular file.
        OSError: where it is missing or cannot be read.
    """
    if path.is_symlink():
        raise refusal(path)
    try:
        return open_regular(path, follow=False)
    except OSError as error:
        if error.errno is None:
            raise refusal(path) from None
        raise


def refusal(path: Path) -> UserError:
    """The sentence for what is no plain file or folder."""
    kind = "a link" if path.is_symlink() else "no file but a folder, a pipe or a device"
    return UserError(
        f"{path} is {kind}: a run holds none under this name; move it away, or copy what it stands for here"
    )


def _own(run: Path) -> Iterator[Path]:
    """What lies under the names of a run's files, stages and folders, and all in those folders."""
    if not run.is_dir():
        return
    for path in sorted(run.iterdir()):
        if path.name in FILES or path.name in FOLDERS or path.name.startswith(STAGE):
            yield path
        if path.name in FOLDERS and path.is_dir():
            yield from sorted(path.iterdir())
