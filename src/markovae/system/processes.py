"""Where this process stands among those that torchrun started together."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from markovae.errors import UserError

Thing = TypeVar("Thing")
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
RESTARTS = "TORCHELASTIC_RESTART_COUNT"


@dataclass(frozen=True)
class Rank:
    """One process of a job.

    Args:
        rank: its number, 0…size−1.
        size: how many there are.
        local: its number on its machine.
        restarts: how often torchrun has started the job anew.
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    restarts: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and logs."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.size == 1

    def share(self, count: int) -> tuple[int, int]:
        """(start, stop) of this process's part of `count` things: parts differ by one at most, none is left out."""
        return self.rank * count // self.size, (self.rank + 1) * count // self.size

    def every(self, things: Sequence[Thing]) -> Sequence[Thing]:
        """Of `things` every size-th, from this process's own on: batches that are the same however many take part."""
        return things[self.rank :: self.size]


def current_rank(environment: Mapping[str, str] | None = None) -> Rank:
    """This process among those of its job, from torchrun's environment variables; alone where there are none.

    Raises:
        UserError: where some of them are missing, or they contradict each other.
    """
    declared = os.environ if environment is None else environment
    if int_of(declared, "WORLD_SIZE", 1) == 1:
        return Rank(restarts=int_of(declared, RESTARTS, 0))
    missing = [name for name in NAMES if name not in declared]
    if missing:
        raise UserError(
            f"WORLD_SIZE={declared.get('WORLD_SIZE', '?')} processes were announced without {', '.join(missing)}: "
            "start them with torchrun, or unset WORLD_SIZE"
        )
    here = Rank(*(int_of(declared, name, 0) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", RESTARTS)))
    if not 0 <= here.rank < here.size:
        raise UserError(f"RANK={here.rank} must lie in 0…{here.size - 1} (WORLD_SIZE={here.size})")
    return here


def int_of(declared: Mapping[str, str], name: str, default: int) -> int:
    """A whole number of the environment.

    Raises:
        UserError: for anything else.
    """
    text = declared.get(name, str(default))
    if not text.isdecimal():
        raise UserError(f"{name}={text!r} must be a whole number: start several processes with torchrun")
    return int(text)


def hangup() -> tuple[signal.Signals, ...]:
    """SIGHUP, which a closed terminal sends; nothing where there is none, or where nohup asked to outlive it."""
    if not hasattr(signal, "SIGHUP") or signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return ()
    return (signal.SIGHUP,)
