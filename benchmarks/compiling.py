"""train.compile: how long compiling takes, what a step gains by it, and after how many steps it has paid.

    python benchmarks/compiling.py [--networks small] [--threads N] [--rounds 5] [--seconds 60] [--cold] [--note TEXT]

Our training loop with and without train.compile in alternating rounds, each in a process of its own; the first step of
each is timed by itself. --cold compiles into an empty folder instead of the machine's cache, as a first run does. What
compiles is the C++ compiler (CXX, else g++); cold it takes minutes, and more for a larger network.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import machine
from contenders import Contender
from markovae.training.loop import fit
from performance_networks import NETWORKS, images_for, model_of
from training import IMAGES, config_of


def main(arguments: list[str] | None = None) -> int:
    options = parsed(arguments)
    found = machine.facts(options)
    with tempfile.TemporaryDirectory() as folder:
        if options.cold:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        networks = {name: study(name, options) for name in options.networks}
    machine.written({"machine": found, "cold": options.cold, "networks": networks}, options, "compiling")
    return 0


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    machine.add_options(parser)
    parser.add_argument("--networks", nargs="+", default=["small"], choices=list(NETWORKS))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60.0, help="for the rounds of one network, about")
    parser.add_argument("--cold", action="store_true")
    return parser.parse_args(arguments)


def study(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One network: first steps, then rounds."""
    how = {"threads": options.threads, "clock": options.clock}
    with ExitStack() as stack:
        running, first = {}, {}
        for label, compiled in (("plain", False), ("compiled", True)):
            running[label] = stack.enter_context(Contender(steps, name, options.batch, compiled, **how))
            started = time.monotonic()
            running[label].steps(1)
            first[label] = time.monotonic() - started
        steppers = {label: contender.steps for label, contender in running.items()}
        times, count = machine.alternate(steppers, options.rounds, options.seconds)
    spread = {label: machine.spread(values) for label, values in times.items()}
    cost = first["compiled"] - first["plain"]
    record = {
        "batch": options.batch,
        "steps_a_round": count,
        "first_step_seconds": first,
        "step_seconds": spread,
        "plain_over_compiled": machine.over(times["plain"], times["compiled"]),
        "break_even_steps": break_even(cost, spread["plain"]["median"] - spread["compiled"]["median"]),
    }
    print(*lines(name, record), sep="\n", flush=True)
    return record


def steps(name: str, batch: int, compiled: bool) -> Callable[[], object]:
    """The steps of `fit`."""
    model, config = model_of(name), config_of(batch, "bfloat16")
    made = fit(model, images_for(model, IMAGES), config, compile=compiled)
    return lambda: next(made)


def break_even(cost: float, gain: float) -> int | None:
    """Steps after which `cost` seconds have come back at `gain` seconds a step; None for never."""
    return math.ceil(max(cost, 0.0) / gain) if gain > 0 else None


def lines(name: str, record: Mapping[str, Any]) -> list[str]:
    """The record in words."""
    said = [
        f"{name}: first step {record['first_step_seconds']['plain']:.1f} s, compiled "
        f"{record['first_step_seconds']['compiled']:.1f} s"
    ]
    for label, value in record["step_seconds"].items():
        said.append(
            f"  {label:10s} {1000 * value['median']:.0f} ms per step ({1000 * value['low']:.0f} to "
            f"{1000 * value['high']:.0f})"
        )
    even = record["break_even_steps"]
    said.append("  compiling does not pay here" if even is None else f"  compiling has paid after {even:,} steps")
    return said


if __name__ == "__main__":
    sys.exit(main())
