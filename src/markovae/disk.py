"""The calls that change a disk, in one place: the seam where tests fail, record and kill them."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self, final

FULL_SYNC = 51 if sys.platform == "darwin" else None  # F_FULLFSYNC
NO_LINK = getattr(os, "O_NOFOLLOW", 0)
# A folder that is gone through; a right to list it is not needed where the system says so.
FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0) | NO_LINK
HANDLES = bool(NO_LINK) and {os.open, os.rename, os.mkdir, os.unlink, os.rmdir} <= os.supports_dir_fd


class Disk(ABC):
    """What writing files asks of an operating system. Every method may raise OSError."""

    @abstractmethod
    def inside(self, root: Path) -> Disk:
        """The same disk, which changes what lies below `root` alone and follows no link there; its free() as before.

        `root` itself may be a link: it is followed once, now.
        """

    @abstractmethod
    def open(self, path: Path, flags: int) -> int:
        """A handle of a file or, with os.O_RDONLY, of a folder."""

    @abstractmethod
    def write(self, handle: int, content: memoryview) -> int:
        """Write from the start of `content`; how many bytes were written, at least one."""

    @abstractmethod
    def sync(self, handle: int) -> None:
        """Flush a file's bytes, or a folder's names, to the disk."""

    @abstractmethod
    def close(self, handle: int) -> None:
        """Close a handle."""

    @abstractmethod
    def rename(self, source: Path, target: Path) -> None:
        """Give a file or folder another name; a file, or an empty folder, of that name is replaced."""

    @abstractmethod
    def mkdir(self, path: Path) -> None:
        """Make one folder."""

    @abstractmethod
    def unlink(self, path: Path) -> None:
        """Delete a file."""

    @abstractmethod
    def rmdir(self, path: Path) -> None:
        """Delete an empty folder."""

    @abstractmethod
    def free(self, path: Path) -> int:
        """Bytes free on the disk of a file or folder."""


@final
class SystemDisk(Disk):
    """The operating system's own.

    Args:
        root: as `inside` has it; None is the whole disk, links and all.
    """

    def __init__(self, root: Path | None = None) -> None:
        self._root = None if root is None else root.absolute()
        self._real = None if root is None else root.resolve()

    def inside(self, root: Path) -> Self:
        """Folders on the way are opened one in another, so that none can become a link meanwhile."""
        if self._root is not None and root.absolute().is_relative_to(self._root):
            return self
        return type(self)(root)

    def open(self, path: Path, flags: int) -> int:
        """os.open, in binary."""
        with self._named(path, opened=True) as (name, folder):
            return os.open(name, flags | getattr(os, "O_BINARY", 0) | self._no_link, 0o666, dir_fd=folder)

    def write(self, handle: int, content: memoryview) -> int:
        """os.write."""
        return os.write(handle, content)

    def sync(self, handle: int) -> None:
        """os.fsync; on a Mac, where that stops at the drive's own memory, what goes beyond it."""
        if FULL_SYNC is None:
            os.fsync(handle)
        else:
            import fcntl

            fcntl.fcntl(handle, FULL_SYNC)

    def close(self, handle: int) -> None:
        """os.close."""
        os.close(handle)

    def rename(self, source: Path, target: Path) -> None:
        """os.replace."""
        with self._named(source) as (old, there), self._named(target) as (new, here):
            os.replace(old, new, src_dir_fd=there, dst_dir_fd=here)

    def mkdir(self, path: Path) -> None:
        """os.mkdir."""
        with self._named(path) as (name, folder):
            os.mkdir(name, dir_fd=folder)

    def unlink(self, path: Path) -> None:
        """os.unlink."""
        with self._named(path) as (name, folder):
            os.unlink(name, dir_fd=folder)

    def rmdir(self, path: Path) -> None:
        """os.rmdir."""
        with self._named(path) as (name, folder):
            os.rmdir(name, dir_fd=folder)

    def free(self, path: Path) -> int:
        """Of the file system that holds the path, for this user."""
        return shutil.disk_usage(path).free

    @property
    def _no_link(self) -> int:
        return 0 if self._root is None else NO_LINK

    @contextmanager
    def _named(self, path: Path, opened: bool = False) -> Iterator[tuple[Path | str, int | None]]:
        """A name for a path, and the handle of the folder it is in; None where the name is the whole path."""
        if self._root is None or self._real is None:
            yield path, None
            return
        parts = path.absolute().relative_to(self._root).parts or (".",)
        if not HANDLES:
            yield _looked_at(self._real, parts, len(parts) if opened else len(parts) - 1), None
            return
        folder = os.open(self._real, FOLDER)
        try:
            for part in parts[:-1]:
                outer, folder = folder, os.open(part, FOLDER, dir_fd=folder)
                os.close(outer)
            yield parts[-1], folder
        finally:
            os.close(folder)


def _looked_at(root: Path, parts: tuple[str, ...], count: int) -> Path:
    """Where the system has no handles of folders: the path, of which the first `count` parts are no links."""
    for place in range(1, count + 1):
        path = root.joinpath(*parts[:place])
        if path.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return root.joinpath(*parts)


SYSTEM = SystemDisk()
