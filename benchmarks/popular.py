"""What popular models cost: their authors' public recipes, trained here at equal wall time, measured by one evaluator.

    pip install --no-deps --target PEERS denoising-diffusion-pytorch==2.3.4 smalldiffusion==0.5.0 torchcfm==1.0.7 \\
        einops ema-pytorch torch-einops-utils accelerate
    python benchmarks/popular.py cifar10 --minutes 10 --peers PEERS --out FOLDER [--only NAME…] [--images 1000]

Each recipe is that of its authors: their loss, schedule, optimizer, rates, warm-up, batch, dropout, flips, average of
the weights, and their network, at a quarter of its published width, so that it has about 2 million weights, as ours.
Left out is what could only slow them: data loaders, logging, samples. An average that looks far back is of little worth
after minutes, so each is measured by its averaged and by its last weights, and the better counts; and a warm-up ends
after a tenth of the time at the latest. No model is given the classes. What is finished in FOLDER is taken as it is;
the record holds all of it. Keep the machine to itself while it trains: the budget is a time.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import machine
import markovae as mv
from markovae.checkpoints.reading import load_run
from markovae.config import Config, preset_settings
from markovae.diffusion.bound import estimate_mean
from markovae.diffusion.model import Diffusion
from markovae.diffusion.schedule import Tabulated, from_betas, linear
from markovae.errors import UserError
from markovae.likelihood.measurement import estimate_dict
from markovae.log import log
from markovae.run.start import resume_run, train_run
from markovae.system.files import make_folder, write_file
from performance_ddp import imported
from performance_networks import weights_of

Wrapped = Callable[[nn.Module], Diffusion]
SEED = 20_261_130  # of the measuring
WARMING = 0.1  # of the time, at most


@dataclass(frozen=True)
class Peer:
    """A network and how its authors train it.

    Args:
        network: trained in place.
        loss: of images on [−1, 1], (B, C, H, W), which changes nothing else.
        wrapped: the network, or an average of it, as a model that is measured.
    """

    network: nn.Module
    loss: Callable[[Tensor], Tensor]
    wrapped: Wrapped


@dataclass(frozen=True)
class Recipe:
    """A public recipe.

    Args:
        source: where its authors give it.
        build: images' shape and the folder of packages -> the peer.
        batch, rate, betas, decay: images a step, learning rate, and AdamW's, or Adam's where the decay is 0.
        warmup: steps in which the rate rises.   cosine: whether it then falls to 0.   clip: of the gradient's norm.
        flips: whether images are mirrored with chance 1/2.
        horizon: decay of the average after a number of steps, and how many steps lie between its updates.
    """

    source: str
    build: Callable[[Sequence[int], Path], Peer]
    batch: int
    rate: float
    betas: tuple[float, float] = (0.9, 0.999)
    decay: float = 0.0
    warmup: int = 0
    cosine: bool = False
    clip: float | None = 1.0
    flips: bool = True
    horizon: Callable[[int], float] = lambda step: 0.9999
    every: int = 1


# -------------------- the peers' networks and losses


def unet(shape: Sequence[int], dropout: float) -> nn.Module:
    """Ho et al.'s network for CIFAR-10 at a quarter of its width, by diffusers."""
    from diffusers import UNet2DModel

    made: nn.Module = UNet2DModel(
        sample_size=shape[-1],
        in_channels=shape[0],
        out_channels=shape[0],
        block_out_channels=(32, 64, 64, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        dropout=dropout,
    )
    return made


def ddpm(dropout: float) -> Callable[[Sequence[int], Path], Peer]:
    """ε of 1,000 linear steps, squared error."""

    def build(shape: Sequence[int], peers: Path) -> Peer:
        from diffusers import DDPMScheduler

        network, scheduler = unet(shape, dropout), DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")

        def loss(x: Tensor) -> Tensor:
            step, noise = torch.randint(0, 1000, (len(x),)), torch.randn_like(x)
            out = network(scheduler.add_noise(x, noise, step), step).sample
            return nn.functional.mse_loss(out, noise)

        return Peer(network, loss, lambda net: mv.wrap(net, shape, linear()))

    return build


def lucidrains(shape: Sequence[int], peers: Path) -> Peer:
    """denoising-diffusion-pytorch: v on its sigmoid schedule."""
    (ddp,) = imported(peers, "denoising_diffusion_pytorch")
    network = ddp.Unet(16, dim_mults=(1, 2, 4, 8), channels=shape[0])
    process = ddp.GaussianDiffusion(network, image_size=tuple(shape[1:]))
    grid = from_betas(process.betas.double())
    return Peer(
        network,
        lambda x: process((x + 1) / 2),
        lambda net: mv.wrap(net, shape, grid, predicts="pred_v"),
    )


def elucidated(shape: Sequence[int], peers: Path) -> Peer:
    """EDM as denoising-diffusion-pytorch has it: its preconditioning, weights and log-normal noise levels."""
    (ddp,) = imported(peers, "denoising_diffusion_pytorch")
    network = ddp.Unet(16, dim_mults=(1, 2, 4, 8), channels=shape[0], learned_sinusoidal_cond=True)
    process = ddp.ElucidatedDiffusion(network, image_size=shape[-1], channels=shape[0])
    return Peer(
        network,
        lambda x: process((x + 1) / 2),
        lambda net: mv.wrap(net, shape, predicts="edm_network"),
    )


def smalldiffusion(shape: Sequence[int], peers: Path) -> Peer:
    """smalldiffusion's CIFAR-10 example: ε of x + σ ε on its sigmoid schedule."""
    (small,) = imported(peers, "smalldiffusion")
    side = shape[-1]
    network = small.Scaled(small.Unet)(
        side, shape[0], shape[0], ch=32, ch_mult=(1, 2, 2, 2), attn_resolutions=(side // 2,)
    )
    schedule = small.ScheduleSigmoid(N=1000)
    grid = Tabulated(-2 * schedule.sigmas.double().log())

    def loss(x: Tensor) -> Tensor:
        x, sigma, noise, _ = small.diffusion.generate_train_sample(x, schedule)
        found: Tensor = network.get_loss(x, sigma, noise)
        return found

    def wrapped(net: nn.Module) -> Diffusion:
        def noise(z: Tensor, sigma: Tensor) -> Tensor:
            sigma = sigma.to(z).reshape(-1, 1, 1, 1)
            found: Tensor = net(z * (1 + sigma**2).sqrt(), sigma)
            return found

        return mv.wrap(noise, shape, grid, time=lambda logsnr: (-logsnr / 2).exp())

    return Peer(network, loss, wrapped)


def flow_matching(shape: Sequence[int], peers: Path) -> Peer:
    """torchcfm's CIFAR-10 example with independent pairs: x − ε at t x + (1 − t) ε."""
    (matching, nets) = imported(peers, "torchcfm", "torchcfm.models.unet.unet")
    network = nets.UNetModelWrapper(
        dim=tuple(shape),
        num_res_blocks=2,
        num_channels=32,
        channel_mult=[1, 2, 2, 2],
        num_heads=4,
        num_head_channels=64,
        attention_resolutions="16",
        dropout=0.1,
    )
    matcher = matching.ConditionalFlowMatcher(sigma=0.0)

    def loss(x: Tensor) -> Tensor:
        time, mixed, flow = matcher.sample_location_and_conditional_flow(torch.randn_like(x), x)
        return nn.functional.mse_loss(network(time, mixed), flow)

    return Peer(network, loss, lambda net: mv.wrap(lambda z, time: net(time, z), shape, predicts="rectified_flow"))


def example_horizon(step: int) -> float:
    """diffusers' average: 1 − (1 + n)^(−3/4), at most 0.9999."""
    return min(1 - (1 + step) ** -0.75, 0.9999)


def trainer_horizon(step: int) -> float:
    """ema_pytorch's at its defaults under beta=0.995: the weights for 100 updates, then 1 − 1/(1 + n)^(2/3)."""
    return min(max(1 - (1 + max(step - 101, 0)) ** (-2 / 3), 0.0), 0.995)


RECIPES = {
    "Ho et al.": Recipe("Ho et al. 2020, appendix B", ddpm(0.1), 128, 2e-4, warmup=5000),
    "diffusers": Recipe(
        "examples/unconditional_image_generation", ddpm(0.0), 16, 1e-4, (0.95, 0.999), 1e-6, 500, True,
        horizon=example_horizon,
    ),
    "denoising-diffusion-pytorch": Recipe(
        "its README and Trainer", lucidrains, 32, 8e-5, (0.9, 0.99), horizon=trainer_horizon, every=10
    ),
    "EDM": Recipe(
        "its ElucidatedDiffusion", elucidated, 32, 8e-5, (0.9, 0.99), horizon=trainer_horizon, every=10
    ),
    "smalldiffusion": Recipe("examples/cifar_unet.py", smalldiffusion, 256, 2e-4, decay=0.01, clip=None),
    "flow matching": Recipe("torchcfm, examples/images/cifar10", flow_matching, 128, 2e-4, warmup=5000),
}  # fmt: skip
BOUND = preset_settings("bound", "logsnr_linear")
VDM = [
    *preset_settings("bound", "learned"),
    "schedule.kind=learned",
    "network.patch=1",
    "network.multipliers=[1]",
    "network.attention=[]",
    "network.blocks=11",
    "network.radius=0",
    "network.octaves=0",
    "network.spectral=0",
]
OURS = {"markovae": [], "markovae, --objective bound": BOUND, "as VDM": VDM}


# -------------------- training and measuring


def main(arguments: list[str] | None = None) -> int:
    options = parsed(arguments)
    torch.set_num_threads(options.threads)
    try:
        unknown = [name for name in options.only if name not in {**RECIPES, **OURS}]
        if unknown:
            raise UserError(f"recipe {unknown[0]!r} is unknown: take some of {', '.join(map(repr, options.names))}")
        make_folder(options.out)
        for name in options.only:
            if not place(options.out, name).with_suffix(".npy").exists():
                finish(options, name)
        record = gathered(options)
    except UserError as error:
        log(str(error))
        return 2
    target = options.record or machine.RECORDS / f"popular_{record['data']}.json"
    make_folder(target.parent)
    write_file(target, (json.dumps(record, indent=1) + "\n").encode())
    log(f"written: {target}")
    return 0


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*RECIPES, *OURS]
    parser.add_argument("data", metavar="DATA", help="as for `markovae train`: cifar10, or images of 32x32")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training, each (default: 10)")
    parser.add_argument("--steps", type=int, help="of training, each, at most")
    parser.add_argument("--images", type=int, default=1000, help="test images measured (default: 1,000)")
    parser.add_argument("--draws", type=int, default=4, help="levels drawn an image (default: 4)")
    parser.add_argument("--peers", type=Path, required=True, help="the folder of their packages")
    parser.add_argument("--only", metavar="NAME", nargs="+", default=names, help="which recipes (default: all)")
    parser.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="what is finished lies here")
    parser.add_argument("--record", type=Path, help="default: docs/results/popular_DATA.json")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--note", default="", help="what else ran on the machine, for the record")
    options = parser.parse_args(arguments)
    options.names = names
    return options


