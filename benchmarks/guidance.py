"""Classifier-free guidance by its weight: do samples show their class, and how far are they from real images?

    python benchmarks/guidance.py RUN [--weights 1 1.5 2 3 4 6] [--n 1000] [--out docs/results/guidance_X.json]

RUN must have classes. Class accuracy is that of `benchmarks/classifier.py`, trained first where it is not in the cache
folder; KID as everywhere. With --interval LOW HIGH every weight is drawn again with guidance between these log-SNRs.
Cost, in calls of the network: about 2 × steps × n a weight. `python benchmarks/pages.py` shows the record.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch

from classifier import classifier_of
from markovae.checkpoints.reading import open_checkpoint
from markovae.data.cache import cache_folder
from markovae.data.loading import reopen
from markovae.diffusion.markovian_vae import evaluating
from markovae.errors import UserError
from markovae.log import log
from markovae.quality.distances import kid
from markovae.quality.evaluation import reference_for
from markovae.quality.extractors import open_extractor
from markovae.quality.features import cached_features, features
from markovae.sampling.guidance import Guidance, Interval
from markovae.sampling.plans import plan
from markovae.sampling.sampler_table import DEFAULT_SAMPLER, SAMPLERS
from markovae.system.files import make_folder, write_file
from samplers_cells import by_plan, cell, grid_key

EXTRACTOR = "small"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--weights", type=float, nargs="+", default=[1, 1.25, 1.5, 2, 3, 4, 6])
    parser.add_argument("--interval", type=float, nargs=2, metavar=("LOW", "HIGH"))
    parser.add_argument("--sampler", choices=SAMPLERS, default=DEFAULT_SAMPLER)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cells", type=Path, help="where images are kept (default: in the cache folder)")
    parser.add_argument("--out", type=Path, default=Path("guidance.json"))
    options = parser.parse_args()
    record = sweep(options)
    make_folder(options.out.parent)
    write_file(options.out, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())
    log(f"written: {options.out}; python benchmarks/pages.py puts it into docs/results.md")


def sweep(options: argparse.Namespace) -> dict[str, Any]:
    """Every weight, without and with the interval."""
    checkpoint = open_checkpoint(options.run)
    model, data = checkpoint.model(), reopen(checkpoint.config.data, checkpoint.state["data"])
    real = reference_for(model, data, options.n)
    if real.labels is None:
        raise UserError(f"{options.run} was trained without classes: there is nothing to be guided to")
    labels, chosen = torch.as_tensor(real.labels), plan(model, options.sampler, options.steps)
    judge, extractor = classifier_of(data), open_extractor(EXTRACTOR)
    reference = cached_features(extractor, real.reference, real.bins, "features of the reference")
    floor = kid(cached_features(extractor, real.floor_samples, real.bins, "features of training images"), reference)
    how = f"{checkpoint.digest}-{options.sampler}-{grid_key(chosen)}"
    folder = (options.cells or cache_folder() / "guidance") / how
    rows = []
    with evaluating(model):
        for interval in (None, *([Interval(*options.interval)] if options.interval else [])):
            for weight in options.weights:
                where = "" if interval is None else f"-{interval.low:g}-{interval.high:g}"
                draw = by_plan(model, chosen, options.seed, Guidance(weight, interval))
                found = cell(folder / f"{weight:g}{where}-seed{options.seed}", draw, options.n, options.batch, labels)
                images = found.digits(model).numpy().astype("uint8")
                right = (judge.classes(images) == labels).double()
                distance = kid(features(extractor, images, real.bins, f"weight {weight:g}"), reference)
                rows.append(
                    {
                        "weight": weight,
                        "interval": None if interval is None else [interval.low, interval.high],
                        "accuracy": {"mean": float(right.mean()), "stderr": float(right.std()) / math.sqrt(len(right))},
                        "kid": {"mean": distance.value, "stderr": distance.stderr},
                        "ms": 1000 * found.seconds,
                    }
                )
                log(f"weight {weight:g}{where}: accuracy {float(right.mean()):.3f}, KID {1000 * distance.value:.2f}e-3")
    floor_samples = (judge.classes(real.floor_samples) == labels).double()
    return {
        "run": str(options.run),
        "checkpoint": {"digest": checkpoint.digest, "step": checkpoint.step},
        "sampler": options.sampler,
        "steps": chosen.nfe,
        "n": options.n,
        "seed": options.seed,
        "extractor": {"name": extractor.name, "sha256": extractor.digest},
        "reference": {"n": len(real.reference), "sha256": real.digest},
        "floor": {"mean": floor.value, "stderr": floor.stderr},
        "classifier": {"test_accuracy": judge.accuracy, "training_images": float(floor_samples.mean())},
        "rows": rows,
    }


if __name__ == "__main__":
    main()
