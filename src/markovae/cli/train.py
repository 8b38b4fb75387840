"""`markovae train`: a new run, or one that goes on, and the report at its end."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from markovae.cli.ending import finished
from markovae.cli.options import add_json, add_machine, one_of, positive, whole
from markovae.config import PRESETS, preset_settings
from markovae.errors import UserError
from markovae.locations import FromFile, is_elsewhere
from markovae.log import log, show_json
from markovae.system.device import device_named
from markovae.system.lock import Lock, hold
from markovae.system.processes import place

if TYPE_CHECKING:
    from markovae.config import Config

SUMMARY = "train a model on images, then write its report"
DESCRIPTION = """\
Train a model on images. The run's folder holds checkpoints, metrics.jsonl and sample grids as it goes, and
report.html and report.json at the end. Ctrl-C saves; --resume goes on.
"""
EXAMPLES = """\
examples:
  markovae train photos/ --out runs/photos --minutes 30
  markovae train digits --out runs/digits --steps 2000 --set network.width=64
  markovae train --resume --out runs/photos --minutes 60     longer than it was: the budget counts from the start
  markovae train elsewhere/photos/ --resume --out runs/photos     the images were moved
  torchrun --nproc-per-node 8 -m markovae train photos/ --out runs/photos     eight processes, a device each
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `markovae train`."""
    parser.add_argument(
        "data",
        metavar="DATA",
        nargs="?",
        help="faces, digits, an image folder (sub-folders are classes), an .npz, .npy or idx file, or shards: a "
        "folder, a pattern or a URL",
    )
    parser.add_argument("--out", metavar="RUN", required=True, help="the run's folder: new or empty")
    parser.add_argument("--config", metavar="F.toml", help="settings to start from")
    parser.add_argument(
        "--set", metavar="A.B=C", action="append", default=[], help="one setting, such as train.lr=0.004; repeatable"
    )
    parser.add_argument(
        "--objective",
        metavar="NAME",
        type=one_of(*PRESETS),
        help="bound (the recipe for likelihood: train.objective=bound, train.level_sampling=importance, "
        "target.reverse=isotropic) or simple (Ho et al.'s: train.weighting=noise); --set comes after it",
    )
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--minutes", metavar="M", type=positive, help="train for so long (default: 5)")
    budget.add_argument("--steps", metavar="N", type=whole(1), help="train for so many steps")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument("--init", metavar="RUN", help="start from the averaged weights of another run")
    parser.add_argument("--no-report", action="store_true", help="end without report.html and report.json")
    add_json(parser)
    add_machine(
        parser,
        batch="images a step (default: 32); the same as --set train.batch=N",
        precision="auto (timed, the default), float32 or bfloat16; the same as --set train.precision=NAME",
        float64=False,
    )


def run(options: argparse.Namespace) -> int:
    """Train; exit code 0.

    Raises:
        UserError: for options, data or settings that do not go together.   StoppedRun: see `train_run`.
    """
    if options.json and options.no_report:
        raise UserError("--json prints the report: leave --no-report out")
    # Before torch is loaded, so that a second process on the folder ends at once.
    with holding(Path(options.out), options.resume) as lock:
        return _run(options, lock)


def restarted(out: Path) -> bool:
    """Whether torchrun starts the job anew (--max-restarts) and there is a checkpoint to go on from."""
    return place().restarts > 0 and (out / "checkpoints").is_dir() and any((out / "checkpoints").glob("step-*"))


def holding(out: Path, resume: bool) -> AbstractContextManager[Lock | None]:
    """The lock of the run's folder, for the first process of a job; a run that is not there is left to be refused."""
    return hold(out) if place().first and (out.is_dir() or not resume) else nullcontext()


def _run(options: argparse.Namespace, lock: Lock | None) -> int:
    device = device_named(options.device)
    again = restarted(Path(options.out))
    if options.resume or again:
        if not again:
            _check_resume(options)
        from markovae.run.start import resume_run

        steps, minutes = (None, None) if again else (options.steps, options.minutes)
        data = options.data if options.resume else _url_of(options)
        path = resume_run(options.out, steps=steps, minutes=minutes, data=data, device=device, held=lock)
    else:
        config = configuration(options)
        data = config.data.source
        from markovae.run.start import train_run

        path = train_run(config, options.out, init=options.init, device=device, held=lock)
    if not place().first:
        return 0
    if options.no_report:
        return 0
    record = finished(path, device, data)
    if options.json:
        show_json(record)
    return 0


def configuration(options: argparse.Namespace) -> Config:
    """The configuration of a new run: the file, then DATA, --objective, --set, and then the other options.

    Raises:
        UserError: for a setting that does not exist or does not fit, or no data.
    """
    from markovae.config import Config

    config = _imported(options.init) if options.config is None else Config.from_toml(options.config)
    settings = list(options.set)
    if options.data is not None:
        config = replace(config, data=replace(config.data, source=options.data))
    elif options.config is None and not any(text.startswith("data.source=") for text in settings):
        raise UserError("DATA is missing: name faces, digits, an image folder or an array file; see markovae train -h")
    if options.objective is not None:
        kinds = [text.partition("=")[2].strip() for text in settings if text.startswith("schedule.kind=")]
        settings = [*preset_settings(options.objective, [config.schedule.kind, *kinds][-1]), *settings]
    for name in ("minutes", "steps", "batch", "precision"):
        value = getattr(options, name)
        if value is not None:
            settings.append(f"train.{name}={value}")
    return config.with_settings(settings)


def _url_of(options: argparse.Namespace) -> str | None:
    """The URL that the command of a new run names for its images, for the job that torchrun starts anew."""
    source = configuration(options).data.source
    return source if is_elsewhere(source) and not isinstance(source, FromFile) else None


def _imported(init: str | None) -> Config:
    """The configuration of an imported model that a run starts from, else the defaults."""
    from markovae.config import Config

    if init is None:
        return Config()
    from markovae.checkpoints.reading import open_checkpoint

    checkpoint = open_checkpoint(init)
    if not checkpoint.imported:
        return Config()
    rate = checkpoint.config.train.adamw_lr
    log(f"--init {init} was imported: its configuration is taken, for fine-tuning (AdamW at {rate:g})")
    return checkpoint.config


def _check_resume(options: argparse.Namespace) -> None:
    given = [
        f"--{name}"
        for name in ("config", "objective", "init", "batch", "precision")
        if getattr(options, name) is not None
    ]
    given += ["--set"] if options.set else []
    if given:
        raise UserError(f"{given[0]} does not go with --resume: a run goes on with its own settings; leave it out")
