"""What a report says, as data: report.json, and the pictures beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from markovae import __version__
from markovae.data.image_codecs import codec_table, coded_count
from markovae.data.inspecting import channel_moments
from markovae.data.pictures import Images
from markovae.diffusion.schedule import first_level_warning
from markovae.likelihood.measurement import Measurement
from markovae.likelihood.measuring import measure
from markovae.log import duration, log
from markovae.quality.memorization import NearestImages, nearest, pool_of, step_of
from markovae.report.column_sheet import ColumnSheet, column_facts, column_sheets
from markovae.report.curves import RateCurve, heldout_curve, level_curve, rate_curve, training_curve
from markovae.report.image_sheets import Snapshot, encoder_strip, extreme_facts, pictured, reverse_strip
from markovae.report.prompt_sheet import PromptSheet, caption_facts, prompt_sheet
from markovae.report.reported_run import ReportedRun
from markovae.report.words import meanings
from markovae.run.outlook import outlook
from markovae.sampling.generation import sample
from markovae.sampling.plans import default_steps
from markovae.sampling.sampler_table import DEFAULT_SAMPLER
from markovae.strict_json import finite
from markovae.system.jsonlines import is_count, is_figure

SCHEMA_VERSION = 1
LONGEST_VERSION = 200
GRIDS, LEAST_GRID = (64, 36, 16), 4
SAMPLE_SECONDS, MEASURE_SECONDS = 25.0, 25.0  # what looking may take; the figures say how much was looked at
MOST_IMAGES, LEAST_IMAGES, FEWEST_IMAGES = 1000, 100, 16
LEAST_DRAWS, MOST_DRAWS = 4, 16
CHAIN_IMAGES, REVERSE_IMAGES = 4, 2
SHOWN_NEIGHBOURS, YARDSTICK = 8, 200
MEASURE_BATCH = 64
CAPTION_SECONDS = 10.0
RATE_IMAGES, PROGRESS_IMAGES, EXTREMES = 100, 3, 9


@dataclass(frozen=True)
class ReportData:
    """What a report shows.

    Args:
        record: the figures, JSON-able.
        encoder, reverse: the chains.
        samples: pixel values, (n, C, H, W).
        neighbours: of the first samples.
        pool: where they were looked for.
        rate: against distortion.
        extremes: the images that cost least and most, pictures by name.
        bins: values of a pixel.
        prompts: samples of captions, for a model of captions.
        columns: samples over the values of each column, for a model of columns.
    """

    record: dict[str, Any]
    encoder: list[Snapshot]
    reverse: list[Snapshot]
    samples: Images
    neighbours: NearestImages
    pool: Images
    rate: RateCurve | None
    extremes: dict[str, Images]
    bins: int
    prompts: PromptSheet | None = None
    columns: list[ColumnSheet] = field(default_factory=list)


def collect_report_data(run: ReportedRun, minutes: float = 1.0) -> ReportData:
    """Measure, sample and compare.

    The measurement is in float32; samples are drawn as `markovae sample` draws them.

    Args:
        minutes: that it may take, about; on a slow machine less is looked at.
    """
    log(f"writing the report, about {duration(60 * minutes)}: measuring")
    measured = measure_test_images(run, minutes)
    extremes, captions = extreme_facts(measured, EXTREMES), caption_facts(run, CAPTION_SECONDS * minutes)
    weighed = column_facts(run, CAPTION_SECONDS * minutes)
    some = run.splits.test.images[: min(RATE_IMAGES, len(measured.total))]
    rate = rate_curve(run.model, some, labels(run, len(some)), PROGRESS_IMAGES)
    log("writing the report: sampling")
    run.model.precision = run.checkpoint.native_precision(run.model.device)
    samples, columns = draw_samples(run, minutes)
    sheet = prompt_sheet(run, steps(run), SAMPLE_SECONDS * minutes)
    columns_drawn = column_sheets(run, steps(run), SAMPLE_SECONDS * minutes)
    encoder = encoder_strip(run.model, run.splits.test.images[:CHAIN_IMAGES])
    condition = run.conditions(REVERSE_IMAGES)
    reverse = reverse_strip(run.model, REVERSE_IMAGES, steps(run), condition=condition)
    pool = pool_of(run.splits.train.images)
    near = nearest(samples[:SHOWN_NEIGHBOURS], pool, run.bins)
    real = nearest(run.splits.test.images[:YARDSTICK], pool, run.bins)
    coded = run.splits.test.images[: coded_count(len(measured.total), run.splits.test.shape)]
    ahead = outlook(run.metrics.rows)
    record = {
        "schema_version": SCHEMA_VERSION,
        "markovae": __version__,
        "run": run_facts(run),
        "rows": {"read": len(run.metrics.rows), "left_out": run.metrics.left_out},
        "data": data_facts(run),
        "measurement": {**measured.figures(), "split": "test"},
        "codecs": codec_table(coded, run.bins),
        "samples": sample_facts(run, len(samples), columns),
        "captions": captions,
        "prompts": None if sheet is None else sheet.facts(),
        **({"columns": [one.facts() for one in columns_drawn]} if columns_drawn else {}),
        **({"column_nats": weighed} if weighed else {}),
        "neighbours": nearest_facts(run, near, real, len(pool)),
        "channels": channel_facts(run, samples),
        "curves": {
            "training": training_curve(run.metrics.rows),
            "heldout": heldout_curve(run.metrics.rows),
            "levels": level_curve(measured),
            "rate": [] if rate is None else rate.to_dict(),
        },
        "outlook": None if ahead is None else ahead.to_dict(),
        "extremes": extremes,
        "meanings": meanings(run.bins),
    }
    pictures = pictured(run.splits.test.images, extremes, run.bins)
    return ReportData(record, encoder, reverse, samples, near, pool, rate, pictures, run.bins, sheet, columns_drawn)


def steps(run: ReportedRun) -> int:
    """NFE per sample."""
    return default_steps(run.model)


def measure_test_images(run: ReportedRun, minutes: float = 1.0) -> Measurement:
    """The bound on as many test images as the time allows, then with as many draws.

    A hundred images where they take up to twice that time, at least sixteen.

    Raises:
        UserError: where it is NaN or Inf.
    """
    test = run.splits.test
    calls = MEASURE_SECONDS * minutes * run.pace
    fits = calls / (LEAST_DRAWS + 1)
    n = int(min(MOST_IMAGES, len(test), max(fits, min(LEAST_IMAGES, 2 * fits), FEWEST_IMAGES)))
    draws = int(min(MOST_DRAWS, max(LEAST_DRAWS, calls / n - 1)))
    found = measure(run.model, np.asarray(test.images[:n]), labels(run, n), draws=draws, seed=0, batch=MEASURE_BATCH)
    return replace(found, files=test.files and test.files[:n])


def labels(run: ReportedRun, n: int) -> Any:
    """Of the first n test images, where the network takes them."""
    found = run.labels(run.splits.test)
    return None if found is None else found[:n]


def draw_samples(run: ReportedRun, minutes: float = 1.0) -> tuple[Images, int]:
    """About 64, 36, 16 or 4 samples as the time allows, and the columns of their sheet.

    They are numbers 0, 1, … of seed 0, the classes in turn, whole rows.
    """
    most = SAMPLE_SECONDS * minutes * run.pace / steps(run)
    n = next((n for n in GRIDS if n <= most), GRIDS[-1] if GRIDS[-1] <= 2 * most else LEAST_GRID)
    columns = sheet_columns(n, run.num_classes)
    n -= n % columns
    return sample(run.model, n, steps=steps(run), seed=0, condition=run.conditions(n)), columns


def sheet_columns(n: int, classes: int) -> int:
    """Columns of the sheet of n samples: nearly square, or such that every column holds one class."""
    side = math.isqrt(n)
    return classes * max(1, side // classes) if 1 < classes <= min(n, 2 * side) else side


def sample_facts(run: ReportedRun, n: int, columns: int) -> dict[str, Any]:
    """What was drawn; `column_classes` are the classes of the sheet's columns, or None."""
    aligned = run.num_classes > 1 and columns % run.num_classes == 0
    names = run.checkpoint.class_names
    return {
        "n": n,
        "sampler": DEFAULT_SAMPLER,
        "network_calls_per_sample": steps(run),
        "seed": 0,
        "columns": columns,
        "column_classes": [names[i % len(names)] for i in range(columns)] if aligned else None,
    }