def place(out: Path, name: str) -> Path:
    """Where a recipe's figures lie, without the ending."""
    return out / "".join(letter if letter.isalnum() else "-" for letter in name)


def finish(options: argparse.Namespace, name: str) -> None:
    """Train one, measure it, and keep its figures and the nats of each image."""
    parts = mv.load_data(options.data)
    test = np.asarray(parts.test.images[: options.images])
    if name in OURS:
        facts, models = ours(options, name)
    else:
        facts, models = theirs(options, name, torch.as_tensor(parts.train.images), parts.train.bins)
    found = {kind: mv.measure(model, test, draws=options.draws, seed=SEED) for kind, model in models.items()}
    better = min(found, key=lambda kind: found[kind].bits_per_dim.value)
    measured = found[better]
    facts |= {
        "name": name,
        "minutes": options.minutes,
        "weights_measured": better,
        "n": len(test),
        "draws": options.draws,
        "levels": measured.num_levels,
        "threads": options.threads,
        "processor": machine.processor(),
        "note": options.note,
    }
    figures = measured.to_dict()
    facts |= {each: figures[each] for each in ("bits_per_dim", "terms_bits_per_dim")}
    log(f"{name}: {facts['bits_per_dim']['mean']:.3f} bits/dim, {facts['images_seen']:,} images seen")
    write_file(place(options.out, name).with_suffix(".json"), (json.dumps(facts, indent=1) + "\n").encode())
    with place(options.out, name).with_suffix(".npy").open("wb") as file:
        np.save(file, measured.total.numpy() / measured.dims / math.log(2), allow_pickle=False)


