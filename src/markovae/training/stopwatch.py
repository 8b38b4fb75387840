"""Elapsed time by a clock that may be set back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import final


@final
class Stopwatch:
    """Seconds that have passed while the clock went forwards; where it is set back, nothing passes.

    Args:
        clock: seconds.   start: on the watch at the beginning.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, start: float = 0.0) -> None:
        self._clock, self._seconds, self._last = clock, start, clock()

    @property
    def seconds(self) -> float:
        """What the watch shows."""
        now = self._clock()
        self._seconds += max(0.0, now - self._last)
        self._last = now
        return self._seconds
