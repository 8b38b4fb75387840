"""Writing bundles: stage, fsync, rename; prune only afterwards."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from markovae.checkpoints.manifest import FORMAT, MANIFEST, make_manifest, require_readable
from markovae.config import Config
from markovae.errors import UserError
from markovae.log import log
from markovae.system.files import SYSTEM, Disk, discard, make_folder, refused, staged_folder, sync, write_synced

_NAME = re.compile(r"step-(\d{8,})")


def checkpoint_name(step: int) -> str:
    """The folder of a step's checkpoint: step-00001234."""
    return f"step-{step:08d}"


def step_of(path: Path) -> int:
    """The step that a checkpoint's folder is named after.

    Raises:
        ValueError: for another name.
    """
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path.name} is not the name of a checkpoint")
    return int(match[1])


def checkpoints_in(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first, by their names alone."""
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=step_of, reverse=True)


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    config: Config,
    disk: Disk = SYSTEM,
) -> Path:
    """Write the bundle of a step below `folder`; nothing is visible under its name before it is whole.

    Args:
        tensors: of each safetensors file: "model", "ema", "optimizer"; and "fitted", where images fitted something.
        state: position, draws, data and whatever else JSON can hold.
        config: of the run.
    Raises:
        StoppedRun: when the disk refuses, naming path, bytes needed and bytes free.
    """
    contents = {f"{name}.safetensors": _encode(table) for name, table in tensors.items()}
    contents["state.json"] = (json.dumps({"format": FORMAT, **state}, indent=1, allow_nan=False) + "\n").encode()
    contents["config.toml"] = config.to_toml().encode()
    return _write(folder / checkpoint_name(step), contents, disk)


def export_weights(
    target: Path,
    ema: Mapping[str, Tensor],
    state: Mapping[str, Any],
    config: Config,
    fitted: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a bundle with the averaged weights alone, in half precision: to keep, to ship, to load, not to resume.

    What is held in float64, a learned schedule and fitted variances, is a handful of numbers and stays so.
    Args:
        fitted: the tables of a fitted reverse variance, if there is one.
    Raises:
        UserError: where a weight does not fit half precision.
        StoppedRun: when the disk refuses.
    """
    halves = {name: value if value.dtype == torch.float64 else value.to(torch.float16) for name, value in ema.items()}
    for name, value in halves.items():
        if not bool(value.isfinite().all()):
            raise UserError(f"weight {name!r} exceeds 65,504 and does not fit half precision: keep the checkpoint")
    return write_weights(target, halves, state, config, fitted)


def write_weights(
    target: Path,
    ema: Mapping[str, Tensor],
    state: Mapping[str, Any],
    config: Config,
    fitted: Mapping[str, Tensor] | None = None,
    disk: Disk = SYSTEM,
) -> Path:
    """Write a bundle with the averaged weights alone, as they are: to load, not to resume.

    Args: as for `export_weights`.   Raises: StoppedRun when the disk refuses.
    """
    kept = {key: value for key, value in state.items() if key != "format"}
    contents = {
        "ema.safetensors": _encode(ema),
        "state.json": (json.dumps({"format": FORMAT, **kept}, indent=1, allow_nan=False) + "\n").encode(),
        "config.toml": config.to_toml().encode(),
    }
    if fitted:
        contents["fitted.safetensors"] = _encode(fitted)
    return _write(target, contents, disk)


def prune(folder: Path, keep: int, every: int = 0, disk: Disk = SYSTEM) -> None:
    """Delete all but the newest `keep` checkpoints and the milestones. Call it after a save, never before.

    One that the disk will not give up stays, and that is said: nothing is lost by it.
    Args:
        every: a checkpoint whose step is a multiple of it is a milestone and stays for good; 0 for none.
    """
    old = [path for path in checkpoints_in(folder)[keep:] if not is_milestone(step_of(path), every)]
    for path in old:
        try:
            discard(path, disk)
        except OSError as error:
            log(f"{path} could not be deleted ({error.strerror}): it stays")
    if old:
        with suppress(OSError):
            sync(folder, disk)


def is_milestone(step: int, every: int) -> bool:
    """Whether the checkpoint of this step stays for good."""
    return every > 0 and step > 0 and step % every == 0


def set_aside(path: Path, disk: Disk = SYSTEM) -> Path:
    """Give a checkpoint that does not verify a name that is no checkpoint's; nothing is deleted.

    Raises:
        StoppedRun: when the disk refuses.
    """
    number = 1
    while (aside := path.with_name(f"damaged-{path.name}-{number}")).exists():
        number += 1
    try:
        disk.rename(path, aside)
        sync(path.parent, disk)
    except OSError as error:
        raise refused(aside, 0, error, disk) from error
    return aside


def set_newer_aside(folder: Path, used: Path, disk: Disk = SYSTEM) -> None:
    """What is newer than the checkpoint in use did not verify: it must not come first when the run is opened again."""
    for path in checkpoints_in(folder):
        if path == used:
            return
        log(f"{path} is kept as {set_aside(path, disk).name}: it is no longer a checkpoint of this run")


def _write(target: Path, contents: Mapping[str, bytes], disk: Disk) -> Path:
    require_readable(contents)
    manifest = make_manifest(contents)
    needed = sum(map(len, contents.values())) + len(manifest)
    try:
        make_folder(target.parent, disk)
        with staged_folder(target, disk) as stage:
            for name, content in contents.items():
                write_synced(stage / name, content, disk)
            write_synced(stage / MANIFEST, manifest, disk)
    except OSError as error:
        raise refused(target, needed, error, disk) from error
    return target


def _encode(table: Mapping[str, Tensor]) -> bytes:
    return safetensors.torch.save({name: value.detach().cpu().contiguous() for name, value in table.items()})
