"""Bundles of older formats, brought to the present one in memory; the files on the disk stay as they are.

A new format adds one function at the end of `MIGRATIONS`, one to `FORMAT`, and a bundle of the format before it to
tests/fixtures/bundles.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from markovae.checkpoint.draws import draws_record
from markovae.checkpoint.manifest import CheckpointError, parse_json
from markovae.config import Config
from markovae.errors import UserError

Contents = dict[str, bytes]


def migrated(contents: Contents, found: int, folder: Path) -> Contents:
    """Verified contents of format `found` as contents of the present format.

    Raises:
        CheckpointError: naming the file that its own format does not explain.
    """
    for migrate in MIGRATIONS[found - 1 :]:
        contents = migrate(contents, folder)
    return contents


def _state(contents: Contents, written: int, folder: Path) -> dict[str, Any] | None:
    """state.json of this format; None where it or the configuration is missing, which reading will say."""
    if "state.json" not in contents or "config.toml" not in contents:
        return None
    path = folder / "state.json"
    state: dict[str, Any] = parse_json(contents["state.json"], path)
    if state.get("format") != written:
        raise CheckpointError(f"{path} has format {state.get('format')!r} where its manifest says {written}")
    return state


def _from_1_to_2(contents: Contents, folder: Path) -> Contents:
    """Format 1 left the position in the data to be worked out from step and batch; format 2 says it."""
    state = _state(contents, 1, folder)
    if state is None:
        return contents
    if type(state.get("step")) is not int:
        raise CheckpointError(f"{folder / 'state.json'} has no step: it was not written by markovae")
    try:
        train = Config.parse(contents["config.toml"], str(folder / "config.toml")).train
    except UserError as error:
        raise CheckpointError(str(error)) from None
    data = state.get("data")
    part = data.get("train") if isinstance(data, dict) else None
    images = part.get("count") if isinstance(part, dict) else None
    draws = draws_record(train.seed, train.batch, images if type(images) is int else None, state["step"], 0)
    state = {**state, "format": 2, "rollbacks": 0, "draws": draws}
    return {**contents, "state.json": (json.dumps(state, indent=1) + "\n").encode()}


def _from_2_to_3(contents: Contents, folder: Path) -> Contents:
    """Format 2 had no attention in U-Nets of two levels that did not name it; in format 3 the coarsest level has."""
    state = _state(contents, 2, folder)
    if state is None:
        return contents
    try:
        config = Config.parse(contents["config.toml"], str(folder / "config.toml"))
        if config.network.kind == "unet" and config.network.attention is None:
            factors, coarsest = config.network.levels(*_size(state))
            attention = coarsest if len(factors) > 2 else ()
            config = replace(config, network=replace(config.network, attention=attention))
    except UserError as error:
        raise CheckpointError(str(error)) from None
    state = {**state, "format": 3}
    told = {"state.json": (json.dumps(state, indent=1) + "\n").encode(), "config.toml": config.to_toml().encode()}
    return {**contents, **told}


def _size(state: dict[str, Any]) -> tuple[int, int]:
    """Height and width of the images, 1 where the state does not tell: reading it says so."""
    shape = state.get("shape")
    if not isinstance(shape, list) or len(shape) != 3 or any(type(n) is not int or n < 1 for n in shape):
        return 1, 1
    return shape[1], shape[2]


MIGRATIONS: tuple[Callable[[Contents, Path], Contents], ...] = (_from_1_to_2, _from_2_to_3)
