"""Everything a report says, worked out once: numbers for report.json, pictures beside them for report.html."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from markovae import __version__
from markovae.console import say
from markovae.data.inspect import channel_moments
from markovae.jsonlines import is_count, is_figure
from markovae.likelihood import Measurement, finite, measure
from markovae.quality.neighbours import Neighbours, nearest, pool_of
from markovae.report.chains import Column, encoder_strip, reverse_strip
from markovae.report.codecs import codec_table
from markovae.report.curves import heldout_curve, level_curve, training_curve
from markovae.report.extremes import extreme_facts, pictured
from markovae.report.pictures import Images
from markovae.report.progressive import Progress, progress
from markovae.report.prompts import PromptSheet, caption_facts, prompt_sheet
from markovae.report.subject import Subject, own_precision
from markovae.report.words import meanings
from markovae.sampling import DEFAULT_SAMPLER, sample
from markovae.schedule import first_level_warning

SCHEMA_VERSION = 1
LONGEST_VERSION = 200
STEPS = 20
GRIDS = (64, 36, 16)
SAMPLE_SECONDS, MEASURE_SECONDS = 25.0, 25.0  # what looking may take; the figures say how much was looked at
MOST_IMAGES, LEAST_IMAGES = 1000, 100
LEAST_DRAWS, MOST_DRAWS = 4, 16
CHAIN_IMAGES, REVERSE_IMAGES = 4, 2
SHOWN_NEIGHBOURS, YARDSTICK = 8, 200
MEASURE_BATCH = 64
CAPTION_SECONDS = 10.0
RATE_IMAGES, PROGRESS_IMAGES, EXTREMES = 100, 3, 9


@dataclass(frozen=True)
class Findings:
    """What was found out about a run.

    Args:
        record: the figures, JSON-able.   encoder, reverse: the chains.
        samples: digits, (n, C, H, W).   neighbours: of the first samples.   pool: where they were looked for.
        progress: rate against distortion.   extremes: the images that cost least and most, pictures by name.
        bins: digits of a pixel.   prompts: samples of captions, for a model of captions.
    """

    record: dict[str, Any]
    encoder: list[Column]
    reverse: list[Column]
    samples: Images
    neighbours: Neighbours
    pool: Images
    progress: Progress
    extremes: dict[str, Images]
    bins: int
    prompts: PromptSheet | None = None


def find(subject: Subject) -> Findings:
    """Measure, sample, compare: about a minute on two cores.

    The measurement is in float32; samples are drawn as `markovae sample` draws them.
    """
    say("writing the report: measuring")
    measured = measured_part(subject)
    extremes, weighed = extreme_facts(measured, EXTREMES), caption_facts(subject, CAPTION_SECONDS)
    some = subject.splits.test.images[:RATE_IMAGES]
    way = progress(subject.model, some, labels(subject, len(some)), PROGRESS_IMAGES)
    say("writing the report: sampling")
    subject.model.precision = own_precision(subject.checkpoint, subject.model.device)
    samples, columns = drawn(subject)
    sheet = prompt_sheet(subject, steps(subject), SAMPLE_SECONDS)
    encoder = encoder_strip(subject.model, subject.splits.test.images[:CHAIN_IMAGES])
    condition = subject.conditions(REVERSE_IMAGES)
    reverse = reverse_strip(subject.model, REVERSE_IMAGES, steps(subject), condition=condition)
    pool = pool_of(subject.splits.train.images)
    near = nearest(samples[:SHOWN_NEIGHBOURS], pool, subject.bins)
    real = nearest(subject.splits.test.images[:YARDSTICK], pool, subject.bins)
    record = {
        "schema_version": SCHEMA_VERSION,
        "markovae": __version__,
        "run": run_facts(subject),
        "rows": {"read": len(subject.metrics.rows), "left_out": subject.metrics.left_out},
        "data": data_facts(subject),
        "measurement": {**measured.to_dict(), "split": "test"},
        "codecs": codec_table(subject.splits.test.images[: len(measured.total)], subject.bins),
        "samples": sample_facts(subject, len(samples), columns),
        "captions": weighed,
        "prompts": None if sheet is None else sheet.facts(),
        "neighbours": neighbour_facts(near, real, len(pool)),
        "channels": channel_facts(subject, samples),
        "curves": {
            "training": training_curve(subject.metrics.rows),
            "heldout": heldout_curve(subject.metrics.rows),
            "levels": level_curve(measured),
            "rate": way.curve(),
        },
        "extremes": extremes,
        "meanings": meanings(subject.bins),
    }
    pictures = pictured(subject.splits.test.images, extremes, subject.bins)
    return Findings(record, encoder, reverse, samples, near, pool, way, pictures, subject.bins, sheet)


def steps(subject: Subject) -> int:
    """Network calls a sample."""
    return min(STEPS, subject.model.num_levels)


def measured_part(subject: Subject) -> Measurement:
    """The bound on as many test images as the time allows, then with as many draws.

    Raises:
        UserError: where it is no number.
    """
    test = subject.splits.test
    calls = MEASURE_SECONDS * subject.pace
    n = int(min(MOST_IMAGES, len(test), max(LEAST_IMAGES, calls / (LEAST_DRAWS + 1))))
    draws = int(min(MOST_DRAWS, max(LEAST_DRAWS, calls / n - 1)))
    return measure(
        subject.model, np.asarray(test.images[:n]), labels(subject, n), draws=draws, seed=0, batch=MEASURE_BATCH
    )


def labels(subject: Subject, n: int) -> Any:
    """Of the first n test images, where the network takes them."""
    found = subject.labels(subject.splits.test)
    return None if found is None else found[:n]


def drawn(subject: Subject) -> tuple[Images, int]:
    """About 64, 36 or 16 samples as the time allows, and the columns of their sheet.

    They are numbers 0, 1, … of seed 0, the classes in turn, whole rows.
    """
    fits = [n for n in GRIDS if n * steps(subject) <= SAMPLE_SECONDS * subject.pace]
    n = fits[0] if fits else GRIDS[-1]
    columns = sheet_columns(n, subject.num_classes)
    n -= n % columns
    return sample(subject.model, n, steps=steps(subject), seed=0, condition=subject.conditions(n)), columns


def sheet_columns(n: int, classes: int) -> int:
    """Columns of the sheet of n samples: nearly square, or such that every column holds one class."""
    side = math.isqrt(n)
    return classes * max(1, side // classes) if 1 < classes <= min(n, 2 * side) else side


def sample_facts(subject: Subject, n: int, columns: int) -> dict[str, Any]:
    """What was drawn; `column_classes` are the classes of the sheet's columns, or None."""
    aligned = subject.num_classes > 1 and columns % subject.num_classes == 0
    names = subject.checkpoint.class_names
    return {
        "n": n,
        "sampler": DEFAULT_SAMPLER,
        "network_calls_per_sample": steps(subject),
        "seed": 0,
        "columns": columns,
        "column_classes": [names[i % len(names)] for i in range(columns)] if aligned else None,
    }


