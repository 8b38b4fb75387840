"""`markovae measure`: the bound of a run on images, in bits per dimension, with its error."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markovae.cli.options import add_json, add_machine, add_trust, one_of, whole
from markovae.cli.output import headline, table
from markovae.cli.running import open_run
from markovae.errors import UserError
from markovae.log import log, show, show_json
from markovae.report.words import TERMS, bound_in_words
from markovae.system.processes import current_rank

if TYPE_CHECKING:
    from markovae.checkpoints.reading import LoadedRun
    from markovae.likelihood.comparison import Comparison
    from markovae.likelihood.evaluation_data import EvaluationData
    from markovae.likelihood.measurement import Measurement
    from markovae.likelihood.measuring import Method
    from markovae.system.distributed import Ranks

__all__ = ["DESCRIPTION", "EXAMPLES", "SUMMARY", "add_arguments", "run"]

SUMMARY = "measure what images cost under a run, in bits/dim"
DESCRIPTION = """\
Measure the bound on -ln P of images under a run's averaged weights, in float32 unless told otherwise. Every image
counts once; nothing is augmented, clamped or dropped. The figure is an upper bound on the code length. What is
fitted before (--estimator importance, --grid optimal, --variance) is fitted on other images.
"""
EXAMPLES = """\
examples:
  markovae measure runs/faces                       the test part of the run's own data, 16 draws per image
  markovae measure runs/a --against runs/b          the difference, on common images, levels and noise
  markovae measure runs/faces --estimator importance --draws 9   importance-sampled levels
  markovae measure runs/faces --levels 32 --grid optimal   the best 32 levels, with variances refitted for them
  markovae measure runs/faces --draws all --limit 50   every level of 50 images: slow, no noise from the levels
  markovae measure runs/faces photos/ --csv costs.csv   other images, all of them, one row per image
  markovae measure runs/faces inbox/ --rank --csv odd.csv   which images are odd, the oddest first
  markovae measure runs/text --captions             what captions say about images, in nats, attribute by attribute
  torchrun --nproc-per-node 8 -m markovae measure runs/faces        by eight processes: the same figures to the bit
"""


PARTS = ("test", "validation", "train", "all")
ESTIMATORS, GRIDS, VARIANCES = (
    ("full", "stratified", "importance"),
    ("even", "optimal"),
    ("own", "isotropic", "diagonal"),
)
ODE_IMAGES, HELDOUT = 16, 500


def draws(text: str) -> int | str:
    """--draws: a whole number, or `all`."""
    return text if text == "all" else whole(1)(text)


def probes(text: str) -> int | str:
    """--probes: a whole number, or `exact`."""
    return text if text == "exact" else whole(1)(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `markovae measure`."""
    parser.add_argument("run_path", metavar="RUN", help="a run's folder, or one of its checkpoints")
    parser.add_argument("data", metavar="DATA", nargs="?", help="other images than the run's own")
    parser.add_argument(
        "--split",
        metavar="PART",
        type=one_of(*PARTS),
        help="test (default of the run's own data), validation, train or all (default of other data)",
    )
    parser.add_argument("--limit", metavar="N", type=whole(1), help="the first N images only")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of every draw (default: 0)")
    parser.add_argument(
        "--against", metavar="RUN", help="another run: measure both alike, and their difference image by image"
    )
    _add_method(parser)
    _add_limits(parser)
    parser.add_argument(
        "--rank",
        action="store_true",
        help="rank images by oddness: bits less their complexity, with p-values against held-out images",
    )
    captions = parser.add_argument_group("captions")
    captions.add_argument(
        "--captions",
        action="store_true",
        help="weigh the captions of the first 300 images (--limit): the bound with and without, a lower bound on the "
        "information between image and caption, and of the faces each phrase and attribute",
    )
    captions.add_argument(
        "--candidates",
        metavar="K",
        type=whole(2),
        help="captions that an image's own is picked from (default: 16); one NFE per draw each",
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
        batch="draws a network call (default: 64); no figure depends on it beyond rounding",
        precision="auto (float32, the default), float32, bfloat16 or float64",
    )


