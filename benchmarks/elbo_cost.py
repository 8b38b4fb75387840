"""What a trustworthy bound costs: standard error against network calls, coverage of intervals, few levels against all.

    python benchmarks/elbo_cost.py RUN [--images 500] [--fit 250] [--out docs/results/elbo_cost_faces.json]

RUN is a run, or a checkpoint such as tests/fixtures/reference. Levels, variances and grids are fitted on validation and
training images; the figures are of test images. The draws are kept in the cache folder by content: a second run takes
seconds, and more images cost only what they add. Cost: L calls a test image, --depth draws of --depth-levels levels of
--depth-images images, and 16 calls a fitted image.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from elbo_levels import grid_table, levels_in_all, squared_errors
from markovae.checkpoints.reading import Checkpoint, open_checkpoint
from markovae.data.cache import cache_folder
from markovae.data.loading import reopen
from markovae.diffusion.bound import estimate_mean
from markovae.diffusion.model import Diffusion
from markovae.diffusion.reverse import PosteriorVariance
from markovae.likelihood.estimators import LevelDistribution
from markovae.likelihood.statistics import LevelStatistics
from markovae.log import log
from markovae.system.files import make_folder, write_file
from nats_table import NatsTable, Table, cost_curve, noise_coverage, population_coverage, survey_of, table_of

DRAWS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 24, 32, 64)
COUNTS = (4, 8, 16, 25, 32, 50, 64, 100, 128, 256, 512, 1000)
TEN_CALLS = 9  # draws: the tenth call is the reconstruction
REPEATS = 2000
SAMPLE = 100  # images of each repeat of the population's coverage


@dataclass(frozen=True)
class Study:
    """A model with the images that are fitted on and those that are measured.

    Args:
        model: float32 weights, run in the precision asked for.   digest: of its checkpoint.
        fit, fit_labels: other images.   images, labels: test images.   options: of the command line.
    """

    model: Diffusion
    digest: str
    fit: Any
    fit_labels: Any
    images: Any
    labels: Any
    options: argparse.Namespace

    def level_statistics(self, model: Diffusion, knots: int) -> LevelStatistics:
        """One pass over the other images."""
        cache, batch = self.options.cache, self.options.batch
        return survey_of(model, self.digest, self.fit, cache, labels=self.fit_labels, knots=knots, batch=batch)

    def table(self, model: Diffusion, count: int, depth: int = 1) -> Table:
        """Every level of the first test images."""
        labels = None if self.labels is None else self.labels[:count]
        cache, batch = self.options.cache, self.options.batch
        return table_of(model, self.digest, self.images[:count], cache, labels=labels, depth=depth, batch=batch)


def main(arguments: list[str] | None = None) -> None:
    options = parsed(arguments)
    began = time.monotonic()
    checkpoint = open_checkpoint(options.run)
    study = opened(checkpoint, options)
    model = study.model
    found = study.level_statistics(model, 129)
    log(f"surveyed {len(study.fit)} other images")
    table = study.table(model, options.images)
    first = table.draw()
    record = {
        "checkpoint": {"digest": checkpoint.digest, "step": checkpoint.step},
        "data": {"source": Path(checkpoint.config.data.source).name, "split": "test"},
        "shape": list(model.shape),
        "levels": model.num_levels,
        "logsnr": [float(model.schedule.logsnr[1]), float(model.schedule.logsnr[-1])],
        "images": len(table.prior),
        "fitted_on": len(study.fit),
        "precision": options.precision,
        "bits_per_dim": bits(first, model),
        "cost": cost(first, found, model),
        "coverage": {"population": population(first, found), "noise": noise(study)},
        "few_levels": few_levels(study, found, table),
        "torch": torch.__version__,
        "seconds": time.monotonic() - began,
    }
    make_folder(options.out.parent)
    write_file(options.out, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())
    log(f"written: {options.out}; python benchmarks/pages.py puts it into docs/results.md")


def opened(checkpoint: Checkpoint, options: argparse.Namespace) -> Study:
    """The run's model, its validation and training images to fit on, its test images to measure."""
    model, splits = checkpoint.model().eval(), reopen(checkpoint.config.data, checkpoint.state["data"])
    model.precision = getattr(torch, options.precision)
    others = (splits.validation, splits.train)
    fit = np.concatenate([np.asarray(part.images[: options.fit]) for part in others])[: options.fit]
    images = np.asarray(splits.test.images[: options.images])
    if not getattr(model.network, "num_classes", 0):
        return Study(model, checkpoint.digest, fit, None, images, None, options)
    fit_labels = np.concatenate([part.labels[: options.fit] for part in others])[: options.fit]
    labels = splits.test.labels[: options.images]
    return Study(model, checkpoint.digest, fit, fit_labels, images, labels, options)


