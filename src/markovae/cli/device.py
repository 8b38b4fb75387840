"""Device and precision as a person names them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from markovae.errors import UserError

if TYPE_CHECKING:
    import torch

    from markovae.checkpoint import Checkpoint
    from markovae.diffusion import Diffusion


def chosen_device(name: str) -> torch.device:
    """The device of this name; auto takes CUDA, then MPS, then the CPU.

    Raises:
        UserError: for a name that torch does not know or a device that is not there.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"--device {name} is not to be had here: take cpu, or what `markovae doctor` lists") from None
    return device


def open_model(run: str | Path, options: argparse.Namespace) -> tuple[Checkpoint, Diffusion]:
    """The newest verified checkpoint of a run and its model, on the device and in the precision asked for."""
    import torch

    from markovae.checkpoint import open_checkpoint

    device = chosen_device(options.device)
    checkpoint = open_checkpoint(run)
    model = checkpoint.model().to(device)
    if options.precision == "auto":
        return checkpoint, model
    model.precision = getattr(torch, options.precision)
    if options.precision == "float64":
        model.network.double()
    return checkpoint, model
