"""Whether bfloat16 pays on this machine: three steps of each, timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

PROBE_STEPS = 3
WORTH = 1.1  # bfloat16 loses digits, so a tie goes to float32
SLOW, HOPELESS = 2, 10  # times a float32 step: of a step, and of the first, which allocates and builds its kernels


@dataclass(frozen=True)
class Choice:
    """A precision and why.

    Args:
        dtype: torch.float32 or torch.bfloat16.   reason: in words, with the timings where there were any.
    """

    dtype: torch.dtype
    reason: str


def dtype_named(name: str) -> torch.dtype:
    """torch.float32 or torch.bfloat16."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def probe(step: Callable[[torch.dtype], object], clock: Callable[[], float]) -> Choice:
    """Time three steps in float32 and up to three in bfloat16, after one unmeasured step of each.

    The probe of bfloat16 ends early where a step costs twice a float32 step, or the first one ten times as much.

    Args:
        step: one step without consequences, in the given type, finished when it returns.
        clock: seconds.
    """
    plain = _fastest(step, torch.float32, clock, float("inf"))
    brief = _fastest(step, torch.bfloat16, clock, plain)
    times = f"{1000 * plain:.0f} ms for a small step in float32, {1000 * brief:.0f} ms in bfloat16"
    if brief * WORTH <= plain:
        return Choice(torch.bfloat16, f"bfloat16, since it pays here: {times}")
    return Choice(torch.float32, f"float32, since bfloat16 does not pay here: {times}")


def _fastest(
    step: Callable[[torch.dtype], object], dtype: torch.dtype, clock: Callable[[], float], other: float
) -> float:
    best = float("inf")
    for index in range(PROBE_STEPS + 1):
        started = clock()
        step(dtype)
        took = clock() - started
        given_up = took > other * (SLOW if index else HOPELESS)
        if index or given_up:
            best = min(best, took)
        if given_up:
            break
    return best