def run_facts(run: ReportedRun) -> dict[str, Any]:
    """What was trained, for how long, on what."""
    state, network = run.checkpoint.state, run.model.network
    return {
        "name": run.path.name,
        "step": run.checkpoint.step,
        "images_seen": _images_seen(state),
        "seconds": _seconds(state),
        "images_per_second": _rate(state),
        "training_precision": state.get("precision"),
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "levels": run.model.num_levels,
        "first_logsnr": float(run.model.schedule.logsnr[1]),
        "last_logsnr": float(run.model.schedule.logsnr[-1]),
        "target": run.model.target.name,
        "warning": first_level_warning(run.model.schedule, run.model.pixels.half_width),
        "device": str(run.model.device),
        "threads": torch.get_num_threads(),
        "sampling_precision": str(run.model.precision).removeprefix("torch."),
        "versions": _versions(state),
    }


def _rate(state: dict[str, Any]) -> float | None:
    seconds = _seconds(state) or 0.0
    return finite(float(_images_seen(state) or 0) / seconds) if seconds > 0 else None


def _seconds(state: dict[str, Any]) -> float | None:
    seconds: Any = state.get("seconds")
    return seconds if is_figure(seconds) and seconds >= 0 else None


def _images_seen(state: dict[str, Any]) -> int | None:
    seen = state.get("images_seen")
    return seen if is_count(seen) else None


