"""`markovae import`: a diffusers pipeline as a run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from markovae.log import show

if TYPE_CHECKING:
    from markovae.diffusion.model import Diffusion

SUMMARY = "make a run of a diffusers pipeline"
DESCRIPTION = """\
Read the folder of a diffusers pipeline (UNet2DModel with DDPMScheduler or DDIMScheduler, weights as safetensors) and
write it as a run, which can be sampled, measured and trained on. diffusers itself is not needed.
"""
EXAMPLES = """\
examples:
  markovae import ddpm-cifar10-32/ --out runs/cifar
  markovae sample runs/cifar --sampler ancestral          the pipeline's own chain
  markovae measure runs/cifar photos/ --split all         what images cost under it, in bits/dim
  markovae train photos/ --init runs/cifar --out runs/on  fine-tuning
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `markovae import`."""
    parser.add_argument("folder", metavar="DIR", help="the pipeline's folder, with unet/ and scheduler/")
    parser.add_argument("--out", metavar="RUN", required=True, help="the run's folder: new or empty")


def run(options: argparse.Namespace) -> int:
    """Import and tell; exit code 0.

    Raises:
        UserError: for a folder that cannot be read or expressed, or an --out that is not empty.
    """
    from markovae.interop.importing import import_run

    model = import_run(options.folder, options.out)
    show(f"{options.out}: {described(model)}")
    show(f"next:  markovae sample {options.out},  markovae measure {options.out} DATA")
    return 0


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
