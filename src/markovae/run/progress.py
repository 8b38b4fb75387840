"""How far a training run is, on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self, final

from markovae.log import bar, duration, log, speaks
from markovae.training.train_step import TrainStep

PLAIN_LINES = 10
SPAN = 20  # steps over which the shown speed is averaged


@final
class Progress:
    """A bar on a terminal, at most a dozen lines elsewhere; remarks made with `log` stay readable either way.

    Args:
        step: done so far.
        total: of the run, or None.
        shown: False shows nothing.
    """

    def __init__(self, step: int, total: int | None, shown: bool = True) -> None:
        self._shown = shown
        self._first, self._began = step, time.monotonic()
        self._bar: Any = None
        self._next_share = 0
        self._speed = 0.0
        if shown and sys.stderr is not None and sys.stderr.isatty() and speaks():
            self._bar = bar(note=True)
            self._task = self._bar.add_task("training", total=total, completed=step, note="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, step: TrainStep) -> None:
        """Tell of one step."""
        mix = 1 / SPAN if self._speed else 1.0
        self._speed += mix * (step.images_per_second - self._speed)
        note = f"loss {step.loss:.4f}, {self._speed:,.0f} images/s"
        if self._bar is not None:
            self._bar.update(self._task, total=step.total, completed=step.index, note=note)
        elif self._shown and step.total is not None:
            self._plain(step, step.total, note)

    def _plain(self, step: TrainStep, total: int, note: str) -> None:
        share = PLAIN_LINES * step.index // total
        if share < self._next_share and step.index < total:
            return
        self._next_share = share + 1
        done = step.index - self._first
        left = (time.monotonic() - self._began) / max(done, 1) * (total - step.index)
        log(f"step {step.index:,} of {total:,}, {note}, about {duration(left)} left")
