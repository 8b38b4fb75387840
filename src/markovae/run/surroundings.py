"""What a run is started with besides its data and its configuration."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from markovae.log import log
from markovae.run.loggers import Logger
from markovae.system.files import SYSTEM, Disk
from markovae.system.lock import Lock


@dataclass(frozen=True)
class Surroundings:
    """Where a run takes place, and who hears of it.

    Args:
        trust: networks of the caller's own that may be imported.
        loggers: of its figures, besides metrics.jsonl.
        progress: show a bar, and remarks on stderr.
        device: what it computes on.
        held: the folder's lock, where the caller holds it already.
        disk, clock: what is written to, and what gives seconds; a test may replace both.
    """

    trust: Sequence[str] = ()
    loggers: Iterable[Logger | str] = ()
    progress: bool = True
    device: str | torch.device = "cpu"
    held: Lock | None = None
    disk: Disk = SYSTEM
    clock: Callable[[], float] = time.monotonic

    def remark(self, text: str) -> None:
        """Tell of the run on stderr, where progress is shown."""
        if self.progress:
            log(text)


PLAIN = Surroundings()
