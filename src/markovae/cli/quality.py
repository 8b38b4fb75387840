"""`markovae quality`: how far a run's samples lie from real images, beside what real images themselves get."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markovae.cli.options import AS_TRAINED, add_json, add_machine, add_seed, add_trust, one_of, whole
from markovae.cli.output import show_record
from markovae.cli.running import Opened, open_run
from markovae.cli.sampling_options import HELP, add_sampler, chosen_sampler
from markovae.errors import UserError
from markovae.locations import without_secrets

if TYPE_CHECKING:
    from markovae.data.data_config import DataConfig
    from markovae.data.images import ImageData
    from markovae.data.split import Splits

SUMMARY = "measure how far samples lie from real images"
DESCRIPTION = """\
Draw samples and measure how far they lie from real images that the run was not trained on: kernel distance
(KID) with its standard error, Fréchet distance, precision and recall, and whether samples copy training images.
Beside each figure stands its floor: the same figure for equally many training images in place of the samples. SAMPLES
from elsewhere (a folder of images, an .npz or .npy file) are measured in the same way against DATA.
"""
EXAMPLES = """\
examples:
  markovae quality runs/faces
  markovae quality runs/faces --sampler ancestral --steps 1000 --json > slow.json
  markovae quality runs/faces --steps 10 --compare slow.json --varying steps,sampler,spacing
  markovae quality runs/photos --extractor lite0         # features of a network trained on photographs
  markovae quality runs/faces --against references.npz   # another reference than the held-out images
  markovae quality others/samples.npz photos/            # samples from elsewhere

"""
EXAMPLES += HELP
DEFAULT_BATCH = 64


def extractor(text: str) -> str:
    """--extractor: auto, or the name of one."""
    from markovae.quality.extractors import AUTO, EXTRACTORS

    return one_of(AUTO, *EXTRACTORS)(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `markovae quality`."""
    parser.add_argument("run_path", metavar="RUN|SAMPLES", help="a run's folder, one of its checkpoints, or samples")
    parser.add_argument(
        "data",
        metavar="DATA",
        nargs="?",
        help="images to compare with (default: the run's data); required with SAMPLES",
    )
    parser.add_argument(
        "--n",
        metavar="N",
        type=whole(1),
        help="samples to draw (default: 1000, or as many as there are training images)",
    )
    add_seed(parser, "seed of every random draw")
    add_sampler(parser)
    parser.set_defaults(label=None)
    group = parser.add_argument_group("features and reference")
    group.add_argument(
        "--extractor",
        metavar="NAME",
        type=extractor,
        default="auto",
        help="features: auto (the default: lite0 for photographs where it is installed, else small), small (built in, "
        "trained on drawn images), lite0 (needs the extra quality), inception (needs --weights)",
    )
    group.add_argument("--weights", metavar="FILE", help="weights of --extractor inception: a safetensors file")
    group.add_argument(
        "--against", metavar="IMAGES", help="a folder or array file as reference (default: test and validation part)"
    )
    group.add_argument(
        "--compare",
        metavar="FILE",
        help="give the difference from an earlier record (--json), refused where conditions differ",
    )
    group.add_argument(
        "--varying", metavar="NAMES", default="", help="conditions that --compare lets differ, such as steps,sampler"
    )
    add_json(parser)
    add_trust(parser)
    add_machine(parser, batch="images drawn at a time (default: 64)", precision=AS_TRAINED)


