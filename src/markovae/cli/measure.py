"""`markovae measure`: the bound of a run on images, in bits per dimension, with its error."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from markovae.cli.options import add_json, add_machine, one_of, whole
from markovae.cli.output import print_json, table
from markovae.cli.running import Opened, open_run
from markovae.errors import UserError

if TYPE_CHECKING:
    from markovae.data import DataConfig
    from markovae.data.images import ImageData
    from markovae.data.split import Splits
    from markovae.likelihood import Measurement

SUMMARY = "measure what images cost under a run, in bits/dim"
DESCRIPTION = """\
Measure the bound on -ln P of images under a run's averaged weights, in float32 unless told otherwise. Every image
counts once; nothing is augmented, clamped or dropped. The figure is an upper bound on the code length.
"""
EXAMPLES = """\
examples:
  markovae measure runs/faces                       the test part of the run's own data, 16 draws an image
  markovae measure runs/faces --draws all --limit 50   every level of 50 images: slow, no noise from the levels
  markovae measure runs/faces photos/ --split all   other images, all of them
"""
SPLITS = ("test", "validation", "train", "all")
DEFAULT_DRAWS, DEFAULT_BATCH = 16, 64


@dataclass(frozen=True)
class Chosen:
    """What is measured.

    Args:
        data: the images, with labels where the model takes them.   source, split: where they are from.
        matches: whether they are what the run stored; None for other data than the run's own.
    """

    data: ImageData
    source: str
    split: str
    matches: bool | None


def draws(text: str) -> int | str:
    """--draws: a whole number, or `all`."""
    return text if text == "all" else whole(1)(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `markovae measure`."""
    parser.add_argument("run_path", metavar="RUN", help="a run's folder, or one of its checkpoints")
    parser.add_argument("data", metavar="DATA", nargs="?", help="other images than the run's own")
    parser.add_argument(
        "--split", metavar="PART", type=one_of(*SPLITS), default="test", help="test (default), validation, train or all"
    )
    parser.add_argument(
        "--levels", metavar="K", type=whole(1), help="measure on K of the levels (default: all the model has)"
    )
    parser.add_argument(
        "--draws",
        metavar="M",
        type=draws,
        default=DEFAULT_DRAWS,
        help="levels drawn an image (default: 16), or all: the whole sum, one network call a level",
    )
    parser.add_argument("--limit", metavar="N", type=whole(1), help="the first N images only")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of every draw (default: 0)")
    add_json(parser)
    add_machine(
        parser,
        batch="draws a network call (default: 64); no figure depends on it beyond rounding",
        precision="auto (float32, the default), float32, bfloat16 or float64",
    )


def run(options: argparse.Namespace) -> int:
    """Measure and tell; exit code 0.

    Raises:
        UserError: for data that do not fit the model.
    """
    opened = open_run(options, trained_in=False)
    chosen = choose(opened, options.data, options.split)
    began = time.monotonic()
    measured = measure_images(opened, chosen.data, options)
    seconds = time.monotonic() - began
    if options.json:
        print_json({**measured.to_dict(), **_context(opened, chosen, seconds)})
    else:
        print(describe(measured, chosen, opened.model.pixels.bins))
        print(
            f"{options.draws} levels drawn an image, {measured.network_calls_per_example} network calls each, "
            f"seed {measured.seed}, {seconds:.0f} s"
        )
    return 0


def choose(opened: Opened, source: str | None, split: str) -> Chosen:
    """The images to measure: a part of the run's own data, checked against what the run stored, or of other data.

    Raises:
        UserError: for data that are missing, or classes that are not the model's.
    """
    from markovae.console import say
    from markovae.data import load_data

    config = opened.checkpoint.config.data
    if source is not None:
        config = _like(config, source, opened)
    splits = load_data(config)
    matches = None
    if source is None:
        matches = _verified(splits, opened)
        if not matches:
            say("measuring nevertheless: images of this part may have been trained on")
    data = _part(splits, split)
    bins = opened.model.pixels.bins
    if data.bins != bins:
        raise UserError(
            f"{config.source} has {data.bins} grey values a pixel and the model {bins}: bring data of its kind"
        )
    if not opened.num_classes or data.labels is None:
        data = replace(data, labels=None, class_names=())
    elif data.class_names != opened.checkpoint.class_names:
        raise UserError(f"{config.source} has other classes than {opened.path}: rename its folders, or leave them out")
    return Chosen(data, config.source, split, matches)


