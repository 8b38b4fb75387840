"""Files that are whole or absent: stage, fsync, rename, fsync the folder."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from markovae.errors import StoppedRun, UserError

STAGE = ".tmp-"


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    if os.name == "nt" and path.is_dir():
        return  # folders cannot be opened there
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file and flush it; for files inside a staged folder."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_file(path: Path, content: bytes) -> None:
    """Replace `path` by a file with this content: the old file stays until the new one is on the disk.

    Raises:
        StoppedRun: naming the path, the bytes needed and the bytes free, when the disk refuses.
    """
    stage = path.with_name(f"{STAGE}{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        write_synced(stage, content)
        stage.replace(path)
        sync(path.parent)
    except OSError as error:
        raise refused(path, len(content), error) from error
    finally:
        with suppress(OSError):
            stage.unlink(missing_ok=True)


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """A fresh folder beside `target` that becomes `target` when the block ends well, and vanishes when it does not.

    The files written in it are the caller's to flush (`write_synced`). An older folder of the same name is
    replaced: it steps aside first and is deleted last.
    """
    token = uuid.uuid4().hex[:8]
    stage, aside = target.with_name(f"{STAGE}{target.name}-{token}"), target.with_name(f"{STAGE}old-{token}")
    stage.mkdir()
    try:
        yield stage
        sync(stage)
        _swap(stage, target, aside)
        sync(target.parent)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        if target.exists():
            shutil.rmtree(aside, ignore_errors=True)


def _swap(stage: Path, target: Path, aside: Path) -> None:
    if target.exists():
        target.rename(aside)
    try:
        stage.rename(target)
    except BaseException:
        if aside.exists():
            aside.rename(target)
        raise


def clear_stages(folder: Path) -> None:
    """Delete what an interrupted write left behind in `folder`."""
    for stage in folder.glob(f"{STAGE}*"):
        if stage.is_dir() and not stage.is_symlink():
            shutil.rmtree(stage, ignore_errors=True)
        else:
            with suppress(OSError):
                stage.unlink()


def free_bytes(path: Path) -> int:
    """Bytes free on the disk of `path`, or of its nearest parent that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def refused(path: Path, needed: int, error: OSError) -> StoppedRun:
    """A refused write in one sentence: path, reason, bytes needed and free, remedy."""
    room = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "free some space, then --resume" if room else "make the folder writable, then --resume"
    with suppress(OSError):
        free = free_bytes(path.parent)
        return StoppedRun(
            f"{path} could not be written ({error.strerror}): it needs {needed:,} bytes and {free:,} are free; {remedy}"
        )
    return StoppedRun(f"{path} could not be written ({error.strerror}): it needs {needed:,} bytes; {remedy}")


def require_room(folder: Path, needed: int) -> None:
    """Check before work starts that `folder` takes files and has `needed` bytes free.

    Raises:
        UserError: with the figures and the remedy.
    """
    probe = folder / f"{STAGE}probe-{uuid.uuid4().hex[:8]}"
    try:
        probe.touch()
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): name another folder with --out") from None
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    free = free_bytes(folder)
    if free < needed:
        raise UserError(
            f"{folder} has {free:,} bytes free and the run needs {needed:,} for its checkpoints: "
            "free some space or name another disk with --out"
        )
