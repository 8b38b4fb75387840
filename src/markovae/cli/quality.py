"""`markovae quality`: how far a run's samples lie from real images, beside what real images themselves get."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from markovae.cli.options import add_json, add_machine, one_of, whole
from markovae.cli.output import tell_left_out
from markovae.cli.running import Opened, open_run
from markovae.cli.sampler import HELP, add_sampler, chosen_sampler
from markovae.errors import UserError
from markovae.locations import without_secrets
from markovae.log import show, show_json

if TYPE_CHECKING:
    from markovae.data.images import ImageData
    from markovae.data.split import Splits
    from markovae.quality.evaluation import SampleSettings
    from markovae.quality.quality_record import Conditions

SUMMARY = "measure how far samples lie from real images"
DESCRIPTION = """\
Draw samples and measure how far they lie from real images that the run was not trained on: kernel distance (KID) with
its standard error, Fréchet distance, precision and recall, and whether samples copy training images. Beside each the
floor: what as many real training images get in the samples' place.
"""
EXAMPLES = """\
examples:
  markovae quality runs/faces
  markovae quality runs/faces --sampler ancestral --steps 1000 --json > slow.json
  markovae quality runs/faces --steps 10 --compare slow.json --varying steps,sampler,spacing
  markovae quality runs/faces --extractor lite0          features of a network trained on photographs
  markovae quality runs/faces --against references.npz   another reference than the held-out images

"""
EXAMPLES += HELP
EXTRACTORS = ("small", "lite0", "inception")
DEFAULT_BATCH = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `markovae quality`."""
    parser.add_argument("run_path", metavar="RUN", help="a run's folder, or one of its checkpoints")
    parser.add_argument("data", metavar="DATA", nargs="?", help="other images than the run's own")
    parser.add_argument(
        "--n", metavar="N", type=whole(1), help="samples (default: 1000, or as many as there are training images)"
    )
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of every draw (default: 0)")
    add_sampler(parser)
    parser.set_defaults(label=None)
    group = parser.add_argument_group("measure")
    group.add_argument(
        "--extractor",
        metavar="NAME",
        type=one_of(*EXTRACTORS),
        default="small",
        help="features: small (built in, the default), lite0 (needs the extra quality), inception (needs --weights)",
    )
    group.add_argument("--weights", metavar="FILE", help="of --extractor inception: a safetensors file of them")
    group.add_argument(
        "--against", metavar="IMAGES", help="a folder or array file as reference (default: test and validation part)"
    )
    group.add_argument(
        "--compare", metavar="FILE", help="an earlier record (--json): the difference, refused where conditions differ"
    )
    group.add_argument(
        "--varying", metavar="NAMES", default="", help="conditions that --compare lets differ, such as steps,sampler"
    )
    add_json(parser)
    add_machine(
        parser,
        batch="images drawn at a time (default: 64)",
        precision="auto (as trained where the device has it, the default), float32, bfloat16 or float64",
    )


def run(options: argparse.Namespace) -> int:
    """Draw, measure and tell; exit code 0.

    Raises:
        UserError: for data that do not fit the model, or a record that cannot be compared; both before drawing.
    """
    from markovae.cli.quality_words import describe, difference
    from markovae.quality.evaluation import compute_metrics, conditions_of, draw_samples, reference_for
    from markovae.quality.extractors import open_extractor

    earlier, varying = _earlier(options), [name for name in options.varying.split(",") if name]
    began = time.monotonic()
    opened = open_run(options, trained_in=True)
    extractor = open_extractor(options.extractor, options.weights)
    draw = chosen_draw(opened, options)
    source, splits, matches = own_data(opened, options.data)
    real = reference_for(opened.model, splits, options.n, _reference(opened, options.against, splits.train))
    conditions = conditions_of(real, extractor, draw, opened.model)
    if earlier is not None:
        _require_comparable(conditions, earlier, varying)
    found = compute_metrics(draw_samples(opened.model, real, draw), real, extractor, conditions)
    record = {
        **found.to_dict(),
        "data": {"source": source, "matches_run": matches},
        "against": options.against and without_secrets(options.against),
        "checkpoint": {
            "path": str(opened.checkpoint.path),
            "step": opened.checkpoint.step,
            "digest": opened.checkpoint.digest,
        },
        "seconds": time.monotonic() - began,
    }
    if earlier is not None:
        record["compared"] = {"file": options.compare, "varying": varying, **difference(found, earlier, varying)}
    if options.json:
        show_json(record)
    else:
        show(describe(record))
    return 0


def chosen_draw(opened: Opened, options: argparse.Namespace) -> SampleSettings:
    """How samples are drawn, by the options that `markovae sample` takes too."""
    from markovae.quality.evaluation import SampleSettings

    chosen = chosen_sampler(opened, options)
    return SampleSettings(chosen.plan, chosen.guidance, options.seed, options.batch or DEFAULT_BATCH, chosen.facts)


def own_data(opened: Opened, source: str | None) -> tuple[str, Splits, bool | None]:
    """The data's name, its parts, and whether they are what the run stored (None for other data).

    Raises:
        UserError: for data that are missing, or that have other classes than the run.
    """
    from markovae.cli.measure_data import labels_for, like, trained_on
    from markovae.data.loading import load_data
    from markovae.log import log

    config = opened.checkpoint.config.data
    if source is not None:
        splits = load_data(like(config, source, opened))
        tell_left_out(source, splits.unreadable, splits.notes)
        if opened.num_classes and splits.train.labels is not None:
            own = {"labels": labels_for(opened, splits.train), "class_names": opened.checkpoint.class_names}
            splits = replace(splits, train=replace(splits.train, **own))
        return without_secrets(source), splits, None
    opened.checkpoint.split_record  # noqa: B018 - a model without images of its own is told here
    splits = load_data(config)
    matches = trained_on(splits, opened)
    if not matches:
        log("measuring nevertheless: the reference may hold images that were trained on")
    return config.source, splits, matches


def _reference(opened: Opened, against: str | None, training: ImageData) -> ImageData | None:
    """Another reference, where one is asked for; told where it holds training images, whose copies it would reward."""
    if against is None:
        return None
    from markovae.cli.measure_data import like
    from markovae.data.loading import read_source, require_readable
    from markovae.log import log

    config = like(opened.checkpoint.config.data, against, opened)
    reading = read_source(config)
    require_readable(reading, config)
    tell_left_out(against, reading.summary.unreadable, reading.summary.notes)
    shared = len(set(reading.data.content_hashes()) & set(training.content_hashes()))
    if shared:
        log(f"warning: {shared:,} images of {against} are training images here: copies of them count as good")
    return reading.data


def _require_comparable(conditions: Conditions, earlier: Mapping[str, Any], varying: Sequence[str]) -> None:
    from dataclasses import asdict

    from markovae.quality.quality_record import check_conditions

    check_conditions(asdict(conditions), earlier["conditions"], varying)


def _earlier(options: argparse.Namespace) -> Mapping[str, Any] | None:
    if options.compare is None:
        if options.varying:
            raise UserError("--varying goes with --compare: name the earlier record too")
        return None
    import json
    from pathlib import Path

    from markovae.quality.quality_record import as_record

    try:
        stored = json.loads(Path(options.compare).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--compare {options.compare} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise UserError(f"--compare {options.compare} is no JSON: give what quality --json printed") from None
    return as_record(stored)
