"""Memory that a process gave back is kept by it: training asks for the same sizes at every step."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

# glibc's names for what it does with freed memory (malloc.h).
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
KEPT, LARGE = 2**31 - 1, 2**30
# Where its own rule, which `mallopt` switches off for good, ends up after large blocks were freed.
SETTLED, TRIMMED = 32 * 2**20, 64 * 2**20


@contextmanager
def kept_memory() -> Iterator[None]:
    """While entered, freed memory stays with the process, and at the end it goes back to the system.

    Otherwise glibc returns it after every step, and each page is made anew, filled with zeros, in the next one: on a
    virtual machine 14,000 page faults and 7 to 9 % of the time of a step, for a network of 4.3 M weights. Where the C
    library is another one nothing happens; what PyTorch holds on a GPU is not concerned.
    """
    library = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
    if library is None:
        yield
        return
    library.mallopt(TRIM_THRESHOLD, KEPT)
    library.mallopt(MMAP_THRESHOLD, LARGE)
    try:
        yield
    finally:
        library.mallopt(MMAP_THRESHOLD, SETTLED)
        library.mallopt(TRIM_THRESHOLD, TRIMMED)
        library.malloc_trim(0)
