"""`markovae train`: a new run, or one that continues, and the report at its end."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markovae.cli.options import add_budget, add_json, add_machine, add_set, add_trust, one_of, positive, whole
from markovae.config import PRESETS, preset_settings, settings_help
from markovae.errors import UserError
from markovae.log import log, show, show_json
from markovae.system.device import device_named
from markovae.system.lock import hold
from markovae.system.processes import current_rank

if TYPE_CHECKING:
    import torch

    from markovae.config import Config

SUMMARY = "train a model on images, then write its report"
DESCRIPTION = """\
Train a model on images. The run's folder holds checkpoints, metrics.jsonl and sample grids as it goes, and
report.html and report.json at the end. Ctrl-C saves; --resume continues.
"""
EXAMPLES = """\
examples:
  markovae train photos/ --out runs/photos --minutes 30
  markovae train digits --out runs/digits --steps 2000 --set network.width=64
  markovae train --resume --out runs/photos --minutes 60          # for longer: the minutes count from the start
  markovae train elsewhere/photos/ --resume --out runs/photos     # the images were moved
  torchrun --nproc-per-node 8 -m markovae train photos/ --out runs/photos     # eight processes, a device each
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `markovae train`."""
    parser.add_argument(
        "data",
        metavar="DATA",
        nargs="?",
        help="faces, digits, cifar10, an image folder (sub-folders are classes), an .npz, .npy or idx file, CIFAR's "
        "binary files, parquet files (extra parquet), or shards: a folder, a pattern or a URL",
    )
    parser.add_argument("--out", metavar="RUN", help="the run's folder: new or empty")
    parser.add_argument("--config", metavar="F.toml", help="settings to start from")
    add_set(parser, "train.lr=0.004")
    parser.add_argument(
        "--objective",
        metavar="NAME",
        type=one_of(*PRESETS),
        help="bound (the recipe for likelihood: train.objective=bound, train.level_sampling=importance, "
        "target.reverse=isotropic) or simple (Ho et al.'s: train.weighting=noise); --set comes after it",
    )
    add_budget(parser, 5)
    parser.add_argument(
        "--seed", metavar="N", type=whole(0), help="seed of every random draw; the same as --set train.seed=N"
    )
    parser.add_argument("--settings", action=_ShowSettings, help="list every setting with its default, and exit")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out; or: train --resume RUN")
    parser.add_argument("--init", metavar="RUN", help="start from the averaged weights of another run")
    parser.add_argument(
        "--report-minutes",
        metavar="M",
        type=positive,
        default=1.0,
        help="let the report take about M minutes (default: 1)",
    )
    parser.add_argument("--no-report", action="store_true", help="end without report.html and report.json")
    parser.add_argument(
        "--log",
        metavar="NAME",
        action="append",
        default=[],
        help="log to tensorboard or wandb as well as to metrics.jsonl; repeatable",
    )
    add_json(parser)
    add_trust(parser)
    add_machine(
        parser,
        batch="images per step (default: 32); the same as --set train.batch=N",
        precision="auto (timed, the default), float32 or bfloat16; the same as --set train.precision=NAME",
        float64=False,
    )


class _ShowSettings(argparse.Action):
    """--settings: like --help, it needs nothing else."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *rest: object) -> None:
        show(settings_help())
        parser.exit()


def run(options: argparse.Namespace) -> int:
    """Train; exit code 0.

    Raises:
        UserError: for options, data or settings that do not go together.
        StoppedRun: see `run.start.train`.
    """
    if options.json and options.no_report:
        raise UserError("--json prints the report: leave --no-report out")
    if options.out is None and options.resume and options.data is not None:
        options.out, options.data = options.data, None  # --resume RUN, as it is said
    if options.out is None:
        raise UserError("--out is missing; see markovae train --help")
    out = Path(options.out)
    # Before torch is loaded, so that a second process on the folder ends at once. A run to resume that is not there is
    # left to be refused.
    with hold(out) if current_rank().first and (out.is_dir() or not options.resume) else nullcontext() as lock:
        from markovae.run.start import resume, train

        device, source = device_named(options.device), options.data
        if options.resume:
            _require_alone(options)
            budget = {"steps": options.steps, "minutes": options.minutes}
            resume(out, **budget, data=source, trust=options.trust, loggers=options.log, device=device, held=lock)
        else:
            config = configuration(options)
            source = config.data.source
            own: dict[str, Any] = {"trust": options.trust, "init": options.init}
            train(None, out, config, **own, loggers=options.log, device=device, held=lock)
        if current_rank().first and not options.no_report:
            record = finished(out, device, source, options.trust, options.report_minutes)
            if options.json:
                show_json(record)
    return 0


def finished(
    path: Path, device: torch.device, source: str | None = None, trust: Sequence[str] = (), minutes: float = 1.0
) -> dict[str, Any]:
    """Write the report of a run that has just ended, unless the one there is of the same step; its record.

    Args:
        source: of the run's images, as the command named it.
        trust: of --trust.
        minutes: of --report-minutes.
    Raises:
        KeyboardInterrupt: after saying how to get the report later.
    """
    from markovae.report.report_writing import current_report, write_report

    record = current_report(path, trust)
    if record is None:
        try:
            record = write_report(path, device, source, trust, minutes)
        except KeyboardInterrupt:
            log(f"no report written; for one:  markovae train --resume --out {path}")
            raise
    log(f"report: {path / 'report.html'}")
    return record


def configuration(options: argparse.Namespace) -> Config:
    """The configuration of a new run: the file, then DATA, --objective, --set, and then the other options.

    Raises:
        UserError: for a setting that does not exist or does not fit, or no data.
    """
    from markovae.config import Config

    config = _imported(options.init, options.trust) if options.config is None else Config.from_toml(options.config)
    settings = list(options.set)
    if options.data is not None:
        config = replace(config, data=replace(config.data, source=options.data))
    elif options.config is None and not any(text.startswith("data.source=") for text in settings):
        raise UserError(
            "DATA is missing: name faces, digits, cifar10, an image folder or an array file; see markovae train -h"
        )
    if options.objective is not None:
        kinds = [text.partition("=")[2].strip() for text in settings if text.startswith("schedule.kind=")]
        settings = [*preset_settings(options.objective, [config.schedule.kind, *kinds][-1]), *settings]
    for name in ("minutes", "steps", "seed", "batch", "precision"):
        value = getattr(options, name)
        if value is not None:
            settings.append(f"train.{name}={value}")
    return config.with_settings(settings)


def _imported(init: str | None, trust: Sequence[str]) -> Config:
    """The configuration of an imported model that a run starts from, else the defaults."""
    from markovae.config import Config

    if init is None:
        return Config()
    from markovae.checkpoints.reading import open_checkpoint

    checkpoint = open_checkpoint(init, trust)
    if not checkpoint.imported:
        return Config()
    rate = checkpoint.config.train.adamw_lr
    log(f"--init {init} was imported: its configuration is taken, for fine-tuning (AdamW at {rate:g})")
    return checkpoint.config


def _require_alone(options: argparse.Namespace) -> None:
    """--resume goes with nothing that a run has stored."""
    stored = ("config", "objective", "init", "seed", "batch", "precision", "set")
    if given := [name for name in stored if getattr(options, name) not in (None, [])]:
        raise UserError(
            f"--{given[0]} does not go with --resume: a run continues with its own settings: leave it out, "
            "or begin a new run with its weights (--init RUN)"
        )
