"""`markovae train`."""

from __future__ import annotations

import argparse

from markovae.cli.parser import positive, whole
from markovae.errors import UserError


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of this command."""
    command.add_argument(
        "data",
        nargs="?",
        metavar="DATA",
        help="faces, digits, a folder of images (sub-folders are classes), or an .npy, .npz or idx file; "
        "not needed with --resume",
    )
    command.add_argument("--out", required=True, metavar="RUN", help="folder of the run")
    budget = command.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=positive, help="budget in minutes (5 if no budget is named)")
    budget.add_argument("--steps", type=whole(1), help="budget in steps")
    command.add_argument("--config", metavar="F.toml", help="settings to start from, as in a run's config.toml")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="a.b=c",
        dest="settings",
        help="change one setting, for instance schedule.kind=cosine; may be given often",
    )
    command.add_argument("--resume", action="store_true", help="go on with the run in --out where it stopped")
    command.add_argument("--init", metavar="RUN", help="start from the weights of another run")
    command.add_argument("--no-report", action="store_true", help="leave report.html out at the end")
    group = command.add_argument_group("machine")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps …")
    group.add_argument("--precision", choices=("auto", "float32", "bfloat16"), help="as --set train.precision=…")
    group.add_argument("--batch", type=whole(1), help="as --set train.batch=…")


def run(options: argparse.Namespace) -> int:
    """Train, then write the report."""
    from markovae.cli.device import chosen_device
    from markovae.report import write_report
    from markovae.run import resume_run, train_run

    device = chosen_device(options.device)
    if options.resume:
        _refuse_with_resume(options)
        folder = resume_run(options.out, steps=options.steps, minutes=options.minutes, device=device)
    else:
        folder = train_run(_config(options), options.out, init=options.init, device=device)
    if not options.no_report:
        write_report(folder, device=device)
    return 0


def _config(options: argparse.Namespace):  # type: ignore[no-untyped-def]
    from markovae.config import Config

    config = Config.from_toml(options.config) if options.config else Config()
    if options.data is None and not options.config:
        raise UserError("DATA is missing: name faces, digits, a folder of images or an array file")
    given = {
        "data.source": options.data,
        "train.minutes": options.minutes,
        "train.steps": options.steps,
        "train.precision": options.precision,
        "train.batch": options.batch,
    }
    flags = [f"{name}={value}" for name, value in given.items() if value is not None]
    return config.with_settings([*flags, *options.settings])


def _refuse_with_resume(options: argparse.Namespace) -> None:
    fixed = {
        "--config": options.config,
        "--set": options.settings,
        "--init": options.init,
        "--precision": options.precision,
        "--batch": options.batch,
    }
    for flag, value in fixed.items():
        if value:
            raise UserError(f"{flag} cannot change a run that is resumed: leave it out, or start a new run with --init")
