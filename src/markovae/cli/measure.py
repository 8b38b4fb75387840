"""`markovae measure`: the bound of a run on images, in bits per dimension, with its error."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markovae.cli.measure_words import captions_in_words, columns_in_words, describe, ranking_in_words
from markovae.cli.options import FLOAT32_FIRST, add_json, add_machine, add_run, add_seed, add_trust, one_of, whole
from markovae.cli.output import show_record
from markovae.cli.running import open_run
from markovae.errors import UserError
from markovae.likelihood.method import DEQUANTIZATIONS, ESTIMATORS, GRIDS, SPLITS, VARIANCES, Method
from markovae.log import log
from markovae.system.processes import current_rank

if TYPE_CHECKING:
    from markovae.checkpoints.reading import LoadedRun
    from markovae.likelihood.anomalies import AnomalyRanking
    from markovae.likelihood.comparison import Comparison
    from markovae.likelihood.evaluation_data import EvaluationData
    from markovae.likelihood.measurement import Measurement
    from markovae.system.distributed import Ranks

SUMMARY = "measure what images cost under a run, in bits/dim"
DESCRIPTION = """\
Measure the bound on -ln P of images under a run's averaged weights, in float32 unless --precision says otherwise.
Every image counts once; nothing is augmented, clamped or dropped. The figure is an upper bound on the code length.
What is fitted before (--estimator importance, --grid optimal, --variance) is fitted on other images.
"""
EXAMPLES = """\
examples:
  markovae measure runs/faces   # the test part of the run's own data, 16 draws per image
  markovae measure runs/a --against runs/b   # the difference, on common images, levels and noise
  markovae measure runs/faces --estimator importance --draws 9   # importance-sampled levels
  markovae measure runs/faces --levels 32 --grid optimal   # the best 32 levels, with variances refitted for them
  markovae measure runs/faces --draws all --limit 50   # every level of 50 images: slow, no noise from the levels
  markovae measure runs/faces photos/ --csv costs.csv   # other images, all of them, one row per image
  markovae measure runs/faces inbox/ --rank --csv odd.csv   # which images are odd, the oddest first
  markovae measure runs/people --columns   # what each column of metadata.csv says, in nats
  markovae measure runs/text --captions   # what captions say about images, in nats, attribute by attribute
  torchrun --nproc-per-node 8 -m markovae measure runs/faces   # by eight processes: the same figures to the bit
"""

ODE_IMAGES, HELDOUT = 16, 500


def draws(text: str) -> int | str:
    """--draws: a whole number, or `all`."""
    return text if text == "all" else whole(1)(text)


def probes(text: str) -> int | str:
    """--probes: a whole number, or `exact`."""
    return text if text == "exact" else whole(1)(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `markovae measure`."""
    add_run(parser)
    parser.add_argument("data", metavar="DATA", nargs="?", help="other images than the run's own")
    parser.add_argument(
        "--split",
        metavar="PART",
        type=one_of(*SPLITS),
        help="test (default of the run's own data), validation, train or all (default of other data)",
    )
    parser.add_argument("--limit", metavar="N", type=whole(1), help="measure the first N images only")
    add_seed(parser, "seed of every random draw")
    parser.add_argument(
        "--against", metavar="RUN", help="also measure another run in the same way; print the paired difference"
    )
    _add_method(parser)
    _add_limits(parser)
    parser.add_argument(
        "--rank",
        action="store_true",
        help="rank images by anomaly: bits minus those of a generic lossless coder, with p-values against "
        "held-out images",
    )
    captions = parser.add_argument_group("captions and columns")
    captions.add_argument(
        "--columns",
        action="store_true",
        help="measure what columns say of the first 300 images (--limit), in nats: each alone, and beyond the others",
    )
    captions.add_argument(
        "--captions",
        action="store_true",
        help="measure what captions say of the first 300 images (--limit): the bound with and without, a lower bound "
        "on the information between image and caption; for faces also each phrase and attribute",
    )
    captions.add_argument(
        "--candidates",
        metavar="K",
        type=whole(2),
        help="captions from which an image's own is picked (default: 16); each takes a network evaluation per draw",
    )
    files = parser.add_argument_group("files")
    files.add_argument(
        "--csv", metavar="FILE", type=Path, help="write one row per image: its file, its terms and total in nats"
    )
    files.add_argument(
        "--save",
        action="store_true",
        help="keep the record, the rows and sheets of the extreme images in RUN/measurements; without it measuring "
        "writes nothing into a run",
    )
    add_json(parser)
    add_trust(parser)
    add_machine(
        parser,
        batch="draws per network evaluation (default: 64); no figure depends on it beyond rounding",
        precision=FLOAT32_FIRST,
    )


