"""Memory that a process gave back is kept by it: every step of training and sampling asks for the same sizes."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import final

# glibc's names for what it does with freed memory (malloc.h).
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
KEPT, LARGE = 2**31 - 1, 2**30
# Where its own rule, which `mallopt` switches off for good, ends up after large blocks were freed.
SETTLED, TRIMMED = 32 * 2**20, 64 * 2**20


@final
class _Entered:
    """How often `kept_memory` is entered: malloc is the process's, not of one who works in it."""

    def __init__(self) -> None:
        self.times, self.lock = 0, Lock()

    def change(self, by: int, library: ctypes.CDLL) -> None:
        with self.lock:
            before, self.times = self.times, self.times + by
            if not before:
                library.mallopt(TRIM_THRESHOLD, KEPT)
                library.mallopt(MMAP_THRESHOLD, LARGE)
            elif not self.times:
                library.mallopt(MMAP_THRESHOLD, SETTLED)
                library.mallopt(TRIM_THRESHOLD, TRIMMED)
                library.malloc_trim(0)


_ENTERED = _Entered()


@contextmanager
def kept_memory() -> Iterator[None]:
    """While entered, freed memory stays with the process, and when the last one leaves it goes back to the system.

    Otherwise glibc returns it again and again, and each page is made anew, filled with zeros, for the next operation:
    thousands of page faults a training step, which on a virtual machine are slow. Where the C library is another one
    nothing happens; what PyTorch holds on a GPU is not concerned.
    """
    library = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
    if library is None:
        yield
        return
    _ENTERED.change(1, library)
    try:
        yield
    finally:
        _ENTERED.change(-1, library)


def machine_memory() -> int:
    """Bytes of memory in this machine; no limit where it does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 1 << 62
