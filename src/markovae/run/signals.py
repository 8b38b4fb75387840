"""What stops a run: Ctrl-C, SIGTERM or a closed terminal, and how several processes agree on it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self, final

from markovae.log import tell_at_once
from markovae.system.distributed import LostRankError, Ranks, exit_code
from markovae.system.processes import hangup
from markovae.training.train_step import NonFiniteError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NOTICE = "\nstopping: saving the present step (once more to leave at once)\n"


class Interrupted(BaseException):
    """Raised inside `Interrupts.interruptible` when a signal arrives."""


@final
class Interrupts:
    """While entered, the first signal is noted in `caught` and the second ends the process.

    Args:
        patient: ignore further signals: torchrun sends one on to processes that got it themselves, and ends
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
    def interruptible(self) -> Iterator[None]:
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
            tell_at_once(_NOTICE)
        if self._raising:
            raise Interrupted


NOT_FINITE = 1000  # beyond every exit code


@final
class Coordinator:
    """What the processes of a run agree on between two steps: signals, saves, and what the first alone does.

    Args:
        ranks: the processes.
        interrupts: of this one.
    """

    def __init__(self, ranks: Ranks, interrupts: Interrupts) -> None:
        self._ranks, self._interrupts = ranks, interrupts
        self._agreed: int | None = None
        self._due = False

    @property
    def caught(self) -> int | None:
        """The signal to stop for, which all processes know of; None to continue."""
        return self._interrupts.caught if self._ranks.alone else self._agreed

    def before_step(self, due: Callable[[], bool]) -> None:
        """Let the signals heard here, and whether the first process wants to save, travel with the next step."""
        if not self._ranks.alone:
            self._ranks.ask(*self._signals(), self._ranks.first and due())

    def after_step(self, due: Callable[[], bool]) -> bool:
        """Whether to save now; signals that came with the step are agreed."""
        if self._ranks.alone:
            return due()
        *signals, wanted = self._ranks.asked
        self._agree(signals)
        return wanted > 0

    def first_does(self, work: Callable[[], None]) -> None:
        """The first process does `work`; a signal, NaN or Inf stops all of them.

        Raises:
            NonFiniteError: on every process, where the first met NaN or Inf.
            SystemExit: on the others, in silence, where the work failed on the first.
        """
        if self._ranks.alone:
            work()
            return
        failure: BaseException | None = None
        try:
            if self._ranks.first:
                work()
        except Interrupted:
            pass  # noted, and passed to the others below
        except LostRankError:
            raise
        except BaseException as raised:
            failure = raised
        number = isinstance(failure, NonFiniteError)
        *signals, code = self._ranks.highest(
            *self._signals(), NOT_FINITE if number else 0 if failure is None else exit_code(failure)
        )
        self._agree(signals)
        if failure is not None:
            raise failure
        if code == NOT_FINITE:
            raise NonFiniteError("rank 0 met NaN or Inf, and names where")
        if code:
            raise SystemExit(int(code))

    def _signals(self) -> tuple[bool, bool]:
        caught = self._interrupts.caught
        return caught == signal.SIGINT, caught not in (None, signal.SIGINT)

    def _agree(self, counts: list[float]) -> None:
        """Take in how many processes heard which signal."""
        for number, count in zip((signal.SIGINT, signal.SIGTERM), counts, strict=True):
            if count > 0:
                self._agreed = number
                self._ranks.settled()
