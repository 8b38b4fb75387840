"""`markovae import`: a diffusers pipeline, or a file of weights, as a run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from markovae.cli.options import whole
from markovae.errors import UserError
from markovae.log import show

if TYPE_CHECKING:
    from markovae.config import Config
    from markovae.diffusion.model import Diffusion

SUMMARY = "make a run from a diffusers pipeline or a file of weights"
DESCRIPTION = """\
Read the folder of a diffusers pipeline (UNet2DModel with DDPMScheduler or DDIMScheduler, weights as safetensors), or
one file of weights (safetensors, or torch.save's, whose pickle is never executed), and write it as a run, which can
be sampled, measured and trained on. diffusers itself is not needed.
"""
EXAMPLES = """\
examples:
  markovae import ddpm-cifar10-32/ --out runs/cifar
  markovae sample runs/cifar --sampler ancestral         # the pipeline's own chain
  markovae measure runs/cifar photos/                  # what images cost under it, in bits/dim
  markovae train photos/ --init runs/cifar --out runs/on     # fine-tuning
  markovae import model.pt --as nets:UNet --set data.size=32 --out runs/mine     # a network of your own
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `markovae import`."""
    parser.add_argument(
        "source", metavar="SOURCE", help="the pipeline's folder, with unet/ and scheduler/, or a file of weights"
    )
    parser.add_argument(
        "--as",
        dest="network",
        metavar="NETWORK",
        help="network of a file of weights: ddpm, unet, dit, or package.module:Class, which is imported",
    )
    parser.add_argument(
        "--classes", metavar="N", type=whole(0), default=0, help="classes that the network of a file takes"
    )
    parser.add_argument(
        "--set",
        metavar="A.B=C",
        action="append",
        default=[],
        help="change one setting for a file, such as data.size=32; repeatable",
    )
    parser.add_argument("--out", metavar="RUN", required=True, help="the run's folder: new or empty")


def run(options: argparse.Namespace) -> int:
    """Import and tell; exit code 0.

    Raises:
        UserError: for a folder that cannot be read or expressed, or an --out that is not empty.
    """
    from markovae.interop.importing import import_run

    config, trust = _configuration(options)
    model = import_run(options.source, options.out, config, classes=options.classes, trust=trust)
    show(f"{options.out}: {described(model)}")
    also = "".join(f" --trust {name}" for name in trust)
    show(f"next:  markovae sample {options.out}{also},  markovae measure {options.out} DATA{also}")
    return 0


def _configuration(options: argparse.Namespace) -> tuple[Config | None, list[str]]:
    """What --as and --set say of a file, and the class that they name; nothing of a folder.

    Raises:
        UserError: for a setting that does not exist or does not fit, or without --as.
    """
    from markovae.config import Config

    if options.network is None:
        if options.set:
            raise UserError("--set belongs to a file of weights: name its network with --as")
        return None, []
    own = ":" in options.network
    names = ["network.kind=own", f"network.own.name={options.network}"] if own else [f"network.kind={options.network}"]
    return Config().with_settings([*names, *options.set]), [options.network] if own else []


def described(model: Diffusion) -> str:
    """What was imported, in a line."""
    channels, height, width = model.shape
    count = sum(weight.numel() for weight in model.parameters())
    ends = [float(model.schedule.logsnr[level]) for level in (1, -1)]
    clip = "x̂ as it is" if model.clip is None else f"x̂ held to ±{model.clip:g}"
    return (
        f"{count / 1e6:.1f} M weights for images of {width}x{height}, {channels} channels; {model.num_levels:,} levels "
        f"from log-SNR {ends[0]:.1f} to {ends[1]:.1f}; the network predicts the {model.target.name}; {clip}"
    )
