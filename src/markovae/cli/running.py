"""A run opened by the options of a command, and the folder for the pictures made with it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from markovae.errors import UserError
from markovae.system.device import device_named
from markovae.system.files import SYSTEM, require_new_folder, write_folder
from markovae.system.plain import require_plain

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


def require_out(options: argparse.Namespace) -> None:
    """Refuse, before any work, an --out that is not new, or a run that pictures cannot go to.

    Raises:
        UserError: naming it.
    """
    if options.out is not None:
        require_new_folder(Path(options.out), "--out")
        return
    run = Path(options.run_path)
    require_plain(run)
    if (run / "manifest.json").is_file():
        raise UserError(f"{run} is a checkpoint, not a run: name a folder with --out")


def write_out(files: Mapping[str, bytes], options: argparse.Namespace, run: Path, kind: str, name: str) -> Path:
    """Write pictures to --out, or to the first of RUN/KIND/NAME-1, NAME-2, … that is not there yet; the folder."""
    if options.out is not None:
        return write_folder(Path(options.out), files)
    number = 1
    while (run / kind / f"{name}-{number}").exists():
        number += 1
    return write_folder(run / kind / f"{name}-{number}", files, SYSTEM.inside(run))
