"""The two counts of every fuzzer, and its row of docs/reliability.md."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
from tests.fuzz.sandbox import MEGABYTE, Case, Found, fuzz
from tests.reliability.conftest import Tell, many
from tests.reliability.conftest import tell as tell  # a fixture

POINT = 12  # of docs/reliability.md


def cleared(path: Path) -> Path:
    """The path, with nothing there: neither the file, link or pipe of a change before, nor its folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    return path


class Fuzzer(Protocol):
    """`fuzz` with a door's name and this run's count."""

    def __call__(
        self, name: str, door: Callable[[Case], object], make: Callable[[random.Random], Case], **limits: Any
    ) -> Found: ...


@pytest.fixture(params=[100, pytest.param(10_000, marks=pytest.mark.slow)])
def fuzzer(request: pytest.FixtureRequest, tell: Tell) -> Fuzzer:
    """`fuzzer(name, door, make, writable=[...])` runs 100 cases in `make test`, 10,000 in `make soak`."""
    soak = request.param > 100
    count = many(request.param) if soak else request.param

    def run(name: str, door: Callable[[Case], object], make: Callable[[random.Random], Case], **limits: Any) -> Found:
        found = fuzz(door, make, count, **limits)
        if soak:
            tell(
                POINT,
                f"door: {name}",
                f"{count:,} hostile inputs in the sandbox of `tests/fuzz/sandbox.py`",
                f"{found.accepted:,} read, {found.refused:,} refused by one sentence; 0 of {count:,} started a "
                "process, connected, executed anything, touched a file outside or gave a traceback; at most "
                f"{found.longest:.2f} s of processor time and {found.growth / MEGABYTE:.0f} MiB each",
                cases=count,
                accepted=found.accepted,
                refused=found.refused,
                longest=found.longest,
                growth=found.growth,
            )
        return found

    return run
