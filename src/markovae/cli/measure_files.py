"""What `markovae measure` writes: one row an image (--csv), and all of it into the run (--save)."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from markovae.checkpoints.reading import CHECKPOINTS
from markovae.cli.measure_work import Outcome
from markovae.data.pictures import png
from markovae.errors import UserError
from markovae.report.image_sheets import sheet
from markovae.system.files import SYSTEM, make_folder, staged_folder, write_file, write_synced
from markovae.system.plain import require_plain

FOLDER = "measurements"
# What names a measurement, so that the same question's answer takes its place and no other's.
QUESTION = ("estimator", "replicates", "grid", "reverse_variance", "n", "seed", "data", "precision")


def check_places(options: argparse.Namespace) -> None:
    """Refuse, before any work, files that cannot be written or that would be written into a run.

    Raises:
        UserError: naming the path and the remedy.
    """
    if options.save:
        require_plain(run_folder(options.run_path))
    if options.csv is None:
        return
    if options.csv.is_dir() or not options.csv.parent.is_dir():
        what = "is a folder" if options.csv.is_dir() else f"lies in {options.csv.parent}, which is no folder"
        raise UserError(f"--csv {options.csv} {what}: name a file in a folder that is there")
    for run in (options.run_path, options.against):
        if run is not None and Path(run).resolve() in options.csv.resolve().parents:
            raise UserError(f"--csv {options.csv} lies inside {run}, which measuring leaves as it is: take --save")


def run_folder(path: str) -> Path:
    """The run of a path that names it or one of its checkpoints.

    Raises:
        UserError: for a checkpoint that lies in no run.
    """
    given = Path(path)
    if (given / CHECKPOINTS).is_dir():
        return given
    if given.resolve().parent.name == CHECKPOINTS:
        return given.resolve().parent.parent
    raise UserError(f"--save keeps a measurement in its run, and {path} is a checkpoint outside any: take --csv")


def write_csv(path: Path, outcome: Outcome) -> None:
    """One row an image, nats; with --against, the other run's total and the difference too."""
    write_file(path, rows(outcome).encode())


def rows(outcome: Outcome) -> str:
    """The text of the file."""
    return outcome.measured.to_csv() if outcome.comparison is None else outcome.comparison.to_csv()


def save(outcome: Outcome, record: dict[str, Any], options: argparse.Namespace) -> Path:
    """Write RUN/measurements/NAME: record.json, images.csv and the sheets of extreme images; its path.

    Raises:
        UserError: where it cannot be written.
    """
    run = run_folder(options.run_path)
    target, disk = run / FOLDER / name_of(record), SYSTEM.inside(run)
    try:
        make_folder(target.parent, disk)
        with staged_folder(target, disk) as stage:
            text = json.dumps({**record, "saved": str(target)}, indent=1, allow_nan=False)
            write_synced(stage / "record.json", f"{text}\n".encode(), disk)
            write_synced(stage / "images.csv", rows(outcome).encode(), disk)
            for name, places in zip(("cheapest", "dearest"), outcome.measured.extremes(36), strict=True):
                picture = sheet(outcome.chosen.data.images, places.tolist(), outcome.opened.model.pixels.bins)
                write_synced(stage / f"{name}.png", png(picture), disk)
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror}): leave --save out, or take --csv") from None
    return target


def name_of(record: dict[str, Any]) -> str:
    """part-step-digest: another question, another name."""
    question = {name: record[name] for name in QUESTION} | {"against": record.get("against", {}).get("checkpoint")}
    question |= {"checkpoint": record["checkpoint"]["digest"], "calls": record["network_calls_per_example"]}
    question |= {"levels": record["levels"], "beyond": [name for name in ("continuous", "ode") if name in record]}
    digest = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:8]
    return f"{record['data']['split']}-{record['checkpoint']['step']:08d}-{digest}"
