"""A hundred clients at once: no server error, flat memory, and cheap requests answered beside a sampling."""

import asyncio
import time
from pathlib import Path

import httpx
import pytest
from tests.reliability.conftest import Tell, many
from tests.reliability.conftest import tell as tell  # a fixture

POINT = 13  # of docs/reliability.md
CLIENTS = 100


def resident() -> int:
    """Bytes of this process, whose threads serve."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def visits(address: str, each: int) -> tuple[list[int], list[float]]:
    statuses: list[int] = []
    seconds: list[float] = []
    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=120) as client:

        async def sampling() -> None:
            answer = await client.post("/api/sample", json={"n": 16, "steps": 200})
            statuses.append(answer.status_code)

        async def cheap() -> None:
            for _ in range(each):
                began = time.perf_counter()
                answer = await client.get("/api/about")
                seconds.append(time.perf_counter() - began)
                statuses.append(answer.status_code)

        await asyncio.gather(sampling(), *(cheap() for _ in range(CLIENTS - 1)))
    return statuses, seconds


@pytest.mark.parametrize("each", [2, pytest.param(100, marks=pytest.mark.slow)])
def test_a_hundred_clients_are_served(address: str, tell: Tell, each: int) -> None:
    asyncio.run(visits(address, 1))  # what the first request loads is not the load's
    before = resident()
    statuses, seconds = asyncio.run(visits(address, each if each < 100 else many(each)))
    grown = (resident() - before) / 2**20
    assert set(statuses) == {200}
    assert grown < 64
    late = sorted(seconds)[int(0.99 * len(seconds))]
    if each > 2:
        tell(
            POINT,
            f"{CLIENTS} clients × {each} requests of the page on loopback, one of them a sampling of 200 steps",
            "`tests/web/test_load.py`, clients and server in one process",
            f"no 5xx; 99 % of the cheap requests within {1000 * late:.0f} ms; memory {grown:+.0f} MiB",
            late=late,
            grown=grown,
        )
