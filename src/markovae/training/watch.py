"""A process that waits for another cannot hear a signal: one that was told to end and is stuck is ended."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

GRACE = 8.0
ENDING = (signal.SIGINT, signal.SIGTERM)


@final
class Watch:
    """A thread that reads the signals as they come in and ends the process where nothing comes of one.

    Python's handlers run between two steps of the interpreter, which a thread that waits inside a collective
    operation never takes; the byte that the system writes for each signal is read all the same.

    Args:
        end: where the bytes arrive.   grace: seconds from a signal to its consequence.
    """

    def __init__(self, end: int, grace: float) -> None:
        self._end, self._grace = end, grace
        self._settled = threading.Event()
        self._thread = threading.Thread(target=self._read, name="watch", daemon=True)
        self._thread.start()

    def settled(self) -> None:
        """Say that the signal was heard: the process ends by itself."""
        self._settled.set()

    def _read(self) -> None:
        while received := os.read(self._end, 1):
            number = received[0]
            if number in ENDING and not self._settled.wait(self._grace):
                os.write(2, b"stopping: the other processes do not answer\n")
                os._exit(128 + number)
        os.close(self._end)


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
