"""Writing bundles: stage, fsync, rename; prune only afterwards."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from markovae.checkpoint.manifest import FORMAT, MANIFEST, make_manifest
from markovae.config import Config
from markovae.errors import UserError
from markovae.files import refused, staged_folder, sync, write_synced

_NAME = re.compile(r"step-(\d{8,})")


def checkpoint_name(step: int) -> str:
    """The folder of a step's checkpoint: step-00001234."""
    return f"step-{step:08d}"


def checkpoints_in(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first, by their names alone."""
    found = [(int(match[1]), path) for path in folder.glob("step-*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], config: Config
) -> Path:
    """Write the bundle of a step below `folder`; nothing is visible under its name before it is whole.

    Args:
        tensors: of each safetensors file: "model", "ema", "optimizer".
        state: position, data and whatever else JSON can hold.   config: of the run.
    Raises:
        StoppedRun: when the disk refuses, naming path, bytes needed and bytes free.
    """
    contents = {f"{name}.safetensors": _encode(table) for name, table in tensors.items()}
    contents["state.json"] = (json.dumps({"format": FORMAT, **state}, indent=1, allow_nan=False) + "\n").encode()
    contents["config.toml"] = config.to_toml().encode()
    return _write(folder / checkpoint_name(step), contents)


def export_weights(target: Path, ema: Mapping[str, Tensor], state: Mapping[str, Any], config: Config) -> Path:
    """Write a bundle with the averaged weights alone, in half precision: to keep, to ship, to load, not to resume.

    Raises:
        UserError: where a weight does not fit half precision.
        StoppedRun: when the disk refuses.
    """
    halves = {name: value.to(torch.float16) for name, value in ema.items()}
    for name, value in halves.items():
        if not bool(value.isfinite().all()):
            raise UserError(f"weight {name!r} exceeds 65,504 and does not fit half precision: keep the checkpoint")
    kept = {key: value for key, value in state.items() if key != "format"}
    contents = {
        "ema.safetensors": _encode(halves),
        "state.json": (json.dumps({"format": FORMAT, **kept}, indent=1, allow_nan=False) + "\n").encode(),
        "config.toml": config.to_toml().encode(),
    }
    return _write(target, contents)


def prune(folder: Path, keep: int, also: Iterable[Path] = ()) -> None:
    """Delete all but the newest `keep` checkpoints; those in `also` stay too. Call it after a save, never before."""
    spared = {path.name for path in also}
    for path in checkpoints_in(folder)[keep:]:
        if path.name not in spared:
            # The manifest goes first: half a deletion is then a checkpoint that does not verify.
            (path / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(path, ignore_errors=True)
    sync(folder)


def _write(target: Path, contents: Mapping[str, bytes]) -> Path:
    needed = sum(map(len, contents.values()))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with staged_folder(target) as stage:
            for name, content in contents.items():
                write_synced(stage / name, content)
            write_synced(stage / MANIFEST, make_manifest(contents))
    except OSError as error:
        raise refused(target, needed, error) from error
    return target


def _encode(table: Mapping[str, Tensor]) -> bytes:
    return safetensors.torch.save({name: value.detach().cpu().contiguous() for name, value in table.items()})
