"""One process at a time in a folder: a lock that dies with its process, and leaves nothing."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import final

from markovae.errors import StoppedRun, UserError
from markovae.system.files import NO_LINK, make_folder
from markovae.system.plain import require_plain

LOCK = ".lock"
NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # for the other end of a pipe
TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)


@final
class Lock:
    """A folder that this process holds.

    Args:
        folder: this one.
        handle: of its lock file.
        missing: why nothing keeps other processes out, where the file system has no locks; else "".
    """

    def __init__(self, folder: Path, handle: int, missing: str) -> None:
        self.folder, self._handle, self.missing = folder, handle, missing
        self._own = folder.stat()

    @property
    def held(self) -> bool:
        """Whether the folder of this name is still the one that was locked, and nobody else's lock lies in it."""
        try:
            if not os.path.samestat(self._own, self.folder.stat()):
                return False
            return os.path.samestat(os.fstat(self._handle), (self.folder / LOCK).lstat())
        except FileNotFoundError:
            return self.folder.is_dir()  # somebody took the file away, which moves nothing
        except OSError:
            return False

    def require(self) -> None:
        """Whatever lies there now must not be written to where it is another folder.

        Raises:
            StoppedRun: where it was moved, or replaced.
        """
        if not self.held:
            raise StoppedRun(
                f"{self.folder} was moved or replaced while this process trained in it: what it saved is where the "
                "folder is now; continue there with --resume"
            )


@contextmanager
def hold(folder: Path) -> Iterator[Lock]:
    """Keep every other process out of `folder` while the block runs.

    A folder that is missing is made. When the block ends the lock is gone, and so are the folders made here that
    are still empty. Where the file system has no locks nothing keeps others out, and the lock says so.
    Raises:
        UserError: where another process holds the folder, it cannot be made or written, or `require_plain` refuses.
    """
    made, handle, missing = _locked(folder)
    lock = Lock(folder, handle, missing)
    try:
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
        yield lock
    finally:
        # While it is still held: whoever opened this file before sees, once locked, that it has lost its name.
        with suppress(OSError):
            if lock.held:
                (folder / LOCK).unlink(missing_ok=True)
            else:
                made = []
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


def _locked(folder: Path) -> tuple[list[Path], int, str]:
    """The folders made, the handle of the lock, and why it is none, if so."""
    made: list[Path] = []
    while True:
        made = _make(folder) or made
        try:
            require_plain(folder)
            handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | NO_LINK | NO_WAIT, 0o644)
        except FileNotFoundError:
            continue  # another process made the folder, and took it away again
        except OSError as error:
            raise UserError(f"{folder} cannot be written ({error.strerror}): name another folder with --out") from None
        _require_own(folder / LOCK, handle)
        taken, missing = _try(handle)
        if not taken:
            holder = ""
            with suppress(OSError):  # what is locked cannot be read everywhere
                holder = os.read(handle, 32).decode("ascii", "replace").strip()
            os.close(handle)
            raise UserError(
                f"another process ({holder or 'unknown'}) trains in {folder}: wait for it, or name another folder "
                "with --out"
            )
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), (folder / LOCK).lstat()):
                return made, handle, missing
        os.close(handle)


def _require_own(path: Path, handle: int) -> None:
    """The lock is about to be emptied and written: it must be a file that has no other name."""
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(handle)
        raise UserError(f"{path} is no lock but another file, by a second name, or a pipe: move it away")


def _try(handle: int) -> tuple[bool, str]:
    """Whether the file is this process's now, and why it is not locked where the system cannot."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        return True, "this system has no locks"
    except OSError as error:
        return error.errno not in TAKEN, error.strerror or "no locks"
    return True, ""
