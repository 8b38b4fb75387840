"""What this machine can do, measured: the ceilings that every benchmark prints beside its figures.

    python benchmarks/machine.py [--threads N] [--device cpu]

Matrix products of 512, 1024 and 2048 rows and columns, the best of several rounds for each type: the matmul peak. One
copy of 128 MiB, read and written: the memory bandwidth. Takes about ten seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from markovae.system.files import make_folder, write_file

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "docs" / "results"
SIZES = (512, 1024, 2048)
COPIED = 32 * 2**20  # float32 numbers, 128 MiB: far beyond any cache here
ROUNDS = 8
SLOW = 2.0  # seconds of one round
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
Clock = Callable[[], float]


def add_options(parser: argparse.ArgumentParser) -> None:
    """--threads and --out, which every benchmark of speed takes."""
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: all cores")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="of the matrix products of the peak")
    parser.add_argument("--out", type=Path, help="the record; left out: docs/results/performance_*.json")
    parser.add_argument("--note", default="", help="what else ran on the machine, for the record")
    parser.add_argument(
        "--clock",
        choices=list(CLOCKS),
        default="wall",
        help="cpu: seconds of this process alone, for a machine that others use too; with --threads 1",
    )


def clock_of(options: argparse.Namespace) -> Clock:
    """The clock asked for.

    Raises:
        SystemExit: for the processor's time of several threads, which is no time that passed.
    """
    if options.clock == "cpu" and options.threads != 1:
        raise SystemExit(f"--clock cpu adds up the time of all threads: take --threads 1, not {options.threads}")
    return CLOCKS[options.clock]


def facts(options: argparse.Namespace, device: str = "cpu") -> dict[str, Any]:
    """The machine in words and figures: GFLOP/s by type, GB/s, cores, load, versions."""
    torch.set_num_threads(options.threads)
    clock, sizes = clock_of(options), options.sizes
    peaks = {str(dtype)[6:]: peak(dtype, device, sizes, clock) for dtype in (torch.float32, torch.bfloat16)}
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else processor(),
        "cores": os.cpu_count(),
        "cores_allowed": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "clock": options.clock,
        "load_before": [round(value, 2) for value in os.getloadavg()],
        "matmul_gflops": peaks,
        "bandwidth_gbytes": bandwidth(device, clock),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def peak(
    dtype: torch.dtype, device: str = "cpu", sizes: Sequence[int] = SIZES, clock: Clock = time.perf_counter
) -> float:
    """GFLOP/s of the fastest square matrix product."""
    best = 0.0
    for size in sizes:
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        out = torch.empty(size, size, device=device, dtype=dtype)

        def product(left: torch.Tensor = left, right: torch.Tensor = right, out: torch.Tensor = out) -> object:
            return torch.mm(left, right, out=out)

        took = fastest(product, device, clock)
        best = max(best, 2 * size**3 / took / 1e9)
        if took > SLOW:  # emulated: larger products would only take longer
            break
    return best


def bandwidth(device: str = "cpu", clock: Clock = time.perf_counter) -> float:
    """GB/s of a copy, read and written counted."""
    source = torch.ones(COPIED, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / fastest(lambda: target.copy_(source), device, clock) / 1e9


def fastest(work: Callable[[], object], device: str = "cpu", clock: Clock = time.perf_counter) -> float:
    """Seconds of the fastest of several rounds, the first of which allocates; one is enough of what takes seconds."""
    best = seconds(work, device, clock)
    for _ in range(ROUNDS if best < SLOW else 0):
        best = min(best, seconds(work, device, clock))
    return best


def seconds(work: Callable[[], object], device: str = "cpu", clock: Clock = time.perf_counter) -> float:
    """Seconds of one call, everything that it queued included."""
    settle(device)
    started = clock()
    work()
    settle(device)
    return clock() - started


def settle(device: str) -> None:
    """Wait for what a device still has to do."""
    if device == "cuda":
        torch.cuda.synchronize()


def alternate(
    steppers: Mapping[str, Callable[[int], float]], rounds: int, limit: float
) -> tuple[dict[str, list[float]], int]:
    """(seconds a step of each in every round, steps a round): a round times each, begun by another every time.

    Args:
        steppers: so many steps -> the seconds they took.
        rounds: three of them at least; the rest as long as the time lasts.   limit: seconds for all of it, about.
    """
    until, names = time.monotonic() + limit, list(steppers)
    for stepper in steppers.values():
        stepper(1)
    started = time.monotonic()
    for stepper in steppers.values():
        stepper(1)
    count = max(1, int((until - time.monotonic()) / rounds / (time.monotonic() - started)))
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        if turn > 2 and time.monotonic() > until:
            break
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times[name].append(steppers[name](count) / count)
    return times, count


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest, of figures that were measured in rounds."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "rounds": len(values)}


def over(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """How many times ours exceeds theirs, round by round."""
    return spread([mine / other for mine, other in zip(ours, theirs, strict=True)])


def processor() -> str:
    """The name of the processor, with what it multiplies in."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    name = next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")), "CPU")
    extra = next((word for word in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if word in text), "")
    return f"{name} ({extra})" if extra else name


def written(record: Mapping[str, Any], options: argparse.Namespace, name: str) -> Path:
    """Write a record where it belongs, and say where."""
    path = options.out or RECORDS / f"performance_{name}.json"
    full = {**record, "note": options.note, "load_after": [round(value, 2) for value in os.getloadavg()]}
    make_folder(path.parent)
    write_file(path, (json.dumps(full, indent=1) + "\n").encode())
    print(f"written: {path}")
    return path


if __name__ == "__main__":
    chosen = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(chosen)
    chosen.add_argument("--device", default="cpu")
    told = chosen.parse_args()
    print(json.dumps(facts(told, told.device), indent=1))
