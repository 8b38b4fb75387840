"""A run opened by its path, with its model on a device."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from markovae.cli.options import chosen_device
from markovae.errors import UserError

if TYPE_CHECKING:
    from markovae.checkpoints.reading import Checkpoint
    from markovae.diffusion.model import Diffusion


@dataclass(frozen=True)
class Opened:
    """A verified checkpoint and its model, averaged weights, on the device asked for.

    Args:
        path: as asked for: a run, or one checkpoint.   checkpoint: the one that was taken.   model: its own.
    """

    path: Path
    checkpoint: Checkpoint
    model: Diffusion

    @property
    def precision(self) -> str:
        """Of the network: float32, bfloat16 or float64."""
        return str(self.model.precision).removeprefix("torch.")

    @property
    def num_classes(self) -> int:
        """Classes the network takes, 0 for none."""
        return int(getattr(self.model.network, "num_classes", 0))


def open_run(options: argparse.Namespace, trained_in: bool) -> Opened:
    """The run of `options.run_path` on the device and in the precision of the options.

    Args:
        trained_in: what `auto` means: True for the precision of the training where the device has it natively,
            False for float32.
    Raises:
        UserError: for a path that is no run, a checkpoint that does not verify, or a device that is not there or has
            no float64.
    """
    import torch

    from markovae.checkpoints.reading import open_checkpoint
    from markovae.report.subject import own_precision

    device = chosen_device(options.device)
    checkpoint = open_checkpoint(options.run_path)
    model = checkpoint.model().to(device)
    if options.precision in (None, "auto"):
        model.precision = own_precision(checkpoint, device) if trained_in else torch.float32
    else:
        model.precision = getattr(torch, options.precision)
    if model.precision == torch.float64:
        if device.type == "mps":
            raise UserError("--precision float64 is not on the device mps: add --device cpu")
        model.double()
    return Opened(Path(options.run_path), checkpoint, model)