def run(options: argparse.Namespace) -> int:
    """Draw, measure and tell; exit code 0.

    Raises:
        UserError: for data that do not fit the model, or a record that cannot be compared; both before drawing.
    """
    from markovae.cli.quality_words import describe, difference
    from markovae.data.data_config import DataConfig
    from markovae.data.loading import load_data
    from markovae.data.source import log_left_out
    from markovae.quality.evaluation import evaluate, given_samples
    from markovae.quality.extractors import open_extractor

    earlier, varying = _earlier(options), [name for name in options.varying.split(",") if name]
    began = time.monotonic()
    how: dict[str, Any] = {"n": options.n, "extractor": options.extractor}
    if options.extractor != "auto" or options.weights is not None:
        name = "inception" if options.extractor == "auto" else options.extractor
        how["extractor"] = open_extractor(name, options.weights)
    how |= {"comparable_to": earlier, "varying": varying}
    checkpoint = None
    if _are_samples(options):
        samples, source, matches = given_samples(options.run_path), without_secrets(options.data), None
        config = DataConfig().for_images_like(samples.shape, options.data)
        splits = load_data(config)
        log_left_out(options.data, splits.unreadable, splits.notes)
        found = evaluate(samples, splits, against=_reference(config, options.against, splits.train), **how)
    else:
        opened = open_run(options, trained_in=True)
        made, guidance, facts = chosen_sampler(opened, options)
        source, splits, matches = own_data(opened, options.data)
        how |= {"sampler": made, "guidance": guidance, "drawn_by": facts}
        how |= {"seed": options.seed, "batch": options.batch or DEFAULT_BATCH}
        drawn_from = opened.checkpoint
        against = _reference(drawn_from.config.data, options.against, splits.train)
        found = evaluate(opened.model, splits, against=against, **how)
        checkpoint = drawn_from.facts()
    record = {
        **found.to_dict(),
        "data": {"source": source, "matches_run": matches},
        "against": options.against and without_secrets(options.against),
        "checkpoint": checkpoint,
        "seconds": time.monotonic() - began,
    }
    if earlier is not None:
        record["compared"] = {"file": options.compare, "varying": varying, **difference(found, earlier, varying)}
    return show_record(record, describe, options.json)


def _are_samples(options: argparse.Namespace) -> bool:
    """Whether the first word names samples rather than a run or a checkpoint.

    Raises:
        UserError: for samples without data, or with options that draw some.
    """
    path = Path(options.run_path)
    if not path.exists() or any((path / name).exists() for name in ("config.toml", "checkpoints", "manifest.json")):
        return False
    if options.data is None:
        raise UserError(f"{path} is not a run: to measure samples, name the images that they imitate after it")
    named = ("steps", "spacing", "threshold", "guidance", "guidance_interval", "autoguide", "batch", "precision")
    given = [name for name in named if getattr(options, name) is not None]
    if given:
        raise UserError(
            f"--{given[0].replace('_', '-')} is for samples that are drawn, and {path} holds some: leave it out"
        )
    return True


def own_data(opened: Opened, source: str | None) -> tuple[str, Splits, bool | None]:
    """The data's name, its parts, and whether they are what the run stored (None for other data).

    Raises:
        UserError: for data that are missing, or that have other classes than the run.
    """
    from markovae.data.loading import load_data, read_source, require_readable, splits_of
    from markovae.data.source import log_left_out
    from markovae.likelihood.evaluation_data import labels_for, like, trained_on
    from markovae.log import log

    config = opened.checkpoint.config.data
    if source is not None:
        other = like(config, source, opened)
        reading = read_source(other)
        require_readable(reading, other)
        splits = splits_of(reading)
        log_left_out(source, splits.unreadable, splits.notes)
        if opened.num_classes and splits.train.labels is not None:
            labels = labels_for(opened, splits.train)
            names = () if labels is None else opened.checkpoint.class_names
            splits = replace(splits, train=replace(splits.train, labels=labels, class_names=names))
        return without_secrets(source), splits, None
    opened.checkpoint.split_record  # noqa: B018 - a model without images of its own is told here
    splits = load_data(config)
    matches = trained_on(splits, opened)
    if not matches:
        log("measuring nevertheless: the reference may hold images that were trained on")
    return config.source, splits, matches


def _reference(config: DataConfig, against: str | None, training: ImageData) -> ImageData | None:
    """Another reference, where one is asked for; told where it holds training images, whose copies it would reward."""
    if against is None:
        return None
    from markovae.data.loading import read_source, require_readable
    from markovae.data.source import log_left_out
    from markovae.log import log

    config = config.for_images_like(training.shape, against)
    reading = read_source(config)
    require_readable(reading, config)
    log_left_out(against, reading.summary.unreadable, reading.summary.notes)
    shared = len(set(reading.data.content_hashes()) & set(training.content_hashes()))
    if shared:
        log(f"warning: {shared:,} images of {against} are training images here: copies of them count as good")
    return reading.data


def _earlier(options: argparse.Namespace) -> Mapping[str, Any] | None:
    if options.compare is None:
        if options.varying:
            raise UserError("--varying goes with --compare: name the earlier record too")
        return None
    import json

    from markovae.quality.quality_record import as_record

    try:
        stored = json.loads(Path(options.compare).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--compare {options.compare} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise UserError(f"--compare {options.compare} is not JSON: give what quality --json printed") from None
    return as_record(stored)
