"""What a busy core beside does to operations on several threads, and what is chosen instead.

    python benchmarks/busy.py            prints a table

Each row is a process of its own that repeats the work of `markovae.system.threads` for a few seconds, beside a loop
that is pinned to the first core, or beside none: with one thread, with all, and with all while they wait
in other ways (variables of libgomp, the OpenMP of torch). Figures are medians of the rounds, as a ratio to one thread
in the same round.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

WAYS: dict[str, dict[str, str]] = {
    "one thread": {},
    "all threads": {},
    "all threads, GOMP_SPINCOUNT=0": {"GOMP_SPINCOUNT": "0"},
    "all threads, GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "all threads, OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "as chosen": {},
}
LOOP = "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nwhile True: pass"


def measured(way: str, seconds: float) -> dict[str, float]:
    """In this process: the median time of the work, and how often it lost a core against its will, per work."""
    import torch

    from markovae.system.threads import Threads, seconds_of_work

    most = torch.get_num_threads()
    count = 1 if way == "one thread" else most
    if way == "as chosen":
        threads = Threads()
        threads.choose()
        count = threads.count
    seconds_of_work(count)
    before, until, times = resource.getrusage(resource.RUSAGE_SELF), time.monotonic() + seconds, []
    while time.monotonic() < until:
        times.append(seconds_of_work(count))
    lost = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - before.ru_nivcsw
    return {"ms": 1000 * statistics.mean(times), "switches": lost / len(times), "threads": count}


def main(arguments: list[str] | None = None) -> int:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.way:
        print(json.dumps(measured(options.way, options.seconds)))
        return 0
    found: dict[tuple[bool, str], list[dict[str, float]]] = {}
    for _ in range(options.rounds):
        for busy in (False, True):
            loop = subprocess.Popen([sys.executable, "-c", LOOP]) if busy else None
            try:
                for way, variables in WAYS.items():
                    command = [sys.executable, __file__, "--way", way, "--seconds", str(options.seconds)]
                    made = subprocess.run(
                        command, env={**os.environ, **variables}, capture_output=True, text=True, check=True
                    )
                    found.setdefault((busy, way), []).append(json.loads(made.stdout))
            finally:
                if loop is not None:
                    loop.kill()
                    loop.wait()
    print(
        "| beside | threads | speed, of one thread's | switches against its will, a work |\n| --- | --- | ---: | ---: |"
    )
    for (busy, way), rows in found.items():
        plain = found[busy, "one thread"]
        ratio = statistics.median(one["ms"] / row["ms"] for one, row in zip(plain, rows, strict=True))
        switches = statistics.median(row["switches"] for row in rows)
        print(f"| {'a busy core' if busy else 'nothing of ours'} | {way} | {ratio:.2f} | {switches:.1f} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
