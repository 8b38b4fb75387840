"""The calls that change a disk, in one place: the seam where tests fail, record and kill them."""

from __future__ import annotations

import os
import shutil
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import final

FULL_SYNC = 51 if sys.platform == "darwin" else None  # F_FULLFSYNC


class Disk(ABC):
    """What writing files asks of an operating system. Every method may raise OSError."""

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
    """The operating system's own."""

    def open(self, path: Path, flags: int) -> int:
        """os.open, in binary."""
        return os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666)

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
        source.replace(target)

    def mkdir(self, path: Path) -> None:
        """os.mkdir."""
        path.mkdir()

    def unlink(self, path: Path) -> None:
        """os.unlink."""
        path.unlink()

    def rmdir(self, path: Path) -> None:
        """os.rmdir."""
        path.rmdir()

    def free(self, path: Path) -> int:
        """Of the file system that holds the path, for this user."""
        return shutil.disk_usage(path).free


SYSTEM = SystemDisk()