def bits(table: NatsTable, model: Diffusion) -> dict[str, Any]:
    """The full sum."""
    found = estimate_mean(table.full()).scaled(1 / (model.dims * math.log(2)))
    return {"mean": found.value, "stderr": found.stderr, "ci95": list(found.ci95)}


def distributions(found: LevelStatistics) -> dict[str, LevelDistribution]:
    """The estimators by name: how likely each draws a level."""
    return {"stratified": LevelDistribution.uniform(len(found.logsnr) - 1), "importance": found.distribution()}


def cost(table: NatsTable, found: LevelStatistics, model: Diffusion) -> dict[str, Any]:
    """Standard error against calls."""
    draws = [count for count in DRAWS if count < model.num_levels]
    curves = {
        name: [asdict(row) for row in cost_curve(table, distribution, draws)]
        for name, distribution in distributions(found).items()
    }
    return {"curves": curves, "full_sum_calls": model.num_levels}


def population(table: NatsTable, found: LevelStatistics) -> dict[str, Any]:
    """Coverage over images drawn afresh."""
    shares = {
        name: population_coverage(table, distribution, TEN_CALLS, SAMPLE, REPEATS)
        for name, distribution in distributions(found).items()
    }
    return {"draws": TEN_CALLS, "images": SAMPLE, "pool": len(table.rest), "repeats": REPEATS, "share": shares}


def noise(study: Study) -> dict[str, Any]:
    """Coverage over the draws alone, of fixed images, on an even sub-grid: many draws of each level are cheap there."""
    options, model = study.options, study.model
    if options.depth_levels < model.num_levels:
        model = model.on_grid(model.schedule.subgrid(options.depth_levels))
    found = study.level_statistics(model, model.num_levels)
    table = study.table(model, options.depth_images, options.depth)
    draws = [table.draw(number) for number in range(options.depth)]
    shares = {
        name: noise_coverage(draws, distribution, TEN_CALLS, 2, REPEATS)
        for name, distribution in distributions(found).items()
    }
    facts = {"draws": TEN_CALLS, "replicates": 2, "images": options.depth_images, "repeats": REPEATS}
    return facts | {"levels": model.num_levels, "draws_a_level": options.depth, "share": shares}


def few_levels(study: Study, found: LevelStatistics, table: Table) -> dict[str, Any]:
    """K levels against all."""
    model = study.model
    if not isinstance(model.reverse, PosteriorVariance):
        model = model.with_reverse(PosteriorVariance())
        table = study.table(model, study.options.images)
    squared = squared_errors(table.nats[0], model.schedule.logsnr.detach())
    counts = [count for count in COUNTS if count <= model.num_levels]
    rest = estimate_mean(table.prior + table.first[0]).scaled(1 / (model.dims * math.log(2)))
    return {
        "rows": grid_table(model, found, squared, counts),
        "all_levels_bits_per_dim": levels_in_all(model, found, squared),
        "prior_and_reconstruction_bits_per_dim": {"mean": rest.value, "stderr": rest.stderr},
    }


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--fit", type=int, default=250)
    parser.add_argument("--depth-images", type=int, default=40)
    parser.add_argument("--depth-levels", type=int, default=65)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--cache", type=Path, default=cache_folder() / "nats")
    parser.add_argument("--out", type=Path, default=Path("elbo_cost.json"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
