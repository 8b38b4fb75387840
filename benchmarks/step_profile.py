"""Where the time of a training step goes, by kind of work.

    python benchmarks/step_profile.py [--networks small large default] [--batch 32] [--steps 4] [--note TEXT]

Every operation of the forward and the backward pass is timed by itself, in processor time of one thread, so that what
else runs on the machine does not count; then the other parts of a step: draws, checks, clipping, the optimizer and the
average of the weights. `default` is the recipe of `markovae train`, with Muon; the others are DDPM networks with AdamW.
In bfloat16, or in float32 where the processor emulates it. The floor is the time of the convolutions' and matrix
products' arithmetic alone, at the speed of a large matrix product. About a minute for the small ones, several for the
large one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import machine
from markovae.build import create
from markovae.config import Config
from markovae.system.memory import kept_memory
from markovae.training.precision import without_timing
from markovae.training.trainer import Training
from performance_networks import NETWORKS, images_for, model_of, weights_of
from training import config_of

WARM = 6
PRECISION = "float32" if without_timing(torch.device("cpu")) else "bfloat16"
KINDS = {
    "convolutions": ("convolution",),
    "norms": ("group_norm", "addcmul", "sum", "mean"),
    "silu": ("silu", "gelu"),
    "attention and linear layers": ("mm", "softmax", "attention", "rms_norm"),
    "copies and casts": ("copy", "clone", "cat", "stack", "contiguous"),
    "additions": ("add",),
}


class Timer(TorchDispatchMode):
    """Processor time of each operation, in nanoseconds, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.spent: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        started = time.process_time_ns()
        made = function(*arguments, **(keywords or {}))
        self.spent[function.overloadpacket.__name__] += time.process_time_ns() - started
        return made


def main(arguments: list[str] | None = None) -> int:
    options = parsed(arguments)
    found = machine.facts(options)
    networks = {name: study(name, options, found) for name in options.networks}
    machine.written({"machine": found, "batch": options.batch, "networks": networks}, options, "profile")
    return 0


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    machine.add_options(parser)
    parser.set_defaults(threads=1, clock="cpu")
    parser.add_argument("--networks", nargs="+", default=["small", "large", "default"], choices=[*NETWORKS, "default"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=4)
    return parser.parse_args(arguments)


def study(name: str, options: argparse.Namespace, found: Mapping[str, Any]) -> dict[str, Any]:
    """Milliseconds of each kind of work in a step."""
    run = training_of(name, options.batch)
    with kept_memory():
        for _ in range(WARM):
            run.advance()
        whole = taken(run.advance, options.steps)
        batch = run.batches.at(0)
        dtype = run.choose_precision().dtype

        def passes() -> object:
            return run._backward(run._network, batch, options.batch, dtype)

        with FlopCounterMode(display=False) as counter:
            passes()
        both, timer = taken(passes, options.steps), Timer()
        with timer:
            for _ in range(options.steps):
                passes()
        parts = sorted_out({key: value / options.steps / 1e6 for key, value in timer.spent.items()})
        parts["between operations"] = both - sum(parts.values())
        parts["optimizer"] = taken(run.optimizer.step, options.steps)
        parts["draws"] = taken(lambda: run.batches.at(0), options.steps)
        parts["average of the weights"] = taken(lambda: run.average.update(10**6), options.steps)
        parts["checks and clipping"] = whole - both - sum(list(parts.values())[-3:])
    record = {
        "weights": weights_of(run.model.network),
        "precision": PRECISION,
        "step_ms": whole,
        "parts_ms": parts,
        "floor_ms": counter.get_total_flops() / found["matmul_gflops"][PRECISION] / 1e6,
    }
    print(*lines(name, record), sep="\n", flush=True)
    return record


def training_of(name: str, batch: int) -> Training:
    """A training of one of the networks."""
    if name != "default":
        model = model_of(name)
        return Training(model, images_for(model, 256), config_of(batch, PRECISION))
    settings = [f"train.batch={batch}", f"train.precision={PRECISION}", "train.steps=1000000"]
    config = Config().with_settings(settings)
    model = create(config, (3, 32, 32))
    return Training(model, images_for(model, 256), config.train)


def taken(work: Callable[[], object], count: int) -> float:
    """Milliseconds of processor time, the median of so many calls."""
    return 1000 * statistics.median(machine.seconds(work, clock=time.process_time) for _ in range(count))


def sorted_out(spent: Mapping[str, float]) -> dict[str, float]:
    """The times of operations by kind; the first kind whose word a name holds."""
    found = dict.fromkeys([*KINDS, "other operations"], 0.0)
    for name, value in spent.items():
        kind = next((k for k, words in KINDS.items() if any(word in name for word in words)), "other operations")
        found[kind] += value
    return found


def lines(name: str, record: Mapping[str, Any]) -> list[str]:
    """The record in words."""
    said = [f"{name}: {record['step_ms']:.0f} ms per step"]
    said += [
        f"  {part:28s} {value:8.1f} ms  {value / record['step_ms']:.1%}" for part, value in record["parts_ms"].items()
    ]
    said.append(f"  {'floor':28s} {record['floor_ms']:8.1f} ms  {record['floor_ms'] / record['step_ms']:.1%}")
    return said


if __name__ == "__main__":
    sys.exit(main())
