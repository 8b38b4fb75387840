"""What the processes of a run agree on between two steps: signals, saves, and what only the first does."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import final

from markovae.run.signals import Interrupted, Interrupts
from markovae.system.distributed import LostRankError, Ranks, exit_code
from markovae.training.train_step import NonFiniteError

NOT_FINITE = 1000  # beyond every exit code


@final
class Lockstep:
    """The first process writes and looks; the others wait for what comes of it. One alone is asked nothing.

    Args:
        ranks: the processes.   interrupts: of this one.
    """

    def __init__(self, ranks: Ranks, interrupts: Interrupts) -> None:
        self._ranks, self._interrupts = ranks, interrupts
        self._agreed: int | None = None
        self._due = False

    @property
    def caught(self) -> int | None:
        """The signal to stop for, which all processes know of; None to go on."""
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
        """The first process does `work`; a signal or a number that is none stops all of them.

        Raises:
            NonFiniteError: on every process, where the first met one.
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
            pass  # noted, and told to the others below
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
            raise NonFiniteError("rank 0 met a number that is none, which it names")
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