def _like(config: DataConfig, source: str, opened: Opened) -> DataConfig:
    """Other data, brought to the model's shape as the run's own were."""
    channels, height, width = opened.model.shape
    if source in ("faces", "digits"):
        return replace(config, source=source, size=height)
    grey_or_rgb = "grey" if channels == 1 else "rgb"
    return replace(config, source=source, size=height, width=0 if width == height else width, channels=grey_or_rgb)


def _verified(splits: Splits, opened: Opened) -> bool:
    from markovae.console import say

    try:
        splits.verify(opened.checkpoint.state.get("data") or {})
    except UserError as error:
        say(f"warning: {error}")
        return False
    return True


def _part(splits: Splits, split: str) -> ImageData:
    if split != "all":
        part: ImageData = getattr(splits, split)
        return part
    import numpy as np

    parts = (splits.train, splits.validation, splits.test)
    labels = None if splits.train.labels is None else np.concatenate([part.labels for part in parts])
    images = np.concatenate([part.images for part in parts])
    return replace(splits.test, images=images, labels=labels, captions=None)


def measure_images(opened: Opened, data: ImageData, options: argparse.Namespace) -> Measurement:
    """The measurement of the options, with progress on stderr."""
    import numpy as np

    from markovae.console import track
    from markovae.likelihood import Estimator, finish, measuring

    estimator = Estimator(None if options.draws == "all" else options.draws)
    images = np.asarray(data.images[: options.limit])
    batch = options.batch or DEFAULT_BATCH
    work = measuring(
        opened.model,
        images,
        data.labels,
        estimator.draws,
        options.levels,
        options.limit,
        options.seed,
        batch,
        estimator,
    )
    levels = options.levels or opened.model.num_levels
    calls = len(images) * min(levels, (estimator.draws or levels) + 1)
    drawn = list(track(work, "measuring", -(-calls // batch)))
    return finish(opened.model, drawn, options.seed, options.levels, estimator)


def describe(measured: Measurement, chosen: Chosen, bins: int) -> str:
    """The figures, each with what it means."""
    from markovae.report.words import TERMS, bound_in_words

    record = measured.to_dict()
    bits, terms = record["bits_per_dim"], record["terms_bits_per_dim"]
    part = f"{chosen.split} part" if chosen.split != "all" else "all"
    count = f"{record['n']:,} {'image' if record['n'] == 1 else 'images'} ({part} of {chosen.source})"
    rows = [(name, f"{terms[name]:.4f}", meaning) for name, meaning in TERMS.items()]
    return f"{headline(bits)}, {count}\n  {bound_in_words(bins)}\n{table(rows)}"


def headline(bits: dict[str, Any]) -> str:
    """mean ± stderr with its interval; a single image has neither."""
    if bits["stderr"] is None:
        return f"{bits['mean']:.3f} bits/dim"
    low, high = bits["ci95"]
    return f"{bits['mean']:.3f} ± {bits['stderr']:.3f} bits/dim (95 % interval {low:.3f} to {high:.3f})"


def _context(opened: Opened, chosen: Chosen, seconds: float) -> dict[str, Any]:
    return {
        "data": {"source": chosen.source, "split": chosen.split, "matches_run": chosen.matches},
        "checkpoint": {
            "path": str(opened.checkpoint.path),
            "step": opened.checkpoint.step,
            "digest": opened.checkpoint.digest,
        },
        "precision": opened.precision,
        "device": str(opened.model.device),
        "seconds": seconds,
    }
