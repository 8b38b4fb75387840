"""Training the same network here and as diffusers' unconditional example does, in images a second.

    python benchmarks/training.py [--networks small large] [--threads N] [--rounds 5] [--seconds 150] [--note TEXT]

Both sides begin with the same weights. First each takes the same few steps: the same images, noise, levels and AdamW,
so the losses must be the same to 1 %. Then they are timed in alternating rounds, each in a process of its own. The peer
runs at its defaults (float32, AdamW, its average of the weights) and at its best (bfloat16 autocast, the fused AdamW,
the foreach average, in either memory format); ours is our own training loop in bfloat16, every check, draw and average
in it. The floor is the machine's matmul peak in bfloat16 over the floating-point operations of the plain network. Takes
about --seconds for each network, and a minute more.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch

import machine
from contenders import Contender
from markovae.config import Config
from markovae.data.images import ImageData
from markovae.diffusion.model import Diffusion
from markovae.training.loop import fit
from markovae.training.train_config import TrainConfig
from markovae.training.trainer import Training
from performance_networks import NETWORKS, flops, images_for, model_of, peer_of, weights_of
from performance_peers import BEST, BETAS, CLIP, DECAY, DEFAULT, Peer, Setting

IMAGES, CHECKED = 512, 4
RATE = 1e-4
LIMIT = 0.01  # equal losses
OURS = [
    "train.optimizer=adamw",
    f"train.adamw_lr={RATE}",
    f"train.beta1={BETAS[0]}",
    f"train.beta2={BETAS[1]}",
    f"train.weight_decay={DECAY}",
    f"train.clip={CLIP}",
    "train.warmup_steps=0",
    "train.decay_start=1",
    "train.steps=1000000",
]


def main(arguments: list[str] | None = None) -> int:
    options = parsed(arguments)
    found = machine.facts(options)
    networks = {name: study(name, options, found) for name in options.networks}
    import diffusers

    machine.written({"machine": found, "diffusers": diffusers.__version__, "networks": networks}, options, "training")
    return 0


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    machine.add_options(parser)
    parser.add_argument("--networks", nargs="+", default=["small", "large"], choices=list(NETWORKS))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=150.0, help="for the rounds of one network, at most")
    parser.add_argument("--precision", default="bfloat16", help="of ours, timed; float32 is checked as well")
    return parser.parse_args(arguments)


def study(name: str, options: argparse.Namespace, found: Mapping[str, Any]) -> dict[str, Any]:
    """One network: the losses side by side, the rounds, and the floor."""
    model = model_of(name)
    unet = peer_of(model)
    cost = flops(unet, model.shape, options.batch)
    losses = compared(model, images_for(model, IMAGES), options)
    how = {"threads": options.threads, "clock": options.clock}
    with ExitStack() as stack:
        running = {"ours": stack.enter_context(Contender(ours, name, options.batch, options.precision, **how))}
        for label, setting in {"default": DEFAULT, **BEST}.items():
            running[label] = stack.enter_context(Contender(theirs, name, options.batch, setting, **how))
        steppers = {label: contender.steps for label, contender in running.items()}
        times, count = machine.alternate(steppers, options.rounds, options.seconds)
        memory = {label: contender.peak() for label, contender in running.items()}
    rates = {label: [options.batch / value for value in values] for label, values in times.items()}
    best = max(BEST, key=lambda label: machine.spread(rates[label])["median"])
    peak = found["matmul_gflops"]["bfloat16"] * 1e9 / cost
    record = {
        "weights": weights_of(unet),
        "batch": options.batch,
        "gflop_an_image": cost / 1e9,
        "precision": options.precision,
        "steps_a_round": count,
        "images_a_second": {label: machine.spread(values) for label, values in rates.items()},
        "best_peer": best,
        "over_default": machine.over(rates["ours"], rates["default"]),
        "over_best": machine.over(rates["ours"], rates[best]),
        "floor_images_a_second": peak,
        "share_of_peak": machine.spread([value / peak for value in rates["ours"]]),
        "peak_bytes": memory,
        "losses": losses,
    }
    print(*lines(name, record), sep="\n", flush=True)
    return record


def ours(name: str, batch: int, precision: str) -> Callable[[], object]:
    """Our steps: `fit`, as a user runs it."""
    model = model_of(name)
    steps = fit(model, images_for(model, IMAGES), config_of(batch, precision))
    return lambda: next(steps)


def theirs(name: str, batch: int, setting: Setting) -> Callable[[], object]:
    """The peer's steps."""
    model = model_of(name)
    x = model.to_x(torch.from_numpy(images_for(model, IMAGES).images)).float()
    return Peer(peer_of(model), x, batch, setting).step


def config_of(batch: int, precision: str) -> TrainConfig:
    """The example's optimizer in our loop."""
    return Config().with_settings([*OURS, f"train.batch={batch}", f"train.precision={precision}"]).train


def compared(model: Diffusion, data: ImageData, options: argparse.Namespace) -> dict[str, Any]:
    """The losses of the same steps on every side.

    Raises:
        SystemExit: where one differs from the peer's in float32 by more than 1 %.
    """
    found: dict[str, list[float]] = {}
    for precision in ("float32", "bfloat16"):
        training = Training(copy.deepcopy(model), data, config_of(options.batch, precision))
        found[f"ours, {precision}"] = [training.advance().loss for _ in range(CHECKED)]
    batches = [training.batches.at(step) for step in range(CHECKED)]
    for label, setting in {"default": Setting(rate=RATE), **BEST}.items():
        peer = Peer(peer_of(model), torch.empty(0), options.batch, setting)
        found[label] = [peer.step_on(b.x, b.draw.noise, b.draw.level - 1) for b in batches]
    apart = {
        label: max(abs(mine / theirs - 1) for mine, theirs in zip(values, found["default"], strict=True))
        for label, values in found.items()
    }
    if max(apart.values()) > LIMIT:
        raise SystemExit(f"the losses of the same steps differ by more than {LIMIT:.0%}: {apart}")
    return {"steps": CHECKED, "of_each": found, "largest_difference": apart}


def lines(name: str, record: Mapping[str, Any]) -> list[str]:
    """The record in words."""
    said = [f"{name}: {record['weights'] / 1e6:.1f} M weights, {record['gflop_an_image']:.2f} GFLOP an image"]
    for label, rate in record["images_a_second"].items():
        memory = f"{record['peak_bytes'][label] / 2**20:,.0f} MiB at most"
        said.append(f"  {label:22s} {rate['median']:7.1f} images/s ({rate['low']:.1f} to {rate['high']:.1f}), {memory}")
    for label in ("over_default", "over_best"):
        ratio = record[label]
        said.append(f"  {label:22s} {ratio['median']:7.2f} times    ({ratio['low']:.2f} to {ratio['high']:.2f})")
    share = record["share_of_peak"]["median"]
    said.append(f"  {record['floor_images_a_second']:.1f} images/s at the matmul peak, of which ours has {share:.0%}")
    said.append(
        f"  losses of the same steps differ by at most {max(record['losses']['largest_difference'].values()):.2%}"
    )
    return said


if __name__ == "__main__":
    sys.exit(main())
