"""Sampling and measuring with the same network here and in diffusers, in images a second.

    python benchmarks/sampling.py [--networks small large] [--threads N] [--rounds 5] [--seconds 120] [--note TEXT]

The same weights, 20 network calls per image: our `mv.sample` against diffusers' DDPMPipeline with its DDIM and its
DPM-Solver++ schedulers, in float32 and in bfloat16; ours takes `model.precision`, the pipeline autocast and channels
last. Then `mv.measure`, at so many network calls per image: of our network, and of diffusers' own through `mv.wrap`
(diffusers itself measures nothing). Each in a process of its own, in alternating rounds. Takes about --seconds for each
network, and a minute more.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch

import machine
import markovae as mv
from contenders import Contender
from markovae.diffusion.model import Diffusion
from markovae.diffusion.schedule import linear
from performance_networks import NETWORKS, flops, images_for, model_of, peer_of, weights_of

CALLS = 20
SOLVERS = {"ddim": "DDIMScheduler", "dpmpp2m": "DPMSolverMultistepScheduler"}
DRAWS = 15  # levels per image, and one call more for level 1


def main(arguments: list[str] | None = None) -> int:
    options = parsed(arguments)
    found = machine.facts(options)
    networks = {name: study(name, options, found) for name in options.networks}
    import diffusers

    machine.written({"machine": found, "diffusers": diffusers.__version__, "networks": networks}, options, "sampling")
    return 0


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    machine.add_options(parser)
    parser.add_argument("--networks", nargs="+", default=["small", "large"], choices=list(NETWORKS))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=120.0, help="for the rounds of one network, about")
    parser.add_argument("--calls", type=int, default=CALLS)
    return parser.parse_args(arguments)


def study(name: str, options: argparse.Namespace, found: Mapping[str, Any]) -> dict[str, Any]:
    """One network: all contenders in rounds, and the floor."""
    model, batch, calls = model_of(name), options.batch, options.calls
    unet = peer_of(model)
    cost = flops(unet, model.shape, batch, train=False)
    how = {"threads": options.threads, "clock": options.clock}
    makes: dict[str, tuple[Any, ...]] = {}
    for precision in ("float32", "bfloat16"):
        for solver in SOLVERS:
            makes[f"ours, {solver}, {precision}"] = (ours, name, batch, calls, solver, precision)
            makes[f"diffusers, {solver}, {precision}"] = (theirs, name, batch, calls, solver, precision)
        makes[f"measure, ours, {precision}"] = (measuring, name, batch, False, precision)
        makes[f"measure, wrapped, {precision}"] = (measuring, name, batch, True, precision)
    with ExitStack() as stack:
        running = {label: stack.enter_context(Contender(*make, **how)) for label, make in makes.items()}
        times, count = machine.alternate({k: c.steps for k, c in running.items()}, options.rounds, options.seconds)
        memory = {label: contender.peak() for label, contender in running.items()}
    rates = {label: [batch / value for value in values] for label, values in times.items()}
    ratios = {
        f"{solver}, {precision}": machine.over(
            rates[f"ours, {solver}, {precision}"], rates[f"diffusers, {solver}, {precision}"]
        )
        for solver in SOLVERS
        for precision in ("float32", "bfloat16")
    }
    record = {
        "weights": weights_of(unet),
        "batch": batch,
        "calls": calls,
        "measured_calls": DRAWS + 1,
        "gflop_a_call": cost / 1e9,
        "batches_a_round": count,
        "images_a_second": {label: machine.spread(values) for label, values in rates.items()},
        "ours_over_diffusers": ratios,
        "floor_images_a_second": found["matmul_gflops"]["bfloat16"] * 1e9 / cost / calls,
        "peak_bytes": memory,
    }
    print(*lines(name, record), sep="\n", flush=True)
    return record


def ours(name: str, batch: int, calls: int, solver: str, precision: str) -> Callable[[], object]:
    """`mv.sample` of a batch."""
    model = with_precision(model_of(name), precision)
    return lambda: mv.sample(model, batch, steps=calls, sampler=solver, batch=batch)


def theirs(name: str, batch: int, calls: int, solver: str, precision: str) -> Callable[[], object]:
    """The pipeline's batch."""
    import diffusers

    scheduler = getattr(diffusers, SOLVERS[solver])(num_train_timesteps=1000, beta_schedule="linear")
    pipeline = diffusers.DDPMPipeline(unet=peer_of(model_of(name)).eval(), scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    use_bf16 = precision == "bfloat16"
    if use_bf16:
        pipeline.unet.to(memory_format=torch.channels_last)

    def draw() -> object:
        with torch.autocast("cpu", torch.bfloat16, enabled=use_bf16):
            return pipeline(batch_size=batch, num_inference_steps=calls, output_type="np")

    return draw


def measuring(name: str, batch: int, wrapped: bool, precision: str) -> Callable[[], object]:
    """`mv.measure` of a batch of images."""
    model = model_of(name)
    images = images_for(model, batch).images
    if wrapped:
        model = mv.wrap(peer_of(model), model.shape, linear())
    model = with_precision(model, precision)
    return lambda: mv.measure(model, images, draws=DRAWS)


def with_precision(model: Diffusion, precision: str) -> Diffusion:
    """The model, working in this type."""
    model.precision = torch.bfloat16 if precision == "bfloat16" else torch.float32
    return model.eval()


def lines(name: str, record: Mapping[str, Any]) -> list[str]:
    """The record in words."""
    said = [f"{name}: {record['weights'] / 1e6:.1f} M weights, {record['gflop_a_call']:.2f} GFLOP a call"]
    for label, rate in record["images_a_second"].items():
        said.append(f"  {label:30s} {rate['median']:8.2f} images/s ({rate['low']:.2f} to {rate['high']:.2f})")
    for label, ratio in record["ours_over_diffusers"].items():
        said.append(
            f"  ours over diffusers, {label:18s} {ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
        )
    said.append(f"  {record['floor_images_a_second']:.1f} images/s of {record['calls']} calls at the matmul peak")
    return said


if __name__ == "__main__":
    sys.exit(main())