def _add_method(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how")
    group.add_argument(
        "--draws",
        metavar="M",
        type=draws,
        help="levels drawn per image (default: 16), or all: the whole sum, one network call a level",
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
        help="which K: even (default: even strides), or optimal (the least bound, variances refitted)",
    )
    group.add_argument(
        "--variance",
        metavar="NAME",
        type=one_of(*VARIANCES),
        default="own",
        help="of the prior's steps: own (default), isotropic or diagonal, refitted",
    )
    group.add_argument(
        "--fit-images",
        metavar="N",
        type=whole(1),
        help="images used for fitting (default: 250)",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("beyond the levels")
    group.add_argument("--continuous", action="store_true", help="also the bound of infinitely many levels")
    group.add_argument(
        "--ode", action="store_true", help="also the likelihood of the probability-flow ODE, a model of its own"
    )
    group.add_argument(
        "--ode-images",
        metavar="N",
        type=whole(1),
        help=f"the first N images only (default: {ODE_IMAGES}): each takes hundreds of calls",
    )
    group.add_argument(
        "--ode-steps", metavar="N", type=whole(1), help="fixed steps of order 4 (default: each image on its own steps)"
    )
    group.add_argument(
        "--probes",
        metavar="P",
        type=probes,
        help="random probes of the trace (default: 4), or exact: a backward pass a dimension",
    )
    group.add_argument(
        "--dequantise",
        metavar="LAW",
        type=one_of("uniform", "normal"),
        help="noise within a digit's bin: uniform (default), or normal (truncated)",
    )


def run(options: argparse.Namespace) -> int:
    """Measure and tell; exit code 0.

    Raises:
        UserError: for options that do not go together, data that do not fit the model, or a file that cannot be.
    """
    if options.captions or options.rank:
        return _captions(options) if options.captions else _rank(options)
    method = checked(options)
    from markovae.likelihood.evaluation_data import evaluation_data, require_comparable
    from markovae.likelihood.inputs import checked_model
    from markovae.likelihood.measurement_files import require_csv_place, run_folder, save_measurement
    from markovae.system.distributed import TIMEOUT, joined
    from markovae.system.files import write_file

    began = time.monotonic()
    opened, against = open_run(options, trained_in=False), None
    if options.save:
        run_folder(options.run_path)
    if options.csv is not None:
        require_csv_place(options.csv, (options.run_path, options.against))
    if options.against is not None:
        against = open_run(argparse.Namespace(**{**vars(options), "run_path": options.against}), trained_in=False)
    with joined(TIMEOUT, opened.model.device) as ranks:
        chosen = ranks.in_turn(lambda: evaluation_data(opened, options.data, options.split, options.limit))
        for one in (opened,) if against is None else (opened, against):
            checked_model(one.model)
        if against is not None:
            require_comparable(opened, against, chosen)
        found = _measured(opened, against, chosen, method, options, ranks, began)
    if not ranks.first:
        return 0
    record = found.to_dict()
    if options.csv is not None:
        write_file(options.csv, found.to_csv().encode())
    if options.save:
        bins = opened.model.pixels.bins
        record["saved"] = str(save_measurement(found, record, options.run_path, chosen.data.images, bins))
    if options.json:
        show_json(record)
    else:
        show(describe(record, opened.model.pixels.bins, options))
    return 0


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

    from markovae.likelihood.comparison import compare
    from markovae.likelihood.continuous import continuous_bound
    from markovae.likelihood.evaluation_data import FIT_IMAGES, images_to_fit_on, labels_for_pair
    from markovae.likelihood.inputs import labels_taken
    from markovae.likelihood.measuring import measure
    from markovae.likelihood.ode import ode_likelihood

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
        found = measure(opened.model, images, labels, **how)
    else:
        pair = compare(opened.model, against.model, images, labels, **how)
        found = pair.a
    labels = labels_taken(opened.model, labels)
    if options.continuous:
        log("measuring the bound of infinitely many levels")
        count = 16 if method.number_of_draws is None else method.number_of_draws
        found = replace(found, continuous=continuous_bound(opened.model, images, labels, draws=count, **sized))
    if options.ode:
        count = options.ode_images or ODE_IMAGES
        log(f"measuring the likelihood of the flow: {min(count, len(images)):,} images")
        flow = {"integrator": options.ode_steps, "probes": options.probes or 4, "dequantisation": options.dequantise}
        found = replace(found, ode=ode_likelihood(opened.model, images, labels, limit=count, **flow, **sized))
    seconds = time.monotonic() - began
    where: dict[str, Any] = {"data": chosen.to_dict(), "checkpoint": _checkpoint(opened)}
    files = chosen.data.files and chosen.data.files[: options.limit]
    found = replace(found, **where, files=files, seconds=seconds)
    if pair is None or against is None:
        return found
    return replace(pair, a=found, b=replace(pair.b, checkpoint=_checkpoint(against)))


def _checkpoint(opened: LoadedRun) -> dict[str, Any]:
    made = opened.checkpoint
    return {"path": str(made.path), "step": made.step, "digest": made.digest}


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
    words = {"candidates": options.candidates, "draws": options.draws, "batch": options.batch, "limit": options.limit}
    named = {name: value for name, value in words.items() if value is not None}
    images = np.asarray(data.images[:limit])
    found = caption_information(opened.model, images, data.captions[:limit], seed=options.seed, **named)
    record = found.to_dict() | {"data": chosen.to_dict(), "checkpoint": _checkpoint(opened)}
    for row in record["images"]:
        row["file"] = data.files and data.files[row["image"]]
    if options.json:
        show_json(record)
    else:
        show(captions_in_words(record))
    return 0


def _rank(options: argparse.Namespace) -> int:
    """--rank: which images are odd."""
    _refuse(options, "--rank", ("against", "continuous", "ode", "levels", "fit_images", "candidates"))
    import numpy as np

    from markovae.likelihood.anomalies import rank_anomalies
    from markovae.likelihood.evaluation_data import evaluation_data, images_to_fit_on, labels_for
    from markovae.likelihood.measurement_files import require_csv_place, run_folder, save_measurement
    from markovae.system.files import write_file

    if options.draws == "all":
        raise UserError("--rank draws some levels of each image: give --draws a number")
    opened = open_run(options, trained_in=False)
    if options.save:
        run_folder(options.run_path)
    if options.csv is not None:
        require_csv_place(options.csv, (options.run_path,))
    chosen = evaluation_data(opened, options.data, options.split, options.limit)
    data = chosen.data.take(slice(0, options.limit))
    heldout = images_to_fit_on(chosen, opened, HELDOUT, ("test", "validation"))
    log(f"comparing with {len(heldout):,} held-out images of {heldout.name}")
    sized = {"draws": options.draws or 16, "seed": options.seed, "batch": options.batch or 64}
    labels = (labels_for(opened, some) for some in (data, heldout))
    found = rank_anomalies(opened.model, data, heldout, *labels, progress=True, **sized)
    found = replace(found, data=chosen.to_dict(), checkpoint=_checkpoint(opened))
    record = found.to_dict()
    if options.csv is not None:
        write_file(options.csv, found.to_csv().encode())
    if options.save:
        bins = opened.model.pixels.bins
        record["saved"] = str(save_measurement(found, record, options.run_path, np.asarray(data.images), bins))
    if options.json:
        show_json(record)
    else:
        show(ranking_in_words(record))
    return 0


def ranking_in_words(record: dict[str, Any], most: int = 10) -> str:
    """The oddest images, and how many are odd."""
    n, flagged = record["n"], record["flagged"]
    rows = [("", "", "score", "p", "bits/dim", "complexity", "unusual at")]
    for row in record["images"][:most]:
        deviations = [row[f"band_{number}_deviation"] for number in range(1, len(record["bands"]) + 1)]
        place = max(range(len(deviations)), key=lambda i: abs(deviations[i]))
        high, low = record["bands"][place]["logsnr"]
        figures = (f"{row[name]:.3f}" for name in ("bits_per_dim", "complexity_bits_per_dim"))
        where = f"log-SNR {high:.1f} to {low:.1f} ({deviations[place]:+.1f} standard deviations)"
        where = where if abs(deviations[place]) >= 2 else ""  # less is usual
        name = row.get("file", f"image {row['image']}")
        rows.append(
            (str(row["rank"]), name, f"{row['score_bits_per_dim']:+.3f}", f"{row['p_value']:.4f}", *figures, where)
        )
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    aligned = "<<>>>>"
    lines = ["  ".join(f"{v:{a}{w}}" for v, a, w in zip(row, aligned, widths, strict=False)) for row in rows]
    share = f"{flagged['false_discovery_rate']:.0%}"
    verdict = (
        f"{flagged['n']:,} of {n:,} are odd (at most {share} of these by chance)"
        if flagged["n"]
        else f"none of {n:,} stands out (at a false discovery rate of {share})"
    )
    saved = f"\nsaved in {record['saved']}, with a sheet of the oddest" if "saved" in record else ""
    return "\n".join(
        [
            f"{images_in_words(record)} against {record['heldout']:,} held-out images: {verdict}",
            *(f"  {line}  {row[6]}".rstrip() for line, row in zip(lines, rows, strict=True)),
            "score: bits/dim under the model less those of a lossless coder of any image (complexity); p: how often a "
            f"held-out image scores as high. {record['draws']} levels drawn per image, seed {record['seed']}, "
            f"{record['seconds']:.0f} s{saved}",
        ]
    )


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
        raise UserError("--candidates are captions to pick from: add --captions")
    for name in ("ode_images", "ode_steps", "probes", "dequantise"):
        if getattr(options, name) is not None and not options.ode:
            raise UserError(f"--{name.replace('_', '-')} shapes the likelihood of the flow: add --ode")
    if options.against is not None and options.ode:
        raise UserError("--against compares bounds and --ode is no bound of these models: measure the flow of each run")
    if options.continuous or options.ode:
        require_alone("--continuous and --ode")
    from markovae.likelihood.measuring import Method

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
        raise UserError("--fit-images are fitted on, and nothing here is: name an --estimator, --grid or --variance")
    return method


def require_alone(what: str) -> None:
    """Refuse several processes.

    Raises:
        UserError: under torchrun.
    """
    if not current_rank().alone:
        raise UserError(f"{what} are measured by one process: leave them out, or start without torchrun")


def describe(record: dict[str, Any], bins: int, options: argparse.Namespace) -> str:
    """The figures, each with what it means."""
    bits, terms = record["bits_per_dim"], record["terms_bits_per_dim"]
    rows = [(name, f"{terms[name]:.4f}", meaning) for name, meaning in TERMS.items()]
    lines = [
        f"{headline(bits)}, {images_in_words(record)}",
        f"  {bound_in_words(bins)}",
        table(rows),
        *_bands(record),
        *_noise(record),
        *_grid(record),
        *_comparison(record, options),
        *_limits(record),
        how_in_words(record),
    ]
    if "saved" in record:
        lines.append(f"saved in {record['saved']}")
    return "\n".join(lines)


def _bands(record: dict[str, Any]) -> list[str]:
    """The levels of a cascade by bands, coarse first."""
    rows = []
    for number, band in enumerate(record.get("bands", [])):
        height, width = band["size"]
        what = f"mean image of {width}x{height}" if number == 0 else f"details, drawn at {width}x{height}"
        rows.append((f"stage {number}", f"{band['prior'] + band['levels']:.4f}", what))
    return [table(rows)] if rows else []


def images_in_words(record: dict[str, Any]) -> str:
    """How many, and of what."""
    n, data = record["n"], record["data"]
    part = f"{data['split']} part" if data["split"] != "all" else "all"
    return f"{n:,} {'image' if n == 1 else 'images'} ({part} of {data['source']})"


def how_in_words(record: dict[str, Any]) -> str:
    """Draws, calls, seed and time."""
    count = record["network_calls_per_example"] // record["replicates"] - 1
    every = record["estimator"] != "importance" and count >= record["levels"] - 1
    drawn = "every level" if every else f"{count} levels drawn per image ({record['estimator']})"
    repeats = f", {record['replicates']} times" if record["replicates"] > 1 else ""
    fit = record["fit"]
    fitted = "" if fit is None else f", {fit['network_calls']:,} more to fit on {fit['images']:,} other images"
    calls = f"{record['network_calls_per_example']} network calls each{fitted}"
    return f"{drawn}{repeats}, {calls}, seed {record['seed']}, {record['seconds']:.0f} s"


def _noise(record: dict[str, Any]) -> list[str]:
    if "noise_bits_per_dim" not in record:
        return []
    noise = record["noise_bits_per_dim"]
    low, high = noise["ci95"]
    return [
        f"  for these very images: ± {noise['stderr']:.4f} by the draws alone (95 % interval {low:.4f} to {high:.4f})"
    ]


def _grid(record: dict[str, Any]) -> list[str]:
    grid = record["grid"]
    if grid["levels"] is None:
        return []
    which = "at even strides" if grid["kind"] == "even" else "chosen for the least bound"
    return [f"  {record['levels']:,} levels {which}, {record['reverse_variance']} variance"]


def _comparison(record: dict[str, Any], options: argparse.Namespace) -> list[str]:
    if "against" not in record:
        return []
    other, difference = record["against"], record["difference_bits_per_dim"]
    common = "images, levels and noise" if difference["same_levels_and_noise"] else "images; other levels"
    mean = difference["mean"]
    if difference["stderr"] is None:
        return [f"{options.against}: {headline(other['bits_per_dim'])}; difference {mean:+.4f}, of common {common}"]
    low, high = difference["ci95"]
    verdict = (
        "the interval holds 0: no difference is shown"
        if low <= 0 <= high
        else f"{options.run_path if mean < 0 else options.against} needs fewer bits"
    )
    return [
        f"{options.against}: {headline(other['bits_per_dim'])}",
        f"difference {mean:+.4f} ± {difference['stderr']:.4f} bits/dim (95 % interval {low:+.4f} to {high:+.4f}) on "
        f"common {common}: {verdict}",
    ]


def _limits(record: dict[str, Any]) -> list[str]:
    lines = []
    if "continuous" in record:
        found = record["continuous"]
        calls = found["network_calls_per_example"]
        lines.append(f"infinitely many levels: {headline(found['bits_per_dim'])}, {calls} calls each")
    if "ode" in record:
        found = record["ode"]
        bits, n = found["bits_per_dim"], found["n"]
        error = "" if bits["stderr"] is None else f" ± {bits['stderr']:.3f}"
        lines.append(
            f"probability-flow ODE, a model of its own: {bits['mean']:.3f}{error} bits/dim, "
            f"{n:,} {'image' if n == 1 else 'images'}, {found['network_calls_per_example']:,.0f} calls each"
        )
    return lines


def captions_in_words(record: dict[str, Any]) -> str:
    """The figures, each with what it means."""
    bits, lower = record["bits_per_dim"], record["information_lower_bound"]
    difference = record["bound_difference"]
    from markovae.likelihood.caption_information import DIFFERENCE, INFORMATION, lower_bound_in_words

    lines = [
        f"{record['n']:,} captioned images ({record['data']['split']} part of {record['data']['source']})",
        table(
            [
                ("with captions", _figure(bits["with_caption"], 4), "bits/dim"),
                ("without", _figure(bits["without_caption"], 4), "bits/dim"),
                ("bound difference", _figure(difference["nats"], 2), "nats per image"),
                ("", _figure(difference["bits_per_dim"], 4), "bits/dim"),
                ("information, at least", *lower_bound_in_words(lower)),
            ]
        ),
        f"  {DIFFERENCE}.",
        f"  {INFORMATION.format(k=lower['candidates'], ceiling=lower['ceiling_nats'])}.",
    ]
    if record["phrases"]:
        rows = [(row["phrase"], _figure(row["nats"], 2), f"nats ({row['n']:,} images)") for row in record["phrases"]]
        lines += ["what leaving a phrase out of the caption costs, a bound difference too:", table(rows)]
    if record["attributes"]:
        rows = [
            (row["attribute"], _percent(row), f"by chance {100 * row['chance']:.0f} % ({row['n']:,} images)")
            for row in record["attributes"]
        ]
        lines += ["how often the bound tells the own value of an attribute from the others:", table(rows)]
    lines.append(
        f"{record['draws']} levels drawn a bound, {record['network_calls']:,} network calls, seed {record['seed']}, "
        f"{record['seconds']:.0f} s"
    )
    return "\n".join(lines)


def _figure(figure: dict[str, Any], digits: int) -> str:
    """mean ± stderr."""
    error = "" if figure["stderr"] is None else f" ± {figure['stderr']:.{digits}f}"
    return f"{figure['mean']:.{digits}f}{error}"


def _percent(row: dict[str, Any]) -> str:
    error = f" ± {100 * row['stderr']:.1f}" if row["stderr"] else ""  # of all right or all wrong nothing is spread
    return f"{100 * row['accuracy']:.1f}{error} %"
