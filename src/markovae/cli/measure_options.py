"""The options of `markovae measure`, and which of them do not go together."""

from __future__ import annotations

import argparse
from pathlib import Path

from markovae.cli.options import add_json, add_machine, one_of, whole
from markovae.errors import UserError
from markovae.system.processes import place

PARTS = ("test", "validation", "train", "all")
ESTIMATORS, GRIDS, VARIANCES = (
    ("full", "stratified", "importance"),
    ("even", "optimal"),
    ("own", "isotropic", "diagonal"),
)
DEFAULT_DRAWS, DEFAULT_BATCH, DEFAULT_FIT, DEFAULT_ODE, DEFAULT_PROBES = 16, 64, 250, 16, 4


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
        default="test",
        help="test (default), validation, train or all",
    )
    parser.add_argument("--limit", metavar="N", type=whole(1), help="the first N images only")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of every draw (default: 0)")
    parser.add_argument(
        "--against", metavar="RUN", help="another run: measure both alike, and their difference image by image"
    )
    _add_method(parser)
    _add_limits(parser)
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
        help="captions that an image's own is picked from (default: 16); a network call each a draw",
    )
    files = parser.add_argument_group("files")
    files.add_argument("--csv", metavar="FILE", type=Path, help="write one row an image: its terms and total in nats")
    files.add_argument(
        "--save",
        action="store_true",
        help="keep the record, the rows and sheets of the extreme images in RUN/measurements; without it measuring "
        "writes nothing into a run",
    )
    add_json(parser)
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
        help=f"levels drawn an image (default: {DEFAULT_DRAWS}), or all: the whole sum, one network call a level",
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
        "--replicates", metavar="R", type=whole(1), default=1, help="independent repeats: from 2 on the noise is known"
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
        help=f"other images that all this is fitted on (default: {DEFAULT_FIT})",
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
        help=f"the first N images only (default: {DEFAULT_ODE}): each takes hundreds of calls",
    )
    group.add_argument(
        "--ode-steps", metavar="N", type=whole(1), help="fixed steps of order 4 (default: each image on its own steps)"
    )
    group.add_argument(
        "--probes",
        metavar="P",
        type=probes,
        help=f"random probes of the trace (default: {DEFAULT_PROBES}), or exact: a backward pass a dimension",
    )
    group.add_argument(
        "--dequantise",
        metavar="LAW",
        type=one_of("uniform", "normal"),
        help="noise within a digit's bin: uniform (default), or normal (truncated)",
    )


def check(options: argparse.Namespace) -> None:
    """Refuse options that do not go together, and fill in the draws.

    Raises:
        UserError: naming the two.
    """
    if options.draws == "all" and options.estimator == "importance":
        raise UserError(
            f"--draws all takes every level and --estimator {options.estimator} draws some: leave one of them out"
        )
    if options.estimator == "full" and isinstance(options.draws, int):
        raise UserError(f"--estimator full takes every level and --draws {options.draws} draws some: leave one out")
    if options.draws is None:
        options.draws = "all" if options.estimator == "full" else DEFAULT_DRAWS
    if options.draws == "all":
        options.estimator = "full"
    if options.continuous or options.ode:
        require_alone("--continuous and --ode")
    if options.candidates is not None:
        raise UserError("--candidates are captions to pick from: add --captions")
    for name in ("ode_images", "ode_steps", "probes", "dequantise"):
        if getattr(options, name) is not None and not options.ode:
            raise UserError(f"--{name.replace('_', '-')} shapes the likelihood of the flow: add --ode")
    fits = options.estimator == "importance" or options.grid == "optimal" or options.variance != "own"
    if options.fit_images is not None and not fits:
        raise UserError("--fit-images are fitted on, and nothing here is: name an --estimator, --grid or --variance")
    defaults = {"fit_images": DEFAULT_FIT, "ode_images": DEFAULT_ODE, "probes": DEFAULT_PROBES, "dequantise": "uniform"}
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.grid == "optimal" and options.levels is None:
        raise UserError("--grid optimal chooses some of the levels: say how many with --levels K")
    if options.against is not None and options.ode:
        raise UserError("--against compares bounds and --ode is no bound of these models: measure the flow of each run")


def require_alone(what: str) -> None:
    """Refuse several processes.

    Raises:
        UserError: under torchrun.
    """
    if not place().alone:
        raise UserError(f"{what} are measured by one process: leave them out, or start without torchrun")
