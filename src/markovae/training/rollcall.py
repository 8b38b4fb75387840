"""Which processes of a job are still there: each says so in the store that all meet in."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import final

import torch.distributed as dist

from markovae.processes import Place

ROLL_CALL = 1.5  # seconds in which the processes that are left say so


@final
class RollCall:
    """The processes of a job, each known by its machine and number there.

    Args:
        place: of this process.   store: what they meet in.
    """

    def __init__(self, place: Place, store: dist.Store) -> None:
        self._place, self._store = place, store

    def register(self) -> None:
        """Say that this process has come, and where it runs."""
        self._store.set(f"process/{self._place.rank}", json.dumps([socket.gethostname(), os.getpid()]))

    def answer(self) -> None:
        """Say that this process is still there."""
        self._store.set(f"here/{self._place.rank}", "yes")

    def absent(self) -> list[int]:
        """The ranks that never came."""
        return self._without("process")

    def missing(self) -> list[int]:
        """The ranks that do not say that they are still there; none where whoever kept the store is gone as well.

        One that was stopped (SIGSTOP) on this machine is continued, so that it finds the others gone and ends too:
        whoever started it would wait for it in vain.
        """
        try:
            self.answer()
            until = time.monotonic() + ROLL_CALL
            while (missing := self._without("here")) and time.monotonic() < until:
                time.sleep(0.05)
            for rank in missing:
                self._continue(rank)
        except (RuntimeError, OSError):
            return []
        return missing

    def _without(self, what: str) -> list[int]:
        return [rank for rank in range(self._place.size) if not self._store.check([f"{what}/{rank}"])]

    def _continue(self, rank: int) -> None:
        machine, process = json.loads(self._store.get(f"process/{rank}"))
        if machine == socket.gethostname() and hasattr(signal, "SIGCONT"):
            with suppress(OSError):  # it has ended
                os.kill(process, signal.SIGCONT)


def told(ranks: Sequence[int]) -> str:
    """The ranks in words: rank 1; ranks 1, 2 and 5 more."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"ranks {', '.join(map(str, ranks[:8]))}" + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
