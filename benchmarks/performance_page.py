"""docs/performance.md from the records that the benchmarks of speed wrote.

    python benchmarks/performance_page.py            write the page
    python benchmarks/performance_page.py --check    exit 1 where the page is not what the records say

The records are docs/results/performance_*.json; a section whose record is not there is left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import Any

from markovae.system.files import write_file
from results import DOCS, RECORDS, records
from results_common import table

PREFIX = "performance_"
PAGE = DOCS / "performance.md"
Record = Mapping[str, Any]
HEAD = """\
# Performance

Written by `python benchmarks/performance_page.py` from the records in `docs/results/`, which the commands named below
wrote, each with what the machine can do and what else ran on it. A figure is the median of the rounds, with the least
and the greatest of them in brackets. `python benchmarks/gpu.py` does the same on a GPU, first checking it against the
CPU in float64; `python benchmarks/time_to_bound.py` compares whole recipes by the bits/dim they reach.
"""

COMPILING = "It joins operations in a loop; convolutions, the most of a step on a CPU, stay what they are."


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    content = page(records(RECORDS)).encode()
    if options.check:
        fresh = PAGE.is_file() and PAGE.read_bytes() == content
        print("" if fresh else f"{PAGE} is not what the records say: run benchmarks/performance_page.py")
        return not fresh
    write_file(PAGE, content)
    return 0


def page(found: Mapping[str, Any]) -> str:
    """The whole page."""
    return "\n".join([HEAD, *(make(found[PREFIX + name]) for name, make in SECTIONS.items() if PREFIX + name in found)])


def about(record: Record, command: str) -> str:
    """The command, the machine and what else it did."""
    here = record["machine"]
    peaks = here["matmul_gflops"]
    clock = "" if here["clock"] == "wall" else ", in processor time"
    note = f" {record['note']}." if record["note"] else ""
    return (
        f"By `python benchmarks/{command}` on {here['device']}, {here['threads']} of {here['cores']} cores{clock}; "
        f"load {here['load_before'][0]:g} before and {record['load_after'][0]:g} after.{note} PyTorch {here['torch']}"
        f"{', diffusers ' + record['diffusers'] if 'diffusers' in record else ''}. Matrix products reach "
        f"{peaks['float32']:.0f} GFLOP/s in float32 and {peaks['bfloat16']:.0f} in bfloat16 there, a copy "
        f"{here['bandwidth_gbytes']:.0f} GB/s.\n"
    )


def ranged(value: Record, digits: int) -> str:
    """median (low–high)."""
    return f"{value['median']:.{digits}f} ({value['low']:.{digits}f}–{value['high']:.{digits}f})"


def training(record: Record) -> str:
    parts = ["## Training the same network\n", about(record, "training.py")]
    parts.append(
        "The same weights on both sides; the losses of the same steps agree to "
        f"{max(max(n['losses']['largest_difference'].values()) for n in record['networks'].values()):.2%}. "
        "Ours is the whole loop of `fit` in bfloat16; the peer is diffusers' unconditional example with its images "
        "ready in memory, at its defaults (float32, AdamW, its average) and in bfloat16, all fused.\n"
    )
    head = ["network", "who", "images/s", "largest resident set"]
    rows = []
    for name, network in record["networks"].items():
        for who, rate in network["images_a_second"].items():
            memory = f"{network['peak_bytes'][who] / 2**20:,.0f} MiB"
            label = "ours" if who == "ours" else f"diffusers, {who}"
            rows.append([f"{name}, {network['weights'] / 1e6:.1f} M", label, ranged(rate, 1), memory])
    parts.append(table(head, rows))
    for name, network in record["networks"].items():
        parts.append(
            f"- {name}: {ranged(network['over_default'], 2)} times the defaults, {ranged(network['over_best'], 2)} "
            f"times the best setting ({network['best_peer']}). An image is {network['gflop_an_image']:.1f} GFLOP, the "
            f"matmul peak would allow {network['floor_images_a_second']:.1f} images/s; ours reaches "
            f"{network['share_of_peak']['median']:.0%} of that."
        )
    return "\n".join(parts) + "\n"


def profile(record: Record) -> str:
    parts = ["## Where the time of a step goes\n", about(record, "step_profile.py")]
    names = list(record["networks"])
    kinds = dict.fromkeys(kind for network in record["networks"].values() for kind in network["parts_ms"])
    rows = [
        [kind, *(share(record["networks"][name], record["networks"][name]["parts_ms"][kind]) for name in names)]
        for kind in kinds
    ]
    rows.append(["a step", *(f"{record['networks'][name]['step_ms']:.0f} ms" for name in names)])
    floors = [record["networks"][name].get("floor_ms") for name in names]
    rows.append(["at the matmul peak", *("" if floor is None else f"{floor:.0f} ms" for floor in floors)])
    parts.append(table([f"{record['batch']} images", *names], rows))
    parts.append(
        "Parts are timed one by one, in runs of their own; what is between operations, and checks and clipping, is "
        "what they leave of the whole.\n\nThe peak bounds convolutions and products. Beside them every operation on "
        "its own reads and writes its activations, with bfloat16 turned to float32 and back each time. Muon's products "
        "are float32 on purpose: a Gram matrix squares the condition number.\n"
    )
    return "\n".join(parts)


def share(network: Record, value: float) -> str:
    """Milliseconds and their share of the step."""
    return f"{value:.0f} ms, {value / network['step_ms']:.0%}"


def compiling(record: Record) -> str:
    cache = "an empty cache" if record["cold"] else "the machine's cache"
    flag = " --cold" if record["cold"] else ""
    parts = ["## `train.compile`\n", about(record, f"compiling.py{flag}"), f"Compiled into {cache}. {COMPILING}\n"]
    head = ["network", "plain, ms a step", "compiled", "times faster", "first step, s", "compiled", "has paid after"]
    rows = []
    for name, network in record["networks"].items():
        steps = {k: {w: 1000 * v for w, v in value.items()} for k, value in network["step_seconds"].items()}
        first, even = network["first_step_seconds"], network["break_even_steps"]
        rows.append(
            [
                name,
                ranged(steps["plain"], 0),
                ranged(steps["compiled"], 0),
                ranged(network["plain_over_compiled"], 2),
                f"{first['plain']:.1f}",
                f"{first['compiled']:.1f}",
                "never" if even is None else f"{even:,} steps",
            ]
        )
    return "\n".join([*parts, table(head, rows)])


def memory(record: Record) -> str:
    parts = ["## Memory\n", about(record, "memory.py")]
    parts.append(
        "The largest resident set of a process that trains a few steps. Where a batch does not fit, training goes on "
        "in parts of half the size and says so.\n"
    )
    names = list(record["networks"])
    rows = [[who, *(in_words(record["networks"][name][who]) for name in names)] for who in record["networks"][names[0]]]
    return "\n".join([*parts, table([f"batch of {record['batch']}", *names], rows)])


def in_words(found: Record) -> str:
    """MiB, and milliseconds a step."""
    took = "" if found["step_seconds"] is None else f", {1000 * found['step_seconds']:,.0f} ms a step"
    return f"{found['peak_bytes'] / 2**20:,.0f} MiB{took}"


def sampling(record: Record) -> str:
    parts = ["## Sampling and measuring\n", about(record, "sampling.py")]
    for name, network in record["networks"].items():
        rows = []
        for what, ratio in network["ours_over_diffusers"].items():
            mine, other = (network["images_a_second"][f"{who}, {what}"] for who in ("ours", "diffusers"))
            rows.append([f"{what}, {network['calls']} calls", ranged(mine, 2), ranged(other, 2), ranged(ratio, 2)])
        for precision in ("float32", "bfloat16"):
            mine, other = (network["images_a_second"][f"measure, {who}, {precision}"] for who in ("ours", "wrapped"))
            label = f"`mv.measure`, {precision}, {network['measured_calls']} calls"
            rows.append([label, ranged(mine, 2), f"{ranged(other, 2)} (by `mv.wrap`)", ""])
        parts.append(table([f"{name}, images/s", "ours", "diffusers'", "ratio"], rows))
        parts.append(
            f"{network['floor_images_a_second']:.2f} images/s of {network['calls']} calls at the bfloat16 matmul peak; "
            f"{network['batch']} images at a time.\n"
        )
    return "\n".join(parts)


def startup(record: Record) -> str:
    rows = [[name, f"{ranged(value, 2)} s"] for name, value in record["seconds"].items()]
    return "\n".join(["## Start-up\n", about(record, "startup.py"), table(["", "from the start of the process"], rows)])


def gpu(record: Record) -> str:
    parts = ["## On a GPU\n", about(record, "gpu.py")]
    for precision, errors in record["agreement"].items():
        words = ", ".join(f"{what} {value:.1e}" for what, value in errors.items())
        parts.append(f"- {precision} against the CPU in float64, in units of the largest value: {words}")
    rows = [[name, ranged(value, 1)] for name, value in record["images_a_second"].items()]
    parts.append("\n" + table([f"{record['network']}, batch {record['batch']}", "images/s"], rows))
    parts.append(f"{record['floor_images_a_second']:.0f} images/s of training at the matmul peak.\n")
    return "\n".join(parts)


def time_to_bound(record: Record) -> str:
    more = " --ddp FOLDER" if len(record["peers"]) > 2 else ""
    parts = ["## Time to the bound\n", about(record, f"time_to_bound.py --minutes {record['minutes']:g}{more}")]
    head = ["who", "weights", "minutes", "images seen", f"bits/dim of {record['images']} validation images"]
    rows = [[name, *outcome(peer["weights"], peer["looks"][-1])] for name, peer in record["peers"].items()]
    rows += [["ours", *outcome(run["weights"], run)] for run in record["ours"]]
    parts.append(table(head, rows))
    for name, value in record["reached"].items():
        words = "not reached" if value is None else f"reached in {value:.3f} of the time"
        parts.append(f"- the bits/dim of {name}: {words}")
    return "\n".join(parts) + "\n"


def outcome(weights: int, look: Record) -> list[str]:
    """Cells of a run."""
    bits = look["bits_per_dim"]
    return [
        f"{weights / 1e6:.2f} M",
        f"{look['seconds'] / 60:.1f}",
        f"{look['images_seen']:,}",
        f"{bits['mean']:.3f} ± {bits['stderr']:.3f}",
    ]


SECTIONS: dict[str, Callable[[Record], str]] = {
    "training": training,
    "profile": profile,
    "compiling": compiling,
    "memory": memory,
    "sampling": sampling,
    "startup": startup,
    "gpu_cuda": gpu,
    "time_to_bound": time_to_bound,
}

if __name__ == "__main__":
    sys.exit(main())
