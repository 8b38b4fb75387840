"""Keep freed memory for reuse; recognize out-of-memory errors and retry with half the batch.

Freed memory is kept because every step of training and sampling asks for the same sizes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import TypeVar, final

from markovae.errors import StoppedRun, UserError

# glibc's names for what it does with freed memory (malloc.h).
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
KEPT, LARGE = 2**31 - 1, 2**30
# Where its own rule, which `mallopt` switches off for good, ends up after large blocks were freed.
SETTLED, TRIMMED = 32 * 2**20, 64 * 2**20


LEAST_ADDRESS_SPACE = 2**30  # bytes: torch, its libraries and a small model


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


# Few of them have a class for it, and one class is torch's, which may never have been imported.
_WORDS = re.compile(
    r"(can't|cannot|could not|unable to|failed to) (allocate|reserve)|(not enough|out of) memory|bad[_ ]alloc"
    r"|memory allocation .*failed|ALLOC_FAILED"
    r"|could not (create|execute) a (primitive(?! desc)|memory|stream|engine)"  # oneDNN
    r"|failed to map segment from shared object|can't start new thread",
    re.IGNORECASE,
)
# Python, where there was no memory left to say so in.
_UNSAID = re.compile(r"error return without exception set|without setting an exception|with an exception set")
_DEVICE = re.compile(r"\b(CUDA|CUBLAS|CUDNN|CUSOLVER|CUSPARSE|CUFFT|HIP|MPS|XPU|NCCL)", re.IGNORECASE)
_LOWER = "lower --batch (of a training train.batch or network.width), or take smaller images"


def out_of_memory(error: BaseException) -> bool:
    """Whether this error says that memory ran out, of a device or of the machine."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error)
    if isinstance(error, SystemError):
        return bool(_UNSAID.search(text))
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError | ImportError | OSError) and bool(_WORDS.search(text))


def memory_sentence(error: BaseException) -> str:
    """Which memory ran out, and what to lower."""
    if _DEVICE.search(str(error)):
        return f"the device's memory is full: {_LOWER}, or take another --device"
    limit = _limit()
    which = f"the memory that this process may use ({limit / 2**30:.1f} GiB: ulimit -v) is full" if limit else ""
    return f"{which or 'the memory is full'}: {_LOWER}" + (", or raise the limit" if limit else "")


def _limit() -> int:
    """Bytes of address space that this process may have; 0 where there is no limit."""
    with suppress(ImportError):  # not on Windows
        import resource

        soft = resource.getrlimit(resource.RLIMIT_AS)[0]
        return 0 if soft == resource.RLIM_INFINITY else soft
    return 0


def require_address_space() -> None:
    """Refuse a limit that torch cannot be loaded under: an allocation that fails then aborts the process, or hangs it.

    Raises:
        UserError: for less than 1 GiB.
    """
    if 0 < (limit := _limit()) < LEAST_ADDRESS_SPACE:
        raise UserError(
            f"this process may use {limit / 2**20:,.0f} MiB of memory (ulimit -v), and needs at least "
            f"{LEAST_ADDRESS_SPACE >> 20:,} MiB: raise the limit"
        )


Result = TypeVar("Result")


def halved(parts: int, count: int, alone: bool) -> int:
    """Parts of half the size for a batch of `count` images that did not fit in `parts`.

    Raises:
        StoppedRun: for a single image, and for one of several processes, whose others would wait for it.
    """
    if parts < count and alone:
        return min(2 * parts, count)
    if parts >= count:
        raise StoppedRun(
            "memory ran out over a single image: set train.checkpointing=true, or take a smaller network or image"
        )
    raise StoppedRun(
        f"memory ran out over {-(-count // parts)} images in one of several processes: set train.accumulate, which is "
        f"{parts} here, to a larger number, or train.checkpointing=true"
    )


def within_memory(work: Callable[[int], Result], size: int) -> Result:
    """`work(size)`; where memory runs out, of half the size, and so on down to 1, at which the error is let through."""
    import torch  # not at the top: every command's start reads this file

    while True:
        try:
            return work(size)
        except (RuntimeError, MemoryError, SystemError) as error:
            if size == 1 or not out_of_memory(error):
                raise
        size = -(-size // 2)
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
