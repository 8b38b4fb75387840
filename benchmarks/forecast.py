"""How good samples are after so many images seen: what the forecast before a training is made of.

    python benchmarks/forecast.py RUN [RUN ...] --samples 256

Every RUN is one that `markovae train` ended, the longer ones of one kind of images beside the shorter. KID of its
samples is put beside that of noise of uniform pixels: the share of it that is left is 1 for noise and 0 for new
images of the same data.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import markovae as mv
from machine import RECORDS, processor
from markovae.checkpoints.reading import newest_checkpoint
from markovae.data.loading import reopen
from markovae.quality.extractor_domain import image_kind, suitable_extractor
from markovae.system.files import write_file

COLUMNS = (
    "images",
    "kind",
    "size",
    "images seen",
    "KID",
    "KID of new images",
    "KID of noise",
    "batch",
    "left of the noise's",
)


def main() -> None:
    """Print a table, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--out", type=Path, default=RECORDS / "forecast.json")
    options = parser.parse_args()
    rows = sorted((row_of(Path(run), options.samples) for run in options.runs), key=lambda row: list(row.values())[:4])
    write_file(options.out, (json.dumps({"processor": processor(), "rows": rows}, indent=1) + "\n").encode())
    sys.stdout.write(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}\n")
    for row in rows:
        sys.stdout.write(f"| {' | '.join(str(value) for value in row.values())} |\n")


def row_of(run: Path, samples: int) -> dict[str, Any]:
    """What a run's samples are worth.

    Args:
        samples: how many are drawn.
    """
    checkpoint = newest_checkpoint(run)
    splits = reopen(checkpoint.config.data, checkpoint.split_record)
    extractor = suitable_extractor(splits.train.images, splits.train.bins)
    noise = np.random.default_rng(0).integers(0, splits.train.bins, (samples, *splits.train.shape), dtype=np.uint8)
    own = mv.evaluate(mv.load(run), splits, samples, steps=20, extractor=extractor, progress=False)
    bad = mv.evaluate(noise, splits, extractor=extractor, progress=False)
    floor = own.kid_floor.value
    return {
        "images": Path(checkpoint.config.data.source).name,
        "kind": image_kind(splits.train.images, splits.train.bins),
        "size": splits.train.shape[1],
        "seen": checkpoint.step * checkpoint.config.train.batch,
        "kid": round(own.kid.value, 5),
        "floor": round(floor, 5),
        "noise": round(bad.kid.value, 5),
        "batch": checkpoint.config.train.batch,
        "left": round((own.kid.value - floor) / (bad.kid.value - floor), 4),
    }


if __name__ == "__main__":
    main()
