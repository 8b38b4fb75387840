"""`markovae distill`: a run's student, which samples in one, two or four network evaluations."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path

from markovae.cli.options import add_budget, add_json, add_machine, add_run, add_set, add_trust, positive, whole
from markovae.cli.train import finished
from markovae.errors import UserError
from markovae.log import show_json
from markovae.system.lock import hold
from markovae.system.processes import current_rank

SUMMARY = "train a student that samples in 1, 2 or 4 network evaluations"
DESCRIPTION = """\
Distill a run into a student that samples in 1, 2 or 4 network evaluations (NFE). It starts from the run's averaged
weights and trains on its images. The student is an ordinary run: markovae train --resume continues it.
"""
EXAMPLES = """\
examples:
  markovae distill runs/faces --calls 2 --out runs/faces-2 --minutes 15
  markovae sample runs/faces-2 --n 64
  markovae measure runs/faces-2 --levels 4 --grid optimal --variance isotropic     # its chain of 4 steps, in bits/dim
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `markovae distill`."""
    add_run(parser, "the teacher: ")
    parser.add_argument(
        "--calls", metavar="K", type=whole(1), default=4, help="network evaluations per sample: 1, 2 or 4 (default: 4)"
    )
    parser.add_argument("--out", metavar="RUN2", required=True, help="the student's folder: new or empty")
    add_budget(parser, 15)
    parser.add_argument(
        "--guidance",
        metavar="W",
        type=positive,
        default=1.0,
        help="build guidance of this weight into the student (default: 1, none)",
    )
    add_set(parser, "train.lr=0.001")
    parser.add_argument("--no-report", action="store_true", help="end without report.html and report.json")
    add_json(parser)
    add_trust(parser)
    add_machine(
        parser,
        batch="images per step (default: the teacher's); the same as --set train.batch=N",
        precision="auto (timed), float32 or bfloat16 (default: the teacher's); the same as --set train.precision=NAME",
        float64=False,
    )


def run(options: argparse.Namespace) -> int:
    """Distill; exit code 0.

    Raises:
        UserError: for a run that is no teacher, or options that do not go together.
        StoppedRun: see `distill`.
    """
    if options.json and options.no_report:
        raise UserError("--json prints the report: leave --no-report out")
    out = Path(options.out)
    settings = [
        *(f"train.{name}={getattr(options, name)}" for name in ("batch", "precision") if getattr(options, name))
    ]
    with hold(out) if current_rank().first and out.is_dir() else nullcontext() as lock:
        from markovae.run.distilling import distill
        from markovae.system.device import device_named

        device = device_named(options.device)
        distill(
            options.run_path,
            out,
            options.calls,
            minutes=options.minutes,
            steps=options.steps,
            guidance=options.guidance,
            settings=[*settings, *options.set],
            trust=options.trust,
            device=device,
            held=lock,
        )
        if current_rank().first and not options.no_report:
            record = finished(out, device, None, options.trust)
            if options.json:
                show_json(record)
    return 0