def theirs(
    options: argparse.Namespace, name: str, images: Tensor, bins: int
) -> tuple[dict[str, Any], dict[str, Diffusion]]:
    """A peer after its time: its figures, and its models by which weights they have."""
    recipe = RECIPES[name]
    torch.manual_seed(0)
    peer = recipe.build(tuple(images.shape[1:]), options.peers)
    network, average = peer.network.train(), deepcopy(peer.network)
    weights, averaged = list(network.parameters()), list(average.parameters())
    optimizer: torch.optim.Optimizer = (
        torch.optim.AdamW(weights, recipe.rate, recipe.betas, weight_decay=recipe.decay)
        if recipe.decay
        else torch.optim.Adam(weights, recipe.rate, recipe.betas)
    )
    step, started, order = 0, time.monotonic(), torch.empty(0, dtype=torch.int64)
    while (spent := (time.monotonic() - started) / 60 / options.minutes) < 1 and step != options.steps:
        if len(order) < recipe.batch:
            order = torch.randperm(len(images))
        chosen, order = order[: recipe.batch], order[recipe.batch :]
        x = images[chosen].float() * (2 / (bins - 1)) - 1
        if recipe.flips:
            x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(-1), x)
        loss = peer.loss(x)
        loss.backward()
        if recipe.clip is not None:
            nn.utils.clip_grad_norm_(weights, recipe.clip)
        rising = min(max((step + 1) / recipe.warmup, spent / WARMING), 1.0) if recipe.warmup else 1.0
        falling = (1 + math.cos(math.pi * spent)) / 2 if recipe.cosine else 1.0
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * rising * falling
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if step % recipe.every == 0:
            with torch.no_grad():
                torch._foreach_lerp_(averaged, weights, 1 - recipe.horizon(step // recipe.every))
    facts = {
        "source": recipe.source,
        "seconds": time.monotonic() - started,
        "images_seen": step * recipe.batch,
        "weights": weights_of(network),
    }
    for each in (network, average):
        each.eval().requires_grad_(False)
    return facts, {"averaged": peer.wrapped(average), "last": peer.wrapped(network)}


def ours(options: argparse.Namespace, name: str) -> tuple[dict[str, Any], dict[str, Diffusion]]:
    """A run of ours after the same time, everything it looks at on the way included."""
    budget = [f"train.minutes={options.minutes:g}"] if options.steps is None else [f"train.steps={options.steps}"]
    config = Config().with_settings([f"data.source={options.data}", "network.classes=false", *budget, *OURS[name]])
    run = place(options.out, name)
    opened = load_run(resume_run(run) if (run / "checkpoints").is_dir() else train_run(config, run))
    state = opened.checkpoint.state
    facts = {
        "source": "as VDM (Kingma et al. 2021): no downsampling, Fourier features, learned schedule; by markovae train"
        if OURS[name] is VDM
        else f"markovae train{' --objective bound' if OURS[name] is BOUND else ''}",
        "seconds": state["seconds"],
        "images_seen": state["images_seen"],
        "weights": weights_of(opened.model.network),
    }
    return facts, {"averaged": opened.model}


def gathered(options: argparse.Namespace) -> dict[str, Any]:
    """The record of everything that is finished, the least bits first, with paired differences to the first."""
    found = [name for name in options.names if place(options.out, name).with_suffix(".npy").exists()]
    rows = [json.loads(place(options.out, name).with_suffix(".json").read_bytes()) for name in found]
    bits = {name: np.load(place(options.out, name).with_suffix(".npy"), allow_pickle=False) for name in found}
    rows.sort(key=lambda row: row["bits_per_dim"]["mean"])
    best = bits[rows[0]["name"]]
    for row in rows:
        mine = bits[row["name"]]
        n = min(len(mine), len(best))
        row["more_than_first"] = estimate_dict(estimate_mean(torch.from_numpy(mine[:n] - best[:n])))
    words = f"{options.data} --minutes {options.minutes:g} --images {options.images} --draws {options.draws}"
    return {
        "schema_version": 1,
        "command": f"python benchmarks/popular.py {words} --peers PEERS --out FOLDER",
        "data": Path(options.data).name,
        "rows": rows,
    }


if __name__ == "__main__":
    sys.exit(main())
