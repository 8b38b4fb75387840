"""The time our default recipe takes to the validation bits/dim that the peers reach in M minutes.

    python benchmarks/time_to_bound.py [--minutes 20] [--shares 0.05 0.1 0.2 0.33] [--images 500] [--threads N]
        [--ddp FOLDER]

On the embedded faces at 32x32, with networks of about 4.4 M weights. The peers: diffusers' unconditional example at its
defaults (float32, batch 16, AdamW at 1e-4, its average of the weights), and tuned (bfloat16, the fused optimizer, batch
64, the best rate of three after a tenth of the time); and, where FOLDER has it (see performance_ddp.py),
denoising-diffusion-pytorch's trainer at its defaults. Ours: the default recipe, width 96, run afresh for each share of
the M minutes. Everyone's averaged weights are measured by `mv.measure` on the same validation images, the peers' by way
of `mv.wrap`; the time of measuring does not count. The figure is the shortest of our runs whose bits/dim are not above
the peer's, over M minutes. Takes M · (2.3 + the sum of the shares) minutes, M more with --ddp, and some minutes of
measuring: about 65 or 85 in all. Keep the machine to itself meanwhile.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import machine
import markovae as mv
from markovae.config import Config
from markovae.data.images import ImageData
from markovae.diffusion.model import Diffusion
from markovae.training.trainer import Training
from performance_ddp import DDPPeer
from performance_networks import NETWORKS, model_of, peer_of, weights_of
from performance_peers import DEFAULT, Peer, Setting

RATES = (1e-4, 3e-4, 1e-3)
TRIAL = 0.1
SEED = 20_260_101  # of the measuring: the same images, levels and noise for everyone
LOOKS = 4
WIDTH = 22  # of denoising-diffusion-pytorch's U-Net, which then has 4.47 M weights


def main(arguments: list[str] | None = None) -> int:
    options = parsed(arguments)
    found = machine.facts(options)
    import diffusers

    splits = mv.load_data(options.data)
    train, validation = unlabelled(splits.train), splits.validation.images[: options.images]
    seconds = 60 * options.minutes
    peers = {"diffusers, defaults": peer_run(options, example(options, train, DEFAULT, 16), validation, seconds)}
    trials = {
        rate: peer_run(options, example(options, train, tuned(rate), 64), validation, TRIAL * seconds, looks=1)
        for rate in RATES
    }
    best = min(trials, key=lambda rate: trials[rate]["bits_per_dim"]["mean"])
    fastest = peer_run(options, example(options, train, tuned(best), 64), validation, seconds)
    peers["diffusers, tuned"] = {**fastest, "rate": best}
    if options.ddp:
        peer = DDPPeer(options.ddp, torch.as_tensor(train.images) / (train.bins - 1), WIDTH)
        name = f"denoising-diffusion-pytorch {peer.version}, defaults"
        peers[name] = peer_run(options, peer, validation, seconds)
    ours = [our_run(options, train, validation, share * seconds) for share in sorted(options.shares)]
    record = {
        "machine": found,
        "diffusers": diffusers.__version__,
        "minutes": options.minutes,
        "images": len(validation),
        "peers": peers,
        "trials": {str(rate): trial["bits_per_dim"] for rate, trial in trials.items()},
        "ours": ours,
        "reached": {name: reached(ours, peer, seconds) for name, peer in peers.items()},
    }
    print(*lines(record), sep="\n")
    machine.written(record, options, "time_to_bound")
    return 0


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    machine.add_options(parser)
    parser.add_argument("--data", default="faces")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.33])
    parser.add_argument("--images", type=int, default=500, help="of the validation part, measured")
    parser.add_argument("--draws", type=int, default=16)
    parser.add_argument("--ddp", type=Path, metavar="FOLDER", help="has denoising-diffusion-pytorch")
    parser.add_argument("--network", default="small", choices=list(NETWORKS))
    parser.add_argument("--set", metavar="A.B=C", action="append", default=["network.width=96"], help="of ours")
    return parser.parse_args(arguments)


def tuned(rate: float) -> Setting:
    """The example with everything that makes it fast."""
    return Setting(use_bf16=True, fused=True, rate=rate)


def unlabelled(data: ImageData) -> ImageData:
    """The images alone: neither side is told classes."""
    return ImageData(data.images, bins=data.bins)


def example(options: argparse.Namespace, train: ImageData, setting: Setting, batch: int) -> Peer:
    """diffusers' example before its first step."""
    model = model_of(options.network)
    return Peer(peer_of(model), model.to_x(torch.as_tensor(train.images)).float(), batch, setting)


def peer_run(
    options: argparse.Namespace, peer: Peer | DDPPeer, validation: Any, seconds: float, looks: int = LOOKS
) -> dict[str, Any]:
    """Train the peer for so long and measure its average at the end and on the way."""
    spent, steps, found = 0.0, 0, []
    for look in range(1, looks + 1):
        while spent < seconds * look / looks:
            spent += machine.seconds(peer.step)
            steps += 1
        found.append(looked(peer.averaged(), validation, options, spent, steps * peer.batch))
    weights = weights_of(peer.unet)
    return {"weights": weights, "batch": peer.batch, "looks": found, "bits_per_dim": found[-1]["bits_per_dim"]}


def our_run(options: argparse.Namespace, train: ImageData, validation: Any, seconds: float) -> dict[str, Any]:
    """The default recipe for so long, from the beginning."""
    settings = [*options.set, f"train.minutes={seconds / 60}", "train.label_dropout=0"]
    config = Config().with_settings(settings)
    training = Training(mv.create(config, train.shape, bins=train.bins), train, config.train)
    started = time.monotonic()
    while not training.done:
        training.advance()
    spent = time.monotonic() - started
    training.fit_variance()
    seen = training.step * config.train.batch
    weights = weights_of(training.model.network)
    return {"weights": weights, **looked(training.average.model, validation, options, spent, seen)}


def looked(model: Diffusion, validation: Any, options: argparse.Namespace, spent: float, seen: int) -> dict[str, Any]:
    """The bits/dim of the validation images, after so many seconds and images of training."""
    measured = mv.measure(model.eval(), validation, draws=options.draws, seed=SEED)
    value = measured.bits_per_dim
    print(f"after {spent:,.0f} s and {seen:,} images: {value.value:.3f} ± {value.stderr:.3f} bits/dim", flush=True)
    bits = {"mean": value.value, "stderr": value.stderr}
    return {"seconds": spent, "images_seen": seen, "bits_per_dim": bits}


def reached(ours: Sequence[Mapping[str, Any]], peer: Mapping[str, Any], seconds: float) -> float | None:
    """The share of the peer's time in which ours is not above its bits/dim; None where no run was."""
    bound = peer["bits_per_dim"]["mean"]
    times = [run["seconds"] for run in ours if run["bits_per_dim"]["mean"] <= bound]
    return min(times) / seconds if times else None


def lines(record: Mapping[str, Any]) -> list[str]:
    """The record in words."""
    said = []
    for name, peer in record["peers"].items():
        bits, share = peer["bits_per_dim"], record["reached"][name]
        words = "not reached" if share is None else f"reached in {share:.3f} of the time"
        said.append(f"{name}: {bits['mean']:.3f} ± {bits['stderr']:.3f} bits/dim, {words}")
    return said


if __name__ == "__main__":
    sys.exit(main())
