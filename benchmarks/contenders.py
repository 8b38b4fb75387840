"""Contenders that are timed against one another, each in a process of its own: no one gains by another's allocator."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, final

import torch

from machine import CLOCKS, Clock

Make = Callable[..., Callable[[], object]]


@final
class Contender(AbstractContextManager["Contender"]):
    """A process that takes steps when it is told to.

    Args:
        make: a function of a module, called in that process with `arguments`; gives what takes a step.
        threads: of PyTorch there.   clock: a name in CLOCKS.
    """

    def __init__(self, make: Make, *arguments: Any, threads: int = 1, clock: str = "wall") -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, make, arguments, threads, clock), daemon=True)
        self._process.start()
        there.close()

    def steps(self, count: int) -> float:
        """Take so many steps: the seconds they took."""
        self._here.send(count)
        return float(self._here.recv())

    def peak(self) -> int:
        """The largest resident set of the process so far, in bytes."""
        self._here.send(0)
        return int(self._here.recv())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._here.close()
        self._process.join(30)
        if self._process.is_alive():
            self._process.terminate()


def _serve(pipe: Connection, make: Make, arguments: tuple[Any, ...], threads: int, clock: str) -> None:
    torch.set_num_threads(threads)
    step = make(*arguments)
    while True:
        try:
            count = pipe.recv()
        except EOFError:
            return
        pipe.send(_taken(step, count, CLOCKS[clock]) if count else 1024 * _peak())


def _taken(step: Callable[[], object], count: int, clock: Clock) -> float:
    started = clock()
    for _ in range(count):
        step()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return clock() - started


def _peak() -> int:
    """KiB; the system's other count, ru_maxrss, begins with what the parent had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
