"""One function over many items, in worker processes."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

from markovae.log import log
from markovae.system.cores import usable_cores

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_WORKERS = 32


def worker_count() -> int:
    """The cores this process may use, at most 32."""
    return min(usable_cores(), MAX_WORKERS)


def map_in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], chunk: int, serial_below: int
) -> Iterator[Result]:
    """Yield function(item) for each item, in order.

    Fewer than `serial_below` items, or one core, are worked off in this process. Ctrl-C ends the workers
    after the chunk in hand and is raised here. Where workers cannot start (a script without the guard
    `if __name__ == "__main__":`, or one read from standard input), this process does the work itself.

    Args:
        function: a module-level function; it must not raise for bad items, but return its finding.
        chunk: items handed to a worker at once.
    """
    workers = min(worker_count(), -(-len(items) // chunk))
    done = 0
    if len(items) >= serial_below and workers > 1 and _main_can_run_again():
        _refuse_unguarded_child()
        try:
            for result in _parallel(function, items, chunk, workers):
                done += 1
                yield result
        except BrokenProcessPool:
            log(
                "worker processes ended early, so this process does the work alone (slower); a script needs "
                "the guard `if __name__ == '__main__':` around what it does"
            )
    for item in items[done:]:
        yield function(item)


def _parallel(function: Callable[[Item], Result], items: Sequence[Item], chunk: int, workers: int) -> Iterator[Result]:
    # spawn, not fork: the caller may already run torch's threads, which a forked child would inherit locked.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)
    try:
        pending: list[Future[list[Result]]] = []
        for start in range(0, len(items), chunk):
            pending.append(pool.submit(_work, function, items[start : start + chunk]))
            if len(pending) > 4 * workers:
                yield from pending.pop(0).result()
        for future in pending:
            yield from future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _work(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return [function(item) for item in items]


def _begin_worker() -> None:
    """Ctrl-C is the parent's to deal with; and where the parent is killed, its workers do not live on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _main_can_run_again() -> bool:
    """Whether a worker could import the caller's script: one that was piped into python is in no file."""
    main = sys.modules["__main__"]
    path = getattr(main, "__file__", None)
    return path is None or getattr(main, "__spec__", None) is not None or Path(path).is_file()


def _refuse_unguarded_child() -> None:
    """End a worker that is running the caller's script again because that script has no guard."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(1)
