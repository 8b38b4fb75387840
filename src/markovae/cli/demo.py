"""`markovae demo`: train on drawn faces, sample new ones, measure them in bits/dim, and write the report."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markovae.cli.options import add_machine, add_set, positive
from markovae.cli.train import finished
from markovae.log import log, show
from markovae.system.device import device_named

if TYPE_CHECKING:
    from markovae.config import Config

SUMMARY = "train, sample and measure faces in ten minutes"
DESCRIPTION = """\
Draw 12,000 cartoon faces of 128 pixels, train on them for a few minutes, sample new ones, measure the held-out ones
in bits/dim, and write the report. A demo that was stopped continues; one that is finished is shown again.
"""
EXAMPLES = """\
examples:
  markovae demo
  markovae demo --minutes 20 --out runs/demo-long
"""
DEFAULT_OUT = "runs/demo"
DEFAULT_MINUTES = 4.8
BATCH = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `markovae demo`."""
    parser.add_argument(
        "--minutes", metavar="M", type=positive, default=DEFAULT_MINUTES, help="train for M minutes (default: 4.8)"
    )
    parser.add_argument(
        "--out",
        metavar="RUN",
        help="the run's folder (default: runs/demo; runs/demo-2 and so on where that was run with other settings)",
    )
    add_set(parser, "data.size=32")
    add_machine(
        parser,
        batch="images per step (default: 16)",
        precision="auto (timed, the default), float32 or bfloat16",
        float64=False,
    )


def run(options: argparse.Namespace) -> int:
    """Train or continue, report, and show what came out; exit code 0.

    Raises:
        UserError: for settings that do not fit, or an --out that holds something else.
    """
    from markovae.run.start import resume, train

    device, config = device_named(options.device), configuration(options)
    out = run_folder(options.out, config)
    if _holds(out, config):
        log(f"continuing {out}, which was begun before (for a new one: markovae demo --out NAME)")
        resume(out, device=device)
    else:
        train(None, out, config, device=device)
    tell(out, finished(out, device))
    return 0


def configuration(options: argparse.Namespace) -> Config:
    """The demo's configuration: the defaults, for `minutes`.

    Raises:
        UserError: for a setting that does not exist or does not fit.
    """
    from markovae.config import Config

    # What a run would choose for the faces, said here, so that a demo that was stopped is known again.
    faces = not any(setting.startswith("data.source=") for setting in options.set)
    settings = [
        *(["data.size=128"] if faces else []),
        f"train.minutes={options.minutes}",
        "condition.kind=class",
        "train.preset=none",
        "network.blocks=1",
        "network.width=48",
        "network.head_dim=48",
        *options.set,
    ]
    settings.append(f"train.batch={options.batch or BATCH}")
    if options.precision is not None:
        settings.append(f"train.precision={options.precision}")
    return Config().with_settings(settings)


def run_folder(out: str | None, config: Config) -> Path:
    """--out, or the first of runs/demo, runs/demo-2, … that is free or holds a run of this very configuration."""
    if out is not None:
        return Path(out)
    path, number = Path(DEFAULT_OUT), 1
    while path.exists() and any(path.iterdir()) and not _holds(path, config):
        number += 1
        path = Path(f"{DEFAULT_OUT}-{number}")
    return path


def _holds(path: Path, config: Config) -> bool:
    from markovae.checkpoints.manifest import CheckpointError
    from markovae.checkpoints.reading import open_checkpoint

    if not (path / "checkpoints").is_dir():
        return False
    try:
        stored = open_checkpoint(path).config
    except CheckpointError:
        return False
    # What the run worked out by its images.
    stages = config.cascade.stages and stored.cascade.stages
    cascade = replace(stored.cascade, stages=stages, scales=config.cascade.scales)
    return replace(stored, cascade=cascade).hash() == config.hash()


def tell(path: Path, record: dict[str, Any]) -> None:
    """Where the pictures are, and what the faces cost."""
    from markovae.cli.output import headline
    from markovae.data.image_codecs import coded_count

    measured, codecs = record["measurement"], record["codecs"]
    show(
        f"\nfaces that did not exist:  {path / 'samples' / 'grid.png'}\n"
        f"the report, in a browser:  {path / 'report.html'}"
    )
    show(f"what held-out faces cost:  {headline(measured['bits_per_dim'])}, {measured['n']:,} images")
    coded = coded_count(measured["n"], record["data"]["shape"])
    of = "the same images" if coded == measured["n"] else f"the first {coded:,} of them"
    for row in codecs:
        if row["per_image_bits_per_dim"] is not None:
            show(f"  {of} as {row['name']}: {row['per_image_bits_per_dim']:.3f} bits/dim, one file each")
    show(f"more: markovae sample {path}, markovae measure {path}")
