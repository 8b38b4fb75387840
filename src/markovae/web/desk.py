"""One model, many visitors: jobs run one after the other in a thread of their own, and a short queue waits."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any

from markovae.errors import UserError
from markovae.log import log
from markovae.system.memory import out_of_memory

Event = dict[str, Any]
Job = Callable[[], Iterator[Event]]
QUEUE = 16
HELD = 64  # events that a slow reader may lie behind
NICE = 10  # of the thread that draws and measures
PATIENCE = 20.0  # seconds that it may take for one


class BusyError(Exception):
    """The queue is full."""


class Desk:
    """Runs jobs, one at a time, in the order in which they came."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model", initializer=_give_way)
        self._present = 0
        self.closing = threading.Event()

    async def stream(self, job: Job) -> AsyncIterator[Event]:
        """The events of a job; leaving the loop over them stops the work at its next event.

        Raises:
            BusyError: where as many wait as may.
        """
        if self._present > QUEUE:
            raise BusyError
        events = self._events(job)
        return _after(await anext(events), events)  # begun here: one that nobody reads on with is closed, and leaves

    async def _events(self, job: Job) -> AsyncGenerator[Event, None]:
        self._present += 1
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event | None] = asyncio.Queue(HELD)
        gone = threading.Event()

        def give(event: Event | None) -> None:
            asyncio.run_coroutine_threadsafe(events.put(event), loop).result(PATIENCE)

        def work() -> None:
            try:
                for event in job():
                    if gone.is_set() or self.closing.is_set():
                        return
                    give(event)
            except UserError as error:
                give({"kind": "error", "message": str(error)})
            except TimeoutError:
                return  # the reader takes nothing any more
            except Exception as error:  # one visitor's request must not end the page of the others
                words = "not enough memory for this request: ask for fewer or smaller images"
                if not out_of_memory(error):
                    log(f"a request failed: {type(error).__name__}: {error}")
                    words = "this request failed; the terminal of `markovae serve` says why"
                give({"kind": "error", "message": words})
            finally:
                if not gone.is_set() and not loop.is_closed():
                    loop.call_soon_threadsafe(_end, events)

        done = loop.run_in_executor(self._worker, work)
        try:
            yield {"kind": "waiting", "before": self._present - 1}
            while (event := await events.get()) is not None:
                yield event
        finally:
            gone.set()
            while not events.empty():
                events.get_nowait()  # a put that waits gets through, sees that nobody reads, and ends
            done.add_done_callback(lambda _: self._leave())

    def _leave(self) -> None:
        self._present -= 1

    def close(self) -> None:
        """Stop the job at its next event, and take no more."""
        self.closing.set()
        self._worker.shutdown(wait=False, cancel_futures=True)


def _give_way() -> None:
    """Let the threads that answer requests go before this one, where they share cores: what it draws takes seconds."""
    if sys.platform == "linux":  # where a thread has a priority of its own
        me = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, me, min(19, os.getpriority(os.PRIO_PROCESS, me) + NICE))


async def _after(first: Event, rest: AsyncGenerator[Event, None]) -> AsyncIterator[Event]:
    async with aclosing(rest):
        yield first
        async for event in rest:
            yield event


def _end(events: asyncio.Queue[Event | None]) -> None:
    while True:
        try:
            events.put_nowait(None)
            return
        except asyncio.QueueFull:
            events.get_nowait()
