"""Training, sampling and measuring on a GPU, and their agreement with the CPU in float64. It builds nothing.

    python benchmarks/gpu.py [--device cuda] [--network large] [--batch 256] [--seconds 20] [--note TEXT]

First agreement: output, losses and gradient of one batch on the device, in float32 and in bfloat16, against the CPU in
float64; a float32 that differs by more than 1e-3 of the largest value, or a bfloat16 by more than 5e-2, ends it with
exit code 1. Then images a second: our training loop in float32 and in bfloat16 (channels last), plain and compiled;
diffusers' example at its defaults and at its best; sampling at 20 calls and measuring at 16, plain and compiled with
CUDA graphs. Compiling needs Triton; without it those rows are left out. About ten times --seconds, and compiling.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

import machine
import markovae as mv
from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.training.loop import fit
from markovae.training.precision import compiled
from markovae.training.trainer import Training
from performance_networks import NETWORKS, flops, images_for, model_of, network_of, peer_of
from performance_peers import BEST, DEFAULT, Peer
from sampling import CALLS, DRAWS, with_precision
from training import config_of

TOLERANCES = {"float32": 1e-3, "bfloat16": 5e-2}
COMPARED = 4


def main(arguments: list[str] | None = None) -> int:
    options = parsed(arguments)
    torch.set_float32_matmul_precision("highest")
    found, name = machine.facts(options, options.device), options.network
    agreement = {precision: compared(name, options.device, precision) for precision in TOLERANCES}
    for precision, errors in agreement.items():
        print(f"{precision} against float64 on the CPU: " + ", ".join(f"{k} {v:.1e}" for k, v in errors.items()))
    record: dict[str, Any] = {"machine": found, "network": name, "batch": options.batch, "agreement": agreement}
    if any(max(errors.values()) > TOLERANCES[precision] for precision, errors in agreement.items()):
        print("the device disagrees with the CPU")
        return 1
    works = contenders(options)
    rates = {label: rate(works.pop(label), options) for label in list(works)}
    cost = flops(peer_of(model_of(name)), model_of(name).shape, 2)
    record["images_a_second"] = {label: value for label, value in rates.items() if value is not None}
    record["floor_images_a_second"] = found["matmul_gflops"]["bfloat16"] * 1e9 / cost
    for label, value in record["images_a_second"].items():
        print(f"{label:40s} {value['median']:10.1f} images/s ({value['low']:.1f} to {value['high']:.1f})")
    print(f"{'training at the matmul peak':40s} {record['floor_images_a_second']:10.1f} images/s")
    machine.written(record, options, f"gpu_{options.device}")
    return 0


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    machine.add_options(parser)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--network", default="large", choices=list(NETWORKS))
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each row")
    parser.add_argument("--calls", type=int, default=CALLS)
    parser.add_argument("--plain", action="store_true", help="leave out what is compiled")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch sees no CUDA here: name --device cpu for a check of the script itself")
    return options


def compared(name: str, device: str, precision: str) -> dict[str, float]:
    """Largest differences of output, loss and gradient from the CPU's float64, in units of its largest value."""
    model = model_of(name)
    training = Training(copy.deepcopy(model), images_for(model, COMPARED), config_of(COMPARED, "float32"))
    batch = training.batches.at(0)
    exact = outcome(copy.deepcopy(model).double(), batch, torch.float64)
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    found = outcome(copy.deepcopy(model).to(device), batch, dtype)
    return {
        what: float((found[what].cpu().double() - value).abs().max() / value.abs().max())
        for what, value in exact.items()
    }


def outcome(model: Diffusion, batch: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    """Output, losses and the gradient's parts of a step's batch, with a weighted sum of them as the loss."""
    device, working = model.device, torch.float64 if dtype == torch.float64 else torch.float32
    moved = batch.to(device, working)
    logsnr = model.schedule.logsnr[batch.draw.level].to(device)
    a, s = (part.to(working)[:, None, None, None] for part in (logsnr.sigmoid().sqrt(), (-logsnr).sigmoid().sqrt()))
    noise = moved.draw.noise.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        out = model.network(a * moved.x + s * noise, logsnr, None)
    losses = (out - noise).square().flatten(1).mean(1)
    losses.sum().backward()
    slopes = [weight.grad.flatten() for weight in model.network.parameters() if weight.grad is not None]
    return {"output": out.detach(), "loss": losses.detach(), "gradient": torch.cat(slopes)}


def contenders(options: argparse.Namespace) -> dict[str, Callable[[], Callable[[], object]]]:
    """What makes each row's step, by name."""
    name, device = options.network, options.device
    made: dict[str, Callable[[], Callable[[], object]]] = {}
    for precision in TOLERANCES:
        for compiling in (False, True):
            label = f"training, {precision}" + (", compiled" if compiling else "")
            made[label] = lambda p=precision, c=compiling: stepping(name, device, options.batch, p, c)
    for label, setting in {"defaults": DEFAULT, **BEST}.items():
        made[f"training, diffusers, {label}"] = lambda s=setting: peering(name, device, options.batch, s)
    for compiling in (False, True):
        more = ", compiled" if compiling else ""
        made[f"sampling, {options.calls} calls, bfloat16{more}"] = lambda c=compiling: sampling(options, c)
        made[f"measuring, {DRAWS + 1} calls, bfloat16{more}"] = lambda c=compiling: measuring(options, c)
    return {label: make for label, make in made.items() if not (options.plain and label.endswith("compiled"))}


def stepping(name: str, device: str, batch: int, precision: str, compiling: bool) -> Callable[[], object]:
    """The steps of `fit`."""
    model = model_of(name).to(device)
    made = fit(model, images_for(model, 4 * batch), config_of(batch, precision), compile=compiling)
    return lambda: next(made)


def peering(name: str, device: str, batch: int, setting: Any) -> Callable[[], object]:
    """The peer's steps, its images on the device."""
    model = model_of(name)
    x = model.to_x(torch.from_numpy(images_for(model, 4 * batch).images)).float()
    return Peer(peer_of(model).to(device), x, batch, setting).step


def prepared(options: argparse.Namespace, compiling: bool) -> Diffusion:
    """The model for sampling and measuring; compiled with CUDA graphs where there is CUDA."""
    model = with_precision(model_of(options.network).to(options.device), "bfloat16")
    if compiling:
        network = network_of(model)
        compiled(network, model.device)  # refuses where nothing can compile
        graphs = "reduce-overhead" if options.device == "cuda" else "default"
        model.network = torch.compile(network, mode=graphs)  # type: ignore[assignment]
    return model


def sampling(options: argparse.Namespace, compiling: bool) -> Callable[[], object]:
    """`mv.sample` of a batch."""
    model = prepared(options, compiling)
    return lambda: mv.sample(model, options.batch, steps=options.calls, batch=options.batch)


def measuring(options: argparse.Namespace, compiling: bool) -> Callable[[], object]:
    """`mv.measure` of a batch."""
    model = prepared(options, compiling)
    images = images_for(model, options.batch).images
    return lambda: mv.measure(model, images, draws=DRAWS, batch=options.batch)


def rate(make: Callable[[], Callable[[], object]], options: argparse.Namespace) -> Mapping[str, float] | None:
    """Images a second over at least three rounds; None where nothing can compile."""
    try:
        step = make()
    except UserError as error:
        print(error)
        return None
    step()
    once = machine.seconds(step, options.device)
    rounds = max(3, min(30, int(options.seconds / once)))
    return machine.spread([options.batch / machine.seconds(step, options.device) for _ in range(rounds)])


if __name__ == "__main__":
    sys.exit(main())
