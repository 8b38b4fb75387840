"""Ctrl-C, SIGTERM and a closed terminal: the present step is finished and saved; a second one leaves at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self, final

from markovae.log import tell_at_once
from markovae.system.processes import hangup

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_WORD = "\nstopping: saving the present step (once more to leave at once)\n"


class Interrupted(BaseException):
    """Raised inside `Interrupts.harmless` when a signal arrives."""


@final
class Interrupts:
    """While entered, the first signal is noted in `caught` and the second ends the process.

    Args:
        patient: further signals are passed over: torchrun sends one on to processes that got it themselves, and ends
            those that take too long.
    """

    def __init__(self, patient: bool = False) -> None:
        self.caught: int | None = None
        self._patient = patient
        self._raising = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in (*SIGNALS, *hangup())}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def harmless(self) -> Iterator[None]:
        """Work that may be cut short anywhere (evaluating, sampling): a signal raises `Interrupted` inside."""
        self._raising = True
        try:
            if self.caught is not None:
                raise Interrupted
            yield
        finally:
            self._raising = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.caught is not None:
            if not self._patient:
                os._exit(128 + number)
            return
        self.caught = number
        if not self._patient:
            tell_at_once(_WORD)
        if self._raising:
            raise Interrupted
