"""What the campaigns share: the fork server, folders in memory, and the book of results."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.reliability.forkserver import ForkServer

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "build" / "reliability"  # collected by scripts/reliability.py
Tell = Callable[..., None]


def many(count: int) -> int:
    """How often a soak repeats: `count` times the environment's SOAK, which is 1 unless a shorter soak is asked for."""
    return max(1, round(count * float(os.environ.get("SOAK", "1"))))


@pytest.fixture(scope="session")
def forkserver() -> Iterator[ForkServer]:
    """A process with torch loaded that forks trainers."""
    with ForkServer() as server:
        yield server


@contextmanager
def folder_in_memory() -> Iterator[Path]:
    """A folder in memory where there is one: what is killed, not unplugged, needs no disk."""
    shm = Path("/dev/shm")
    parent = shm if shm.is_dir() and os.access(shm, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="markovae-test-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def memory() -> Iterator[Path]:
    """`folder_in_memory`."""
    with folder_in_memory() as folder:
        yield folder


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Tell:
    """Write a row of docs/reliability.md: what a soak test found, for scripts/reliability.py to collect."""
    began = time.monotonic()

    def write(point: int, figure: str, method: str, result: str, **numbers: float) -> None:
        RESULTS.mkdir(parents=True, exist_ok=True)
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
        ).stdout.strip()
        row = {
            "point": point,
            "figure": figure,
            "method": method,
            "result": result,
            "numbers": numbers,
            "load": round(os.getloadavg()[0], 1),
            "seconds": round(time.monotonic() - began, 1),
            "test": request.node.nodeid,
            "commit": commit or None,
        }
        name = "".join(c if c.isalnum() else "-" for c in request.node.name)
        (RESULTS / f"{name}-{len(list(RESULTS.glob(name + '*')))}.json").write_text(json.dumps(row, indent=1) + "\n")

    return write
