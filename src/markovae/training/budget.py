"""How long a training lasts, by steps or minutes, and the learning rate at each point of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final


@final
class Timer:
    """Seconds that have passed while the clock went forwards; where it is set back, nothing passes.

    Args:
        clock: seconds.
        start: on the watch at the beginning.
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


# A budget in minutes is turned into steps once this many were timed, or an eighth of it is spent; the first steps
# of a process are slower than the rest, so the later half of those timed gives the pace.
TIMED_STEPS = 50
TIMED_SECONDS = 15.0
TIMED_SHARE = 0.125
# Later the pace may change, since other programs come and go: the steps that are left are planned anew where they would
# miss the time by more than this share of the budget. The pace is a running mean over an eighth of the steps left.
AMISS = 0.03
LOOKS = 200
HORIZON, LEAST_HORIZON = 1 / 8, 5


def rate_factor(step: int, total: int | None, warmup_steps: int, decay_start: float, pretrained: bool = False) -> float:
    """The learning rate of step 0…total−1 as a share of its peak.

    Rises linearly over the warm-up (at most a fifth of the run), stays 1, and from decay_start·total on falls
    linearly, so that it would reach 0 at `total`. Before the total is known: the warm-up alone.

    Args:
        pretrained: the warm-up has its whole length in a run however short. AdamW's first steps have the size of its
            rate whatever the gradient, its moments being empty, which is more than trained weights bear.
    """
    warmup = warmup_steps if total is None or pretrained else min(warmup_steps, total // 5)
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if total is None or total * (1 - decay_start) < 1:
        return rise
    return rise * max(0.0, min(1.0, (total - step) / (total * (1 - decay_start))))


@final
@dataclass
class Budget:
    """A number of steps, or a time that becomes one after the first steps were timed, and follows their pace.

    Args:
        total: number of steps, or None while it is not known.
        seconds: the time, or None where the budget is in steps.
        reserve: seconds to leave for what the caller does between steps (evaluations, checkpoints).
        guess: the number of steps as an earlier pace has it, which sets the learning rate until the total is known.
        spent: seconds of the run before this budget was given.
        pace: seconds a step, once some were timed.
        settled: whether the total stays whatever the pace: that of a run that continues does, so that it ends alike.
        restored: whether an earlier process began with this budget, and told what it brings.
    """

    total: int | None = None
    seconds: float | None = None
    reserve: float = 0.0
    guess: int | None = None
    spent: float = 0.0
    settled: bool = False
    pace: float = 0.0
    restored: bool = False
    _times: list[float] = field(default_factory=list)
    _timed: float = 0.0
    _before: tuple[int, int] = (0, 1)  # the largest share of a total that was reached before the step last noted
    _reached: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        self.settled = self.settled or self.total is not None

    def renewed(self, steps: int | None, minutes: float | None, step: int, spent: float) -> Budget:
        """Another length of a run that took so many steps in `spent` seconds: their pace is the guess."""
        if minutes is None:
            return Budget(steps, None, self.reserve)
        left = max(0.0, 60 * minutes - spent - self.reserve)
        guess = step + int(left * step / spent) if step and spent else None
        return Budget(None, 60 * minutes, self.reserve, guess, spent)

    def capture(self) -> dict[str, Any]:
        """What a resumed run continues with, for JSON."""
        return {"total_steps": self.total, "guess": self.guess, "spent": self.spent}

    def restore(self, record: Mapping[str, Any]) -> None:
        """Continue from what `capture` gave."""
        self.total, self.guess = record["total_steps"], record.get("guess")
        self.spent = float(record.get("spent", 0.0))
        self.settled = self.restored = self.total is not None

    @property
    def expected(self) -> int | None:
        """The total, or else the guess."""
        return self.guess if self.total is None else self.total

    def due(self, times: int, step: int) -> bool:
        """Whether one of `times` evenly spread looks, the last one at the end, falls on this step; none comes again
        where the total has grown."""
        total, (steps, of) = self.total, self._before
        if total is None or times < 1 or step < 1:
            return False
        return step * times // total > max((step - 1) * times // total, steps * times // of)

    def note(self, step: int, took: float, elapsed: float) -> None:
        """Time one step; sets `total` once enough steps were timed, and again where the pace has changed. Where the
        budget is in steps, it is the pace alone that is timed.

        Args:
            step: steps done so far, this one included.
            took: seconds of this step.
            elapsed: seconds of the run so far.
        """
        if self.seconds is None and self.total is not None and not self.pace and not self.restored:
            self._times.append(took)
            if len(self._times) >= min(TIMED_STEPS, max(2, int(TIMED_SHARE * self.total))):
                self.pace = self._median()
        if self.seconds is None or self.settled:
            return
        if self.total is not None:
            self._before = self._reached
            if step * self._reached[1] > self._reached[0] * self.total:
                self._reached = (step, self.total)
            self.pace += (took - self.pace) / max(HORIZON * (self.total - step), LEAST_HORIZON)
            if self.is_replanned(step):
                self._replan(step, elapsed)
            return
        self._times.append(took)
        self._timed += took  # added one by one: the built-in sum of floats rounds otherwise from Python 3.12 on
        share = TIMED_SHARE * (self.seconds - self.spent)
        enough = len(self._times) >= TIMED_STEPS and self._timed >= min(TIMED_SECONDS, share)
        scarce = len(self._times) >= 2 and self._timed >= share
        left = self.seconds - elapsed - self.reserve
        if enough or scarce or left <= 0:
            self.pace = self._median()
            self.total = step + max(0, int(left / max(self.pace, 1e-9)))

    def _median(self) -> float:
        """Of the later half of the steps timed: the first ones of a process are slower."""
        return statistics.median(self._times[len(self._times) // 2 :])

    def is_replanned(self, step: int) -> bool:
        """Whether this step may change the total: the same ones in every process of a job."""
        if self.seconds is None or self.settled:
            return False
        return self.total is None or step % max(1, self.total // LOOKS) == 0

    def _replan(self, step: int, elapsed: float) -> None:
        assert self.total is not None, "a number of steps"
        assert self.seconds is not None, "which a time has become"
        left = self.total - step
        time = self.seconds - elapsed - self.reserve * left / max(self.total, 1)
        if abs(left * self.pace - time) > AMISS * (self.seconds - self.spent):
            self.total = step + max(0, int(time / max(self.pace, 1e-9)))
