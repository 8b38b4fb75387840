"""Units of work and their results, kept in the user's cache under a hash of all that decides them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from markovae.data import cache

Result = dict[str, Any]


@dataclass(frozen=True)
class Unit:
    """One training and its measurements.

    Args:
        part: which experiment it belongs to.   spec: all that decides the result, as JSON takes it.
        compute: spec -> result, a function at the top of a module.
    """

    part: str
    spec: dict[str, Any] = field(hash=False)
    compute: Callable[[dict[str, Any]], Result]

    @property
    def key(self) -> str:
        """Equal settings, equal key."""
        return cache.key_of([self.part, self.spec])

    @property
    def folder(self) -> Path:
        """Where the result lies once it is known."""
        return cache.cache_folder() / f"derivation-{self.part}-{self.key}"

    def result(self) -> Result:
        """The result, computed on one thread where it is not known yet; `seconds` is what it took."""

        def make(folder: Path) -> None:
            torch.set_num_threads(1)
            started = time.process_time()
            found = self.compute(self.spec)
            cache.write_json(folder / "result.json", {**found, "seconds": round(time.process_time() - started, 1)})

        return cache.entry(self.folder.name, make, lambda kept: kept.json("result.json"))


def results(units: Sequence[Unit], jobs: int) -> Iterator[Unit]:
    """Compute what is missing, `jobs` at a time, each unit in a process of its own thread; yields units as they end."""
    known = [unit for unit in units if (unit.folder / "result.json").is_file()]
    yield from known
    missing = [unit for unit in units if unit not in known]
    if jobs == 1:
        yield from _one_by_one(missing)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        pending = {pool.submit(Unit.result, unit): unit for unit in missing}
        for done in as_completed(pending):
            done.result()
            yield pending[done]


def _one_by_one(units: Iterable[Unit]) -> Iterator[Unit]:
    for unit in units:
        unit.result()
        yield unit
