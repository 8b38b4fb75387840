"""How good samples are after so many images seen: what the forecast before a training is made of.

    python benchmarks/forecast.py RUN [RUN ...] [--samples 256]

Every RUN is one that `markovae train` or benchmarks/record.py ended, all of images of one shape: for each kind of
images some short, some long. KID of a run's samples stands beside that of new images of the same data and of uniform
noise. What samples show is for the eye: docs/images/forecast.png has a line for each run, in the order of the table.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import markovae as mv
from machine import RECORDS, ROOT, processor
from markovae.checkpoints.reading import newest_checkpoint
from markovae.data.loading import reopen
from markovae.data.pictures import enlarged, png, tile, titled, viewable
from markovae.quality.extractor_domain import image_kind, suitable_extractor
from markovae.system.files import write_file

PICTURE = ROOT / "docs" / "images" / "forecast.png"
SHOWN, STEPS = 8, 20


def main() -> None:
    """Print a table, and write the record and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--samples", type=int, default=256)
    options = parser.parse_args()
    found = sorted((row_of(Path(run), options.samples) for run in options.runs), key=lambda row: row["seen"])
    found.sort(key=lambda row: row["kind"])
    samples = np.concatenate([row.pop("samples") for row in found])
    sheet = enlarged(tile(viewable(samples, 256), columns=SHOWN), 64 * len(found))
    write_file(PICTURE, png(titled(sheet, [f"{row['images']}, {row['seen']:,} seen" for row in found])))
    record = {"processor": processor(), "samples": options.samples, "steps": STEPS, "rows": found}
    write_file(RECORDS / "forecast.json", (json.dumps(record, indent=1) + "\n").encode())
    sys.stdout.write(f"| {' | '.join(found[0])} |\n|{' --- |' * len(found[0])}\n")
    for row in found:
        sys.stdout.write(f"| {' | '.join(str(value) for value in row.values())} |\n")


def row_of(run: Path, samples: int) -> dict[str, Any]:
    """What a run's samples are worth, and the first of them.

    Args:
        samples: how many are drawn for KID.
    """
    checkpoint = newest_checkpoint(run)
    splits, model = reopen(checkpoint.config.data, checkpoint.split_record), mv.load(run)
    extractor = suitable_extractor(splits.train.images, splits.train.bins)
    noise = np.random.default_rng(0).integers(0, splits.train.bins, (samples, *splits.train.shape), dtype=np.uint8)
    own = mv.evaluate(model, splits, samples, steps=STEPS, extractor=extractor, progress=False)
    bad = mv.evaluate(noise, splits, extractor=extractor, progress=False)
    return {
        "images": Path(checkpoint.config.data.source).name,
        "kind": image_kind(splits.train.images, splits.train.bins),
        "side": splits.train.shape[1],
        "seen": checkpoint.step * checkpoint.config.train.batch,
        "kid": round(own.kid.value, 4),
        "kid of new images": round(own.kid_floor.value, 4),
        "kid of noise": round(bad.kid.value, 4),
        "extractor": extractor,
        "samples": np.asarray(mv.sample(model, SHOWN, steps=STEPS, progress=False)),
    }


if __name__ == "__main__":
    main()