def _versions(state: dict[str, Any]) -> dict[str, str] | None:
    """The versions that the run was trained with, those that are text."""
    versions = state.get("versions")
    if not isinstance(versions, dict):
        return None
    words = {name: text for name, text in versions.items() if isinstance(text, str) and (name + text).isprintable()}
    return {name: text for name, text in words.items() if len(name + text) <= LONGEST_VERSION}


def data_facts(run: ReportedRun) -> dict[str, Any]:
    """What it was trained on."""
    splits = run.splits
    return {
        "source": run.checkpoint.config.data.source,
        "shape": list(splits.train.shape),
        "bins": splits.train.bins,
        "classes": len(splits.train.class_names),
        "train": len(splits.train),
        "validation": len(splits.validation),
        "test": len(splits.test),
    }


def nearest_facts(run: ReportedRun, near: NearestImages, real: NearestImages, pool: int) -> dict[str, Any]:
    """Distances of samples, and of unseen real images, to the nearest training image."""
    train = run.splits.train
    return {
        "unit": "root mean square difference in grey levels of 0…255",
        "samples": [
            {"sample": i, "train_index": int(row), "train_file": train.files and train.files[row], "distance": float(d)}
            for i, (row, d) in enumerate(zip(near.index * step_of(train.images), near.distance, strict=True))
        ],
        "samples_median": float(np.median(near.distance)),
        "real": {
            "n": len(real.distance),
            "median": float(np.median(real.distance)),
            "lowest_5_percent": float(np.quantile(real.distance, 0.05)),
        },
        "searched": pool,
    }


def channel_facts(run: ReportedRun, samples: Images) -> list[dict[str, Any]]:
    """Mean of each channel, 0…255: samples with their standard error, and the training images."""
    scale = 255 / (run.bins - 1)
    means, _ = channel_moments(run.splits.train)
    each = samples.astype(np.float64).mean((2, 3)) * scale
    names = ("grey",) if each.shape[1] == 1 else ("red", "green", "blue")
    return [
        {
            "channel": name,
            "samples": float(each[:, i].mean()),
            "stderr": finite(float(each[:, i].std(ddof=1)) / math.sqrt(len(each))),
            "data": means[i] * scale,
        }
        for i, name in enumerate(names)
    ]
