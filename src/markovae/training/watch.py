"""A process that waits for another cannot hear a signal: one that was told to end and is stuck is ended."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar, final

from markovae.console import tell_at_once
from markovae.training.rollcall import ROLL_CALL, RollCall, told

Result = TypeVar("Result")
GRACE = 8.0
LONGEST = 25.0  # torchrun waits for 30 seconds
ENDING = (signal.SIGINT, signal.SIGTERM)


@final
class Watch:
    """A thread that reads the signals as they come in, and ends the process where nothing goes on after one.

    Python's handlers run between two steps of the interpreter, which a thread that waits inside a collective
    operation never takes; the byte that the system writes for each signal is read all the same.

    Args:
        end: where the bytes arrive.   grace: seconds without a sign of life that are waited after a signal; three
            times the last time between two signs where that is longer.
    """

    def __init__(self, end: int, grace: float) -> None:
        self._end, self._grace = end, grace
        self.roll: RollCall | None = None
        self._settled = threading.Event()
        self._beats, self._last, self._gap = 0, time.monotonic(), 0.0
        self._thread = threading.Thread(target=self._read, name="watch", daemon=True)
        self._thread.start()

    def beat(self) -> None:
        """Say that the processes have just exchanged something."""
        now = time.monotonic()
        self._gap, self._last = now - self._last, now
        self._beats += 1

    def settled(self) -> None:
        """Say that the signal was heard: the process ends by itself."""
        self._settled.set()

    def _read(self) -> None:
        while received := os.read(self._end, 1):
            if received[0] in ENDING:
                self._await(received[0])
        os.close(self._end)

    def _await(self, number: int) -> None:
        # Now: the others may ask before this one has waited for its part.
        self._asked(RollCall.answer)
        while True:
            seen = self._beats
            if self._settled.wait(max(self._grace, min(3 * self._gap, LONGEST))):
                return
            if self._beats == seen:
                missing = self._asked(RollCall.missing)
                who = f"{told(missing)} did not answer" if missing else "the other processes do not answer"
                tell_at_once(f"stopping: {who}\n")
                os._exit(128 + number)

    def _asked(self, question: Callable[[RollCall], Result]) -> Result | None:
        """What the roll call says, or None where it says nothing in time: the store may not answer either."""
        if (roll := self.roll) is None:
            return None
        answers: list[Result] = []

        def ask() -> None:
            with suppress(RuntimeError, OSError):
                answers.append(question(roll))

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(2 * ROLL_CALL)
        return answers[0] if answers else None


@contextmanager
def watched(grace: float = GRACE) -> Iterator[Watch | None]:
    """While entered, SIGTERM and SIGINT end the process after `grace` seconds unless `settled` is said before.

    Only in the main thread, which alone may ask for it; elsewhere nothing is watched.
    """
    if threading.current_thread() is not threading.main_thread():
        yield None
        return
    end, start = os.pipe()
    os.set_blocking(start, False)
    before = signal.set_wakeup_fd(start, warn_on_full_buffer=False)
    watch = Watch(end, grace)
    try:
        yield watch
    finally:
        signal.set_wakeup_fd(before)
        watch.settled()
        os.close(start)  # ends the thread
