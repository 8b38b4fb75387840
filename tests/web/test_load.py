"""A hundred clients at once: no server error, flat memory, and cheap requests answered beside a sampling.

The clients are a process of their own, since what they wait for their own turn is no delay of the server's. Each pauses
between two requests, as people do: clients that never pause measure how many of them there are.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.reliability.conftest import Tell, many
from tests.reliability.conftest import tell as tell  # a fixture

POINT = 13  # of docs/reliability.md
CLIENTS = 100
PAUSE = 1.0  # seconds between two requests of a client, in the mean
CROWD = """
import asyncio, json, random, sys, time
import httpx

address, clients, each, pause = sys.argv[1], *map(int, sys.argv[2:4]), float(sys.argv[4])
statuses, seconds, drawn = [], [], []

async def main():
    limits, chance = httpx.Limits(max_connections=clients + 1), random.Random(0)
    visitors_gone = asyncio.Event()
    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=120) as client:

        async def sampling():
            while not visitors_gone.is_set():  # there is one all the time
                answer = await client.post("/api/sample", json={"n": 16, "steps": 100})
                statuses.append(answer.status_code)
                drawn.append('"kind":"done"' in answer.text.replace(" ", ""))

        async def visitor():
            for _ in range(each):
                await asyncio.sleep(chance.uniform(0, 2 * pause))
                began = time.perf_counter()
                answer = await client.get("/api/about")
                seconds.append(time.perf_counter() - began)
                statuses.append(answer.status_code)

        await client.get("/api/about")
        work = asyncio.create_task(sampling())
        await asyncio.gather(*(visitor() for _ in range(clients)))
        visitors_gone.set()
        await work

asyncio.run(main())
print(json.dumps({"statuses": sorted(set(statuses)), "seconds": sorted(seconds), "drawn": drawn}))
"""


def resident() -> int:
    """Bytes of this process, whose threads serve."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def standing() -> str:
    """How this session stands beside others on a shared core."""
    group = Path("/proc/self/autogroup")
    return f"priority {group.read_text().split()[-1] if group.exists() else os.getpriority(os.PRIO_PROCESS, 0)}"


def crowd(address: str, clients: int, each: int, pause: float) -> dict[str, Any]:
    words = [sys.executable, "-c", CROWD, address, str(clients), str(each), str(pause)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=900, check=True)
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("each", [2, pytest.param(100, marks=pytest.mark.slow)])
def test_a_hundred_clients_are_served(address: str, tell: Tell, each: int) -> None:
    crowd(address, CLIENTS, 1, 0)  # what the first requests load is not the load's
    before = resident()
    found = crowd(address, CLIENTS, each if each == 2 else many(each), 0.1 if each == 2 else PAUSE)
    grown = (resident() - before) / 2**20
    seconds = found["seconds"]
    middle, late = (1000 * seconds[int(share * len(seconds))] for share in (0.5, 0.99))
    assert found["statuses"] == [200]
    assert found["drawn"]
    assert all(found["drawn"])
    assert grown < 64
    if each > 2:
        tell(
            POINT,
            f"{CLIENTS} visitors of the page at once, {each} requests each, {CLIENTS / PAUSE:.0f} a second in all, "
            "beside samplings without a break",
            f"`tests/web/test_load.py`, loopback, visitors and server on one shared core of an AMD EPYC, {standing()}",
            f"{len(seconds):,} requests, no 5xx; half of them within {middle:.0f} ms, 99 % within {late:.0f} ms (load "
            f"of the machine {os.getloadavg()[0]:.0f}); {len(found['drawn'])} samplings whole; memory {grown:+.0f} MiB",
            middle=middle,
            late=late,
            grown=grown,
        )
        if os.getloadavg()[0] < 2:  # on a busy machine it is the machine that is measured
            assert late <= 50
