"""How many threads compute: timed, for on a busy machine two are slower than one.

An operation of a network is cut into equal parts, one a thread, and ends with the last of them. A thread that shares
its core with another process gets it in turns of a few milliseconds, where an operation takes a fraction of one; so any
of the thousands of operations of a step may wait for a turn, and threads that wait by spinning use up their own.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import final

import torch
from torch.nn import functional as F

from markovae.log import log
from markovae.system.cores import usable_cores

ROUNDS = 3
WORTH = 1.25  # what another number must gain: threads change the last bits, so a tie changes nothing
HOPELESS = 2.0  # times the best round so far: no further ones
SHARE = 0.02  # of the time, that timing again may take
LATE = 2.0  # times the usual step: something else began to compute here
LATE_STEPS = 3
SOON = 10.0  # seconds
USUAL_STEPS = 20


def seconds_of_work(threads: int) -> float:
    """The time of a few operations like those of a network, about 10 ms of one core, with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            x, weight = torch.ones(8, 64, 16, 16), torch.ones(64, 64, 3, 3)
            started = time.perf_counter()
            for _ in range(3):
                h = F.conv2d(F.silu(F.group_norm(x, 4)), weight, padding=1)
                x = torch.tanh(x + h)
            return time.perf_counter() - started
    finally:
        torch.set_num_threads(before)


def time_threads(most: int, work: Callable[[int], float] = seconds_of_work) -> dict[int, float]:
    """Seconds of the same work with 1, 2, 4… and `most` threads: the median of three rounds after an unmeasured one."""
    counts = [*(1 << k for k in range(most.bit_length()) if 1 << k < most), most]
    times: dict[int, float] = {}
    for count in counts:
        work(count)
        rounds: list[float] = []
        for _ in range(ROUNDS):
            rounds.append(work(count))
            if times and rounds[-1] > HOPELESS * min(times.values()):
                break
        times[count] = statistics.median(rounds)
    return times


def fastest(times: Mapping[int, float], present: int) -> int:
    """The number of threads that works fastest; the present one, where no other is `WORTH` its while."""
    best = min(times, key=lambda count: times[count])
    return best if times.get(present, math.inf) > WORTH * times[best] else present


def settle_threads() -> None:
    """Compute with as many threads as work fastest just now, for a command that is short."""
    most = min(torch.get_num_threads(), usable_cores())
    if most > 1:
        torch.set_num_threads(fastest(time_threads(most), most))


@final
class Threads:
    """The threads of something long, at most those that torch has: timed at its start, again now and then, and where it
    slows down.

    Args:
        timed: False leaves them as they are.
        clock: seconds.
        work: see `seconds_of_work`.
        most: threads; None is what torch has and this process may use.
    """

    def __init__(
        self,
        timed: bool = True,
        clock: Callable[[], float] = time.perf_counter,
        work: Callable[[int], float] = seconds_of_work,
        most: int | None = None,
    ) -> None:
        self._clock, self._work = clock, work
        self._most = min(torch.get_num_threads(), usable_cores()) if most is None else most
        self._timed = timed and self._most > 1
        self._due, self._late = math.inf, 0
        self._usual: deque[float] = deque(maxlen=USUAL_STEPS)
        self.count = self._most
        self.reason = ""

    def choose(self) -> None:
        """Compute with as many threads as work fastest just now."""
        if self._timed:
            self._time()

    def restore(self, count: int) -> None:
        """Compute with as many threads as a run had when it was saved, if this machine has them; timed again soon."""
        if self._timed:
            self.count = max(1, min(count, self._most))
            torch.set_num_threads(self.count)
            self._due = self._clock() + SOON

    def note(self, seconds: float) -> None:
        """Take in the time of a step; where it is due, or steps take twice their usual time, time the threads again."""
        if not self._timed:
            return
        usual = statistics.median(self._usual) if len(self._usual) == USUAL_STEPS else math.inf
        self._late = self._late + 1 if seconds > LATE * usual else 0
        self._usual.append(seconds)
        if self._late >= LATE_STEPS or self._clock() >= self._due:
            before = self.count
            self._time()
            if self.count != before:
                log(f"from here on {self.reason}")

    @contextmanager
    def kept(self) -> Iterator[None]:
        """While entered, the threads may change; afterwards they are as before."""
        before = torch.get_num_threads()
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def _time(self) -> None:
        started = self._clock()
        times = time_threads(self._most, self._work)
        self.count = fastest(times, self.count)
        torch.set_num_threads(self.count)
        shown = ", ".join(f"{1000 * seconds:.0f} ms with {number}" for number, seconds in times.items())
        self.reason = f"{self.count} of {self._most} threads: the same work takes {shown}"
        now = self._clock()
        self._due, self._late = now + max((now - started) / SHARE, SOON), 0
        self._usual.clear()
