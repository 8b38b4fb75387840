"""What a report says, as data: report.json, samples, neighbors, and the bits of lossless codecs."""

from __future__ import annotations

import io
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from markovae import __version__
from markovae.data.inspecting import channel_moments
from markovae.data.pictures import Images
from markovae.data.workers import worker_count
from markovae.diffusion.schedule import first_level_warning
from markovae.likelihood.measurement import Measurement, finite
from markovae.likelihood.measuring import measure
from markovae.log import log
from markovae.quality.memorization import Neighbours, nearest, pool_of
from markovae.report.curves import Progress, heldout_curve, level_curve, progress, training_curve
from markovae.report.image_sheets import Column, encoder_strip, extreme_facts, pictured, reverse_strip
from markovae.report.prompt_sheet import PromptSheet, caption_facts, prompt_sheet
from markovae.report.subject import Subject
from markovae.report.words import meanings
from markovae.sampling.generation import sample
from markovae.sampling.sampler_table import DEFAULT_SAMPLER
from markovae.system.jsonlines import is_count, is_figure

LARGEST_SIDE = 16_383  # of a WebP
SETTINGS: dict[str, dict[str, Any]] = {
    "PNG": {"optimize": True},
    "WebP": {"lossless": True, "quality": 100, "method": 6, "exact": True},
}


def codec_table(images: Images, bins: int) -> list[dict[str, Any]]:
    """bits/dim of PNG and lossless WebP at their smallest settings, one file an image and all tiled into one file.

    The files' headers count; the digits are stored as they are, unscaled. Images of more than 256 bins are left
    out (None): these writers hold 8 bits a channel. `tiled_images` is how many of them fill a rectangle.

    Args:
        images: digits, (n, C, H, W).
    """
    rows = []
    for name, settings in SETTINGS.items():
        single, tiled, count = None, None, 0
        if bins <= 256:
            pictures = np.asarray(images, np.uint8).transpose(0, 2, 3, 1)
            sheet = _sheet(pictures)
            # The encoders leave Python's lock while they work; the sheet takes longest, so it goes first.
            with ThreadPoolExecutor(worker_count()) as pool:
                whole, *each = pool.map(partial(_size, name=name, settings=settings), [sheet, *pictures])
            single, tiled = sum(each) * 8 / pictures.size, whole * 8 / sheet.size
            count = sheet.size // pictures[0].size
        rows.append(
            {"name": name, "per_image_bits_per_dim": single, "tiled_bits_per_dim": tiled, "tiled_images": count}
        )
    return rows


def _size(picture: Images, name: str, settings: dict[str, Any]) -> int:
    from PIL import Image

    stream = io.BytesIO()
    flat = picture[..., 0] if picture.shape[2] == 1 else picture
    Image.fromarray(np.ascontiguousarray(flat)).save(stream, name, **settings)
    return stream.tell()


def _sheet(pictures: Images) -> Images:
    """A full rectangle of tiles without gaps: as many images as fit, then as square as can be."""
    n, height, width, channels = pictures.shape
    square = max(1, min(round(math.sqrt(n * height / width)), n, LARGEST_SIDE // width))

    def rows_of(columns: int) -> int:
        return max(1, min(n // columns, LARGEST_SIDE // height))

    # Beyond twice as wide as high, and the reverse, nothing is gained.
    some = range(max(1, square * 2 // 3), min(square * 3 // 2, n, max(1, LARGEST_SIDE // width)) + 1)
    columns = max(some, key=lambda c: (c * rows_of(c), -abs(c - square)))
    rows = rows_of(columns)
    tiles = pictures[: rows * columns].reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return tiles.reshape(rows * height, columns * width, channels)


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
    log("writing the report: measuring")
    measured = measured_part(subject)
    extremes, weighed = extreme_facts(measured, EXTREMES), caption_facts(subject, CAPTION_SECONDS)
    some = subject.splits.test.images[:RATE_IMAGES]
    way = progress(subject.model, some, labels(subject, len(some)), PROGRESS_IMAGES)
    log("writing the report: sampling")
    subject.model.precision = subject.checkpoint.native_precision(subject.model.device)
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
        "measurement": {**measured.figures(), "split": "test"},
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
        UserError: where it is NaN or Inf.
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
