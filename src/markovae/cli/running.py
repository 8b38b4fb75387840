"""A run opened by the options of a command."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from markovae.system.device import device_named

if TYPE_CHECKING:
    from markovae.checkpoints.reading import LoadedRun as Opened
else:
    Opened = object  # a name for annotations alone: the class comes with torch


def open_run(options: argparse.Namespace, trained_in: bool) -> Opened:
    """`load_run` of `options.run_path` on the device and in the precision of the options, with the threads that are
    fastest just now.

    Args:
        trained_in: what `auto` means: True for the precision of the training where the device has it natively,
            False for float32.
    """
    from markovae.checkpoints.reading import load_run
    from markovae.system.threads import settle_threads

    precision = options.precision or "auto"
    if precision == "auto" and not trained_in:
        precision = "float32"
    if device_named(options.device).type == "cpu":
        settle_threads()
    return load_run(options.run_path, device=options.device, precision=precision, trust=options.trust)
