"""One process at a time in a folder: a lock that dies with its process, and leaves nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from markovae.errors import UserError
from markovae.files import make_folder

LOCK = ".lock"


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep every other process out of `folder` while the block runs.

    A folder that is missing is made. When the block ends the lock is gone, and so are the folders made here that
    are still empty.
    Raises:
        UserError: where another process holds the folder, or it cannot be made or written.
    """
    made, handle = _locked(folder)
    try:
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
        yield
    finally:
        # While it is still held: whoever opened this file before sees, once locked, that it has lost its name.
        with suppress(OSError):
            (folder / LOCK).unlink(missing_ok=True)
        os.close(handle)
        with suppress(OSError):
            for path in made:
                path.rmdir()


def _make(folder: Path) -> list[Path]:
    """The folders that had to be made, the innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file: name a folder with --out")
        make_folder(folder)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be made ({error.strerror}): name a folder that can be written with --out"
        ) from None
    return missing


def _locked(folder: Path) -> tuple[list[Path], int]:
    """The folders made, and the handle of the lock."""
    made: list[Path] = []
    while True:
        made = _make(folder) or made
        try:
            handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            continue  # another process made the folder, and took it away again
        except OSError as error:
            raise UserError(f"{folder} cannot be written ({error.strerror}): name another folder with --out") from None
        if not _try(handle):
            holder = os.read(handle, 32).decode("ascii", "replace").strip()
            os.close(handle)
            raise UserError(
                f"another process ({holder or 'unknown'}) trains in {folder}: wait for it, or name another folder "
                "with --out"
            )
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), (folder / LOCK).stat()):
                return made, handle
        os.close(handle)


def _try(handle: int) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
