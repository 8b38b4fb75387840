"""The largest resident set of training: ours with its options, and diffusers' example.

    python benchmarks/memory.py [--networks small large] [--batch 32] [--steps 3] [--threads N] [--note TEXT]

Each trains a few steps in a process of its own, whose peak the system tells (VmHWM); "libraries" has made the network
and taken no step. A few seconds a contender for the small network, minutes for the large one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import Any

import machine
from contenders import Contender
from markovae.training.loop import fit
from performance_networks import NETWORKS, images_for, model_of
from performance_peers import BEST, DEFAULT
from training import IMAGES, config_of, theirs

OURS: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours, train.checkpointing": {"checkpointing": True},
    "ours, train.accumulate=4": {"accumulate": 4},
    "ours, both": {"checkpointing": True, "accumulate": 4},
}


def main(arguments: list[str] | None = None) -> int:
    options = parsed(arguments)
    found = machine.facts(options)
    networks = {name: study(name, options) for name in options.networks}
    import diffusers

    record = {"machine": found, "diffusers": diffusers.__version__, "batch": options.batch, "networks": networks}
    machine.written(record, options, "memory")
    return 0


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    machine.add_options(parser)
    parser.add_argument("--networks", nargs="+", default=["small", "large"], choices=list(NETWORKS))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3)
    return parser.parse_args(arguments)


def study(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Peaks in bytes, and seconds a step after the first."""
    makes: dict[str, tuple[Any, ...]] = {"libraries": (steps, name, options.batch, {})}
    makes |= {label: (steps, name, options.batch, settings) for label, settings in OURS.items()}
    makes |= {
        f"diffusers, {label}": (theirs, name, options.batch, s) for label, s in {"default": DEFAULT, **BEST}.items()
    }
    found = {}
    for label, make in makes.items():
        with Contender(*make, threads=options.threads, clock=options.clock) as contender:
            count = 0 if label == "libraries" else options.steps
            seconds = [contender.steps(1) for _ in range(count)]
            found[label] = {"peak_bytes": contender.peak(), "step_seconds": min(seconds[1:], default=None)}
        print(line(name, label, found[label]), flush=True)
    return found


def steps(name: str, batch: int, settings: Mapping[str, Any]) -> Callable[[], object]:
    """The steps of `fit` with these settings of [train]."""
    model = model_of(name)
    made = fit(model, images_for(model, IMAGES), config_of(batch, "bfloat16"), **settings)
    return lambda: next(made)


def line(name: str, label: str, found: Mapping[str, Any]) -> str:
    """A contender in words."""
    took = "" if found["step_seconds"] is None else f", {1000 * found['step_seconds']:,.0f} ms per step"
    return f"{name}: {label:30s} {found['peak_bytes'] / 2**20:7,.0f} MiB{took}"


if __name__ == "__main__":
    sys.exit(main())
