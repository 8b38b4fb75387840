"""Opening a file that somebody gave, without ever waiting on it, and telling whether it has changed since."""

import hashlib
import os
import stat
from pathlib import Path
from typing import BinaryIO

GLANCE = 1 << 12  # bytes at each place that `glance` reads
PLACES = 8


def open_regular(path: Path, *, follow: bool = True) -> BinaryIO:
    """A regular file opened to read; it may have become a pipe or a device since it was found.

    Args:
        follow: a link to one; else it is refused, where the system can.
    Raises: OSError with the reason, errno None where it is no regular file.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags if follow else flags | getattr(os, "O_NOFOLLOW", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError("not a regular file")
    return os.fdopen(handle, "rb")


def mark_of(about: os.stat_result) -> tuple[int, ...]:
    """(bytes, time of change, time of change of what is known of it, inode) of a file.

    Whoever writes to it, or puts another in its place, changes one of these even where size and time are put back;
    where a system counts no inodes and keeps other times, `glance` tells.
    """
    return about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino


def glance(path: Path) -> str:
    """Hash of some bytes of a file: its beginning, its end, and places between. "" where it cannot be read."""
    found = hashlib.sha256()
    try:
        with open_regular(path) as file:
            last = max(0, os.fstat(file.fileno()).st_size - GLANCE)
            for place in sorted({last * number // (PLACES - 1) for number in range(PLACES)}):
                file.seek(place)
                found.update(file.read(GLANCE))
    except OSError:
        return ""
    return found.hexdigest()[:16]


def read_at(handle: int, offset: int, size: int) -> bytes:
    """Bytes of an open file, without its own place where the system can: a forked process shares it."""
    if hasattr(os, "pread"):
        return os.pread(handle, size, offset)
    os.lseek(handle, offset, os.SEEK_SET)
    return os.read(handle, size)
