"""Samples as files: one PNG each that says where it came from, a grid, and the exact digits."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from markovae import __version__
from markovae.cli.running import Opened
from markovae.errors import UserError
from markovae.files import staged_folder, write_synced
from markovae.report.pictures import grid, png, viewable

if TYPE_CHECKING:
    from markovae.cli.sample import Drawn


def write_samples(target: Path, opened: Opened, drawn: Drawn, options: argparse.Namespace) -> None:
    """Write the folder `target`: whole or not at all.

    Raises:
        UserError: where it cannot be written.
    """
    pictures = viewable(drawn.images, opened.model.pixels.bins)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with staged_folder(target) as stage:
            for index, picture in enumerate(pictures):
                content = png(picture, provenance(opened, drawn, options, index))
                write_synced(stage / f"{index:05d}.png", content)
            write_synced(stage / "grid.png", png(grid(pictures), provenance(opened, drawn, options)))
            write_synced(stage / "samples.npz", archive(drawn))
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror}): name another folder with --out") from None


def provenance(opened: Opened, drawn: Drawn, options: argparse.Namespace, index: int | None = None) -> dict[str, str]:
    """The texts in a PNG: from which checkpoint, and how to draw it again."""
    chosen = drawn.chosen
    text = {
        "Software": f"markovae {__version__}",
        "markovae:checkpoint": opened.checkpoint.digest,
        "markovae:training-step": str(opened.checkpoint.step),
        "markovae:steps": str(chosen.plan.calls),
        "markovae:seed": str(options.seed),
        "markovae:precision": opened.precision,
    }
    for name, value in chosen.facts.items():
        if value is not None:
            text[f"markovae:{name.replace('_', '-')}"] = _worded(value)
    if chosen.facts["spacing"] in ("optimal", "tuned"):
        text["markovae:logsnr"] = _worded(chosen.plan.grid[1:].tolist())
    if index is not None:
        text["markovae:index"] = str(index)
        if drawn.labels is not None:
            text["markovae:class"] = opened.checkpoint.class_names[int(drawn.labels[index])]
    return text


def _worded(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(repr, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def archive(drawn: Drawn) -> bytes:
    """samples.npz: arr_0 the digits, (n, H, W, C); arr_1 the classes, (n,), where there are any."""
    arrays = [np.ascontiguousarray(drawn.images.transpose(0, 2, 3, 1))]
    if drawn.labels is not None:
        arrays.append(drawn.labels.numpy())
    stream = io.BytesIO()
    np.savez_compressed(stream, *arrays)
    return stream.getvalue()
