"""Samples as files: one PNG each that says where it came from, a grid, and the exact digits."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from markovae import __version__
from markovae.cli.classes import as_named
from markovae.cli.running import Opened
from markovae.data.pictures import png, tile, viewable
from markovae.system.files import SYSTEM, Disk, write_folder

if TYPE_CHECKING:
    from markovae.cli.drawing import Drawn


def write_samples(target: Path, opened: Opened, drawn: Drawn, options: argparse.Namespace, disk: Disk = SYSTEM) -> Path:
    """Write the folder `target`, or the next free name beside it: whole or not at all; the folder.

    Raises:
        UserError: where no folder can be made there.   StoppedRun: when the disk refuses a file.
    """
    pictures = viewable(drawn.images, opened.model.pixels.bins)
    files = {
        f"{number:05d}.png": png(picture, provenance(opened, drawn, options, place))
        for place, (number, picture) in enumerate(zip(drawn.numbers, pictures, strict=True))
    }
    columns = len(drawn.numbers) // len(drawn.asked) if len(drawn.asked) > 1 and options.shard is None else None
    files["grid.png"] = png(tile(pictures, columns), provenance(opened, drawn, options))
    files["samples.npz"] = archive(opened, drawn)
    return write_folder(target, files, disk)


def provenance(opened: Opened, drawn: Drawn, options: argparse.Namespace, place: int | None = None) -> dict[str, str]:
    """The texts in a PNG: from which checkpoint, and how to draw it again."""
    chosen = drawn.chosen
    text = {
        "Software": f"markovae {__version__}",
        "markovae:checkpoint": opened.checkpoint.digest,
        "markovae:training-step": str(opened.checkpoint.step),
        "markovae:steps": str(chosen.plan.nfe),
        "markovae:seed": str(options.seed),
        "markovae:precision": opened.precision,
    }
    for name, value in chosen.facts.items():
        if value is not None:
            text[f"markovae:{name.replace('_', '-')}"] = _worded(value)
    if chosen.facts["spacing"] in ("optimal", "tuned"):
        text["markovae:logsnr"] = _worded(chosen.plan.grid[1:].tolist())
    if drawn.asked:
        asked = drawn.asked if place is None else (drawn.prompts[place],)
        text["markovae:prompt"] = "\n".join(asked)
        made_by = opened.checkpoint.text
        # Of a folder its name: a picture that is given away says nothing of this machine.
        text["markovae:encoder"] = f"{Path(made_by['encoder']).name} {made_by['sha256']}"
        if options.negative is not None:
            text["markovae:negative"] = options.negative
    if place is not None:
        text["markovae:index"] = str(drawn.numbers[place])
        if drawn.labels is not None:
            text["markovae:class"] = opened.checkpoint.class_names[int(drawn.labels[place])]
    return text


def _worded(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(repr, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def archive(opened: Opened, drawn: Drawn) -> bytes:
    """samples.npz: arr_0 the digits, (n, H, W, C); arr_1 the classes, (n,); prompts; numbers of a part."""
    arrays = [np.ascontiguousarray(drawn.images.transpose(0, 2, 3, 1))]
    if drawn.labels is not None:
        arrays.append(as_named(opened, drawn.labels).numpy())
    stream = io.BytesIO()
    named = {} if drawn.numbers == tuple(range(len(drawn.numbers))) else {"numbers": np.array(drawn.numbers)}
    if drawn.prompts:
        named["prompts"] = np.array(drawn.prompts, dtype=np.str_)
    np.savez_compressed(stream, *arrays, **named)  # type: ignore[arg-type]
    return stream.getvalue()