def run_facts(subject: Subject) -> dict[str, Any]:
    """What was trained, for how long, on what."""
    state, network = subject.checkpoint.state, subject.model.network
    return {
        "name": subject.path.name,
        "step": subject.checkpoint.step,
        "images_seen": _images_seen(state),
        "seconds": _seconds(state),
        "images_per_second": _rate(state),
        "training_precision": state.get("precision"),
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "levels": subject.model.num_levels,
        "first_logsnr": float(subject.model.schedule.logsnr[1]),
        "last_logsnr": float(subject.model.schedule.logsnr[-1]),
        "target": subject.model.target.name,
        "warning": first_level_warning(subject.model.schedule, subject.model.pixels.half_width),
        "device": str(subject.model.device),
        "threads": torch.get_num_threads(),
        "sampling_precision": str(subject.model.precision).removeprefix("torch."),
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
    """The versions that the run was trained with, those that are words."""
    told = state.get("versions")
    if not isinstance(told, dict):
        return None
    words = {name: text for name, text in told.items() if isinstance(text, str) and (name + text).isprintable()}
    return {name: text for name, text in words.items() if len(name + text) <= LONGEST_VERSION}


def data_facts(subject: Subject) -> dict[str, Any]:
    """What it was trained on."""
    splits = subject.splits
    return {
        "source": subject.checkpoint.config.data.source,
        "shape": list(splits.train.shape),
        "bins": splits.train.bins,
        "classes": len(splits.train.class_names),
        "train": len(splits.train),
        "validation": len(splits.validation),
        "test": len(splits.test),
    }


def neighbour_facts(near: Neighbours, real: Neighbours, pool: int) -> dict[str, Any]:
    """Distances of samples, and of unseen real images, to the nearest training image."""
    return {
        "unit": "root mean square difference in grey levels of 0…255",
        "samples": [
            {"sample": i, "train_index": int(place), "distance": float(distance)}
            for i, (place, distance) in enumerate(zip(near.index, near.distance, strict=True))
        ],
        "samples_median": float(np.median(near.distance)),
        "real": {
            "n": len(real.distance),
            "median": float(np.median(real.distance)),
            "lowest_5_percent": float(np.quantile(real.distance, 0.05)),
        },
        "searched": pool,
    }


def channel_facts(subject: Subject, samples: Images) -> list[dict[str, Any]]:
    """Mean of each channel, 0…255: samples with their standard error, and the training images."""
    scale = 255 / (subject.bins - 1)
    means, _ = channel_moments(subject.splits.train)
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
