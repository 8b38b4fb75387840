"""A search for a recipe: finished runs of one data set, each against a base, on the same validation images.

    python benchmarks/search.py BASE RUN... --images 500 --out docs/results/search_photographs.json

Every run says its own settings. Bits/dim are compared image by image, by the same levels and noise; a training image's
cost is timed in processor seconds of its network forward and backward, since a machine that others use too makes wall
times of no two runs alike. `python benchmarks/pages.py` makes the table in docs/records.md.
"""

from __future__ import annotations

import argparse
import json
import shlex
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from machine import processor
from markovae.checkpoints.reading import load_run
from markovae.data.loading import reopen
from markovae.errors import UserError
from markovae.likelihood.comparison import compare
from markovae.likelihood.evaluation_data import labels_for
from markovae.log import log
from markovae.randomness import generator
from markovae.system.files import write_file
from markovae.tables import to_table
from record import changed

ROUNDS = 3
QUIET = ("train.evaluations", "train.grids", "train.save_minutes", "train.steps", "train.minutes", "train.preset")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Finished runs against a base, on the same validation images.")
    parser.add_argument("base", metavar="BASE", type=Path)
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="*")
    parser.add_argument("--images", type=int, default=500, help="validation images (default: 500)")
    parser.add_argument("--draws", type=int, default=16, help="levels drawn per image (default: 16)")
    parser.add_argument("--out", type=Path, required=True, help="the record")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        record = {
            "schema_version": 1,
            "machine": {"processor": processor(), "threads": 1},
            "images": options.images,
            "draws": options.draws,
            "arms": [arm(run, options) for run in (options.base, *options.runs)],
        }
    except UserError as error:
        log(str(error))
        return 2
    write_file(options.out, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())
    log(f"written: {options.out}")
    return 0


def arm(run: Path, options: argparse.Namespace) -> dict[str, Any]:
    """A run's figures, and how many fewer bits/dim it takes than the base."""
    log(f"measuring {run.name}")
    opened, base = (load_run(path, device="cpu", precision="float32") for path in (run, options.base))
    config, state = opened.checkpoint.config, opened.checkpoint.state
    held_out = reopen(config.data, opened.checkpoint.split_record).validation.take(slice(0, options.images))
    known = labels_for(opened, held_out)
    found = compare(opened.model, base.model, np.asarray(held_out.images), known, draws=options.draws)
    difference, bits = found.to_dict()["difference_bits_per_dim"], found.a.bits_per_dim
    table = to_table(config)
    settings = changed(table, to_table(type(config)()))
    return {
        "name": run.name,
        "command": command(config.data.source, settings, opened.checkpoint.step),
        "against_base": changed(table, to_table(base.checkpoint.config)),
        "steps": opened.checkpoint.step,
        "images_seen": state["images_seen"],
        "wall_seconds": state["seconds"],
        "image_seconds": image_seconds(opened.model, config.train.batch),
        "weights": sum(weight.numel() for weight in opened.model.network.parameters()),
        "bits_per_dim": {"mean": bits.value, "stderr": bits.stderr},
        "less_than_base": {"mean": -difference["mean"], "stderr": difference["stderr"]},
    }


def command(source: str, settings: dict[str, Any], steps: int) -> str:
    """The command that trains such a run."""
    words = ["markovae", "train", source, "--steps", str(steps)]
    for name, value in settings.items():
        if name not in QUIET:
            words += ["--set", f"{name}={json.dumps(value) if isinstance(value, bool | list) else value}"]
    return shlex.join(words)


def image_seconds(model: Any, batch: int) -> float:
    """Processor seconds of a training image: loss and gradient of a batch, the least of a few rounds."""
    images = torch.zeros(batch, *model.shape)
    model.train().requires_grad_(True)
    least = float("inf")
    for number in range(ROUNDS + 1):
        began = time.process_time()
        model.loss(images, generator=generator(number)).backward()
        least = min(least, time.process_time() - began) if number else least
    return least / batch


if __name__ == "__main__":
    raise SystemExit(main())
