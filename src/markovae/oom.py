"""When memory ran out: the words by which PyTorch, its libraries and Python say so."""

from __future__ import annotations

import errno
import re
from contextlib import suppress

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