def _add_method(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("estimator")
    group.add_argument(
        "--draws",
        metavar="M",
        type=draws,
        help="levels drawn per image (default: 16), or all: the whole sum, one network evaluation per level",
    )
    group.add_argument(
        "--estimator",
        metavar="NAME",
        type=one_of(*ESTIMATORS),
        default="stratified",
        help="stratified (default: levels evenly spread), full (--draws all), or importance (importance-sampled "
        "levels)",
    )
    group.add_argument(
        "--replicates",
        metavar="R",
        type=whole(1),
        default=1,
        help="independent repeats: at least 2 give the Monte Carlo error",
    )
    group.add_argument(
        "--levels", metavar="K", type=whole(1), help="measure on K of the levels (default: all the model has)"
    )
    group.add_argument(
        "--grid",
        metavar="NAME",
        type=one_of(*GRIDS),
        default="even",
        help="how the K levels are chosen: even (default), or optimal (lowest bound; variances are refitted)",
    )
    group.add_argument(
        "--variance",
        metavar="NAME",
        type=one_of(*VARIANCES),
        default="own",
        help="variance of the prior's steps: own (as trained, the default), isotropic or diagonal (refitted)",
    )
    group.add_argument(
        "--fit-images",
        metavar="N",
        type=whole(1),
        help="images used for fitting (default: 250)",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("beyond the levels")
    group.add_argument("--continuous", action="store_true", help="give the bound of infinitely many levels too")
    group.add_argument(
        "--ode",
        action="store_true",
        help="also the likelihood under the probability-flow ODE (a different model: not the bound's)",
    )
    group.add_argument(
        "--ode-images",
        metavar="N",
        type=whole(1),
        help=f"images for --ode (default: the first {ODE_IMAGES}): each takes hundreds of network evaluations",
    )
    group.add_argument(
        "--ode-steps",
        metavar="N",
        type=whole(1),
        help="N fixed steps of order 4 (default: adaptive steps for each image)",
    )
    group.add_argument(
        "--probes",
        metavar="P",
        type=probes,
        help="random probes of the trace (default: 4), or exact: a backward pass per dimension",
    )
    group.add_argument(
        "--dequantize",
        metavar="NOISE",
        type=one_of(*DEQUANTIZATIONS),
        help="noise within the bin of a pixel value: uniform (default), or normal (truncated)",
    )


def run(options: argparse.Namespace) -> int:
    """Measure and tell; exit code 0.

    Raises:
        UserError: for options that do not go together, data that do not fit the model, or a file that cannot be.
    """
    if options.columns:
        return _columns(options)
    if options.captions or options.rank:
        return _captions(options) if options.captions else _rank(options)
    method = checked(options)
    from markovae.likelihood.evaluation_data import evaluation_data, require_comparable
    from markovae.likelihood.inputs import checked_model
    from markovae.system.distributed import TIMEOUT, joined

    began = time.monotonic()
    opened, against = open_run(options, trained_in=False), None
    _require_places(options)
    if options.against is not None:
        against = open_run(argparse.Namespace(**{**vars(options), "run_path": options.against}), trained_in=False)
    with joined(TIMEOUT, opened.model.device) as ranks:
        chosen = ranks.in_turn(lambda: evaluation_data(opened, options.data, options.split, options.limit))
        for one in (opened,) if against is None else (opened, against):
            checked_model(one.model)
        if against is not None:
            require_comparable(opened, against, chosen)
        found = _measured(opened, against, chosen, method, options, ranks, began)
    if ranks.first:
        record, bins = _recorded(found, chosen.data.images, opened, options), opened.model.pixels.bins
        words = partial(describe, bins=bins, run=options.run_path, against=options.against)
        return show_record(record, words, options.json)
    return 0


def _require_places(options: argparse.Namespace) -> None:
    """Refuse, before any work, what --save and --csv name, where nothing can be written there.

    Raises:
        UserError: naming it.
    """
    from markovae.likelihood.measurement_files import require_csv_place, run_folder

    if options.save:
        run_folder(options.run_path)
    if options.csv is not None:
        require_csv_place(options.csv, (options.run_path, options.against))


def _recorded(
    found: Measurement | Comparison | AnomalyRanking, images: Any, opened: LoadedRun, options: argparse.Namespace
) -> dict[str, Any]:
    """The record of what was measured; written where --csv and --save ask for it."""
    from markovae.likelihood.measurement_files import save_measurement
    from markovae.system.files import write_file

    record = found.to_dict()
    if options.csv is not None:
        write_file(options.csv, found.to_csv().encode())
    if options.save:
        bins = opened.model.pixels.bins
        record["saved"] = str(save_measurement(found, record, options.run_path, images, bins))
    return record


def _measured(
    opened: LoadedRun,
    against: LoadedRun | None,
    chosen: EvaluationData,
    method: Method,
    options: argparse.Namespace,
    ranks: Ranks,
    began: float,
) -> Measurement | Comparison:
    """What the options ask for, with where model and images are from."""
    import numpy as np

    from markovae.likelihood.evaluation_data import FIT_IMAGES, images_to_fit_on, labels_for_pair
    from markovae.likelihood.inputs import labels_taken

    images = np.asarray(chosen.data.images[: options.limit])
    labels = labels_for_pair(opened, against, chosen.data.take(slice(0, options.limit)))
    sized: dict[str, Any] = {"seed": method.seed, "batch": method.batch}
    how: dict[str, Any] = {**vars(method), "progress": True, "ranks": ranks}
    if method.needs_fit:
        other = images_to_fit_on(chosen, opened, options.fit_images or FIT_IMAGES)
        log(f"fitting on {len(other):,} other images")
        how |= {"fit": other.images, "fit_labels": labels_for_pair(opened, against, other)}
    pair = None
    if against is None:
        from markovae.likelihood.measuring import measure

        found = measure(opened.model, images, labels, **how)
    else:
        from markovae.likelihood.comparison import compare

        pair = compare(opened.model, against.model, images, labels, **how)
        found = pair.a
    labels = labels_taken(opened.model, labels)
    if options.continuous:
        from markovae.likelihood.continuous import continuous_bound

        log("measuring the bound of infinitely many levels")
        count = 16 if method.number_of_draws is None else method.number_of_draws
        found = replace(found, continuous=continuous_bound(opened.model, images, labels, draws=count, **sized))
    if options.ode:
        from markovae.likelihood.ode import ode_likelihood

        count = options.ode_images or ODE_IMAGES
        log(f"measuring the likelihood of the flow: {min(count, len(images)):,} images")
        flow = {"integrator": options.ode_steps, "probes": options.probes or 4, "dequantization": options.dequantize}
        found = replace(found, ode=ode_likelihood(opened.model, images, labels, limit=count, **flow, **sized))
    seconds = time.monotonic() - began
    where: dict[str, Any] = {"data": chosen.to_dict(), "checkpoint": opened.checkpoint.facts()}
    files = chosen.data.files and chosen.data.files[: options.limit]
    found = replace(found, **where, files=files, seconds=seconds)
    if pair is None or against is None:
        return found
    return replace(pair, a=found, b=replace(pair.b, checkpoint=against.checkpoint.facts()))


def _captions(options: argparse.Namespace) -> int:
    """--captions: what captions say about images, in nats."""
    _refuse(options, "--captions", ("rank", "against", "continuous", "ode", "csv", "save", "levels"))
    import numpy as np

    from markovae.likelihood.caption_information import caption_information
    from markovae.likelihood.evaluation_data import evaluation_data

    opened = open_run(options, trained_in=False)
    if opened.model.text_conditioner is None:
        raise UserError(f"--captions needs a model of captions, and {opened.path} was trained without: leave it out")
    chosen = evaluation_data(opened, options.data, options.split, options.limit)
    data = chosen.data
    limit = options.limit or 300
    if data.captions is None or not any(map(str.strip, data.captions[:limit])):
        raise UserError(f"{data.name} has no captions: bring captioned images, or leave --captions out")
    images = np.asarray(data.images[:limit])
    found = caption_information(opened.model, images, data.captions[:limit], **_amounts(options))
    record = found.to_dict() | {"data": chosen.to_dict(), "checkpoint": opened.checkpoint.facts()}
    for row in record["images"]:
        row["file"] = data.files and data.files[row["image"]]
    return show_record(record, captions_in_words, options.json)


def _amounts(options: argparse.Namespace) -> dict[str, Any]:
    """What --captions and --columns share; the others keep the function's own default."""
    names = ("candidates", "draws", "batch", "limit", "seed")
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def _columns(options: argparse.Namespace) -> int:
    """--columns: what the columns of a table say about images, in nats."""
    _refuse(options, "--columns", ("captions", "rank", "against", "continuous", "ode", "csv", "save", "levels"))
    from markovae.likelihood.column_information import column_information
    from markovae.likelihood.evaluation_data import evaluation_data

    if options.draws == "all":
        raise UserError("--columns draws some levels of each image: give --draws a number")
    opened = open_run(options, trained_in=False)
    chosen = evaluation_data(opened, options.data, options.split, options.limit)
    found = column_information(opened.model, chosen.data, **_amounts(options))
    record = found.to_dict() | {"data": chosen.to_dict(), "checkpoint": opened.checkpoint.facts()}
    return show_record(record, columns_in_words, options.json)


def _rank(options: argparse.Namespace) -> int:
    """--rank: which images are odd."""
    _refuse(options, "--rank", ("against", "continuous", "ode", "levels", "fit_images", "candidates"))
    import numpy as np

    from markovae.likelihood.anomalies import rank_anomalies
    from markovae.likelihood.evaluation_data import evaluation_data, images_to_fit_on, labels_for

    if options.draws == "all":
        raise UserError("--rank draws some levels of each image: give --draws a number")
    opened = open_run(options, trained_in=False)
    _require_places(options)
    chosen = evaluation_data(opened, options.data, options.split, options.limit)
    data = chosen.data.take(slice(0, options.limit))
    heldout = images_to_fit_on(chosen, opened, HELDOUT, ("test", "validation"))
    log(f"comparing with {len(heldout):,} held-out images of {heldout.name}")
    sized = {"draws": options.draws or 16, "seed": options.seed, "batch": options.batch or 64}
    labels = (labels_for(opened, some) for some in (data, heldout))
    found = rank_anomalies(opened.model, data, heldout, *labels, progress=True, **sized)
    found = replace(found, data=chosen.to_dict(), checkpoint=opened.checkpoint.facts())
    record = _recorded(found, np.asarray(data.images), opened, options)
    return show_record(record, ranking_in_words, options.json)


def _refuse(options: argparse.Namespace, what: str, names: tuple[str, ...]) -> None:
    """Refuse options that a way of measuring does not take, and several processes.

    Raises:
        UserError: naming the first.
    """
    for name in names:
        if getattr(options, name) not in (None, False):
            raise UserError(f"{what} takes no --{name.replace('_', '-')}: leave it out")
    for name, plain in (("estimator", "stratified"), ("grid", "even"), ("variance", "own"), ("replicates", 1)):
        if getattr(options, name) != plain:
            raise UserError(f"{what} draws levels evenly on the run's own grid and takes no --{name}: leave it out")
    require_alone(what)


def checked(options: argparse.Namespace) -> Method:
    """How to measure, once options that do not go together are refused.

    Raises:
        UserError: naming the two.
    """
    if options.candidates is not None:
        raise UserError("--candidates are captions, or columns, to pick from: add --captions or --columns")
    for name in ("ode_images", "ode_steps", "probes", "dequantize"):
        if getattr(options, name) is not None and not options.ode:
            raise UserError(f"--{name.replace('_', '-')} shapes the likelihood of the flow: add --ode")
    if options.against is not None and options.ode:
        raise UserError("--against compares bounds and --ode is no bound of these models: measure the flow of each run")
    if options.continuous or options.ode:
        require_alone("--continuous and --ode")
    method = Method(
        options.estimator,
        "auto" if options.draws is None else options.draws,
        options.replicates,
        options.levels,
        options.grid,
        options.variance,
        seed=options.seed,
        batch=options.batch or 64,
    )
    if options.fit_images is not None and not method.needs_fit:
        raise UserError(
            "--fit-images needs something to fit: add --estimator importance, --grid optimal or --variance isotropic"
        )
    return method


def require_alone(what: str) -> None:
    """Refuse several processes.

    Raises:
        UserError: under torchrun.
    """
    if not current_rank().alone:
        raise UserError(f"{what} are measured by one process: leave them out, or start without torchrun")
