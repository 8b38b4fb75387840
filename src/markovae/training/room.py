"""When a batch does not fit into memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from markovae.errors import StoppedRun
from markovae.oom import out_of_memory as out_of_memory

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
    while True:
        try:
            return work(size)
        except (RuntimeError, MemoryError, SystemError) as error:
            if size == 1 or not out_of_memory(error):
                raise
        size = -(-size // 2)
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
