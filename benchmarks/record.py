"""A record: a run's bits/dim on official test images, with all that repeats it; and the check of somebody else's.

    python benchmarks/record.py cifar10 --minutes 60 --seed 0 --out runs/record [--images N] [--enter NAME]
    python benchmarks/record.py --check runs/record [--sample 24]

Trains by a recipe (or continues, or takes what is finished), measures every test image or the first N of them, and
writes RUN/record.json and RUN/record.csv, one row per image; --enter also keeps the record as
docs/results/record_NAME.json, from which `python benchmarks/pages.py` makes docs/records.md.

The check believes nothing that it can repeat: the bundle's hashes, the configuration, the split and the hashes of the
data, that no test image is trained on, that the rows make the claim, and the rows of a few images drawn at random.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import secrets
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import markovae
from machine import RECORDS, processor
from markovae.checkpoints.manifest import read_bounded
from markovae.checkpoints.reading import LoadedRun, load_run
from markovae.config import PRESETS, Config, preset_settings
from markovae.data.images import ImageData
from markovae.data.loading import reopen
from markovae.data.split import Splits
from markovae.diffusion.bound import estimate_mean
from markovae.diffusion.markovian_vae import evaluating
from markovae.errors import UserError
from markovae.likelihood.estimators import Estimator, evaluate_nats, on_levels
from markovae.likelihood.evaluation_data import labels_for
from markovae.likelihood.inputs import checked_labels, conditions
from markovae.likelihood.measurement import estimate_dict
from markovae.likelihood.measuring import measure
from markovae.log import log, show
from markovae.run.start import resume_run, train_run
from markovae.run.surroundings import Surroundings
from markovae.strict_json import parse_object, shown
from markovae.system.files import make_folder, write_file
from markovae.tables import to_table

ROOT = Path(__file__).resolve().parent.parent
RECORD, ROWS = "record.json", "record.csv"
LARGEST = 1 << 25  # bytes of either file
BATCH = 64
MAX_DRAWS = 10_000
SAME = 1e-3  # of an image's nats: float32 on another processor differs by about 1e-5


def main(arguments: list[str] | None = None) -> int:
    options = parsed(arguments)
    try:
        if options.threads:
            torch.set_num_threads(options.threads)
        if options.check is not None:
            show(check(options.check, options.sample))
        else:
            record = enter(options)
            bits = record["bits_per_dim"]
            show(f"{bits['mean']:.3f} ± {bits['stderr']:.3f} bits/dim: {options.out / RECORD}")
    except UserError as error:
        log(str(error))
        return 2
    return 0


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A record: bits/dim on official test images, and its check.")
    parser.add_argument("data", metavar="DATA", nargs="?", help="as for `markovae train`, such as cifar10")
    parser.add_argument("--recipe", choices=PRESETS, default="bound", help="as for --objective (default: bound)")
    parser.add_argument("--minutes", type=float, default=60.0, help="of training (default: 60)")
    parser.add_argument("--steps", type=int, help="of training, instead of minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", metavar="A.B=C", action="append", default=[], help="one setting; repeatable")
    parser.add_argument("--out", metavar="RUN", type=Path, help="the run's folder: new, unfinished or finished")
    parser.add_argument("--images", type=int, help="the first N test images (default: all)")
    parser.add_argument("--draws", type=int, default=16, help="levels drawn per image (default: 16)")
    parser.add_argument("--levels", type=int, help="measure on K of the levels, at even strides (default: all)")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--enter", metavar="NAME", help="keep the record as docs/results/record_NAME.json")
    parser.add_argument("--note", default="", help="what else ran on the machine, for the record")
    parser.add_argument("--check", metavar="RUN", type=Path, help="check the record of a run")
    parser.add_argument("--sample", type=int, default=24, help="images that a check measures again (default: 24)")
    options = parser.parse_args(arguments)
    if options.check is None and (options.data is None or options.out is None):
        parser.error("name DATA and --out RUN, or --check RUN")
    return options


# -------------------- making one


def enter(options: argparse.Namespace) -> dict[str, Any]:
    """Train, measure, write; the record.

    Raises:
        UserError: for a setting, data or a folder that will not do, or test images that are trained on.
    """
    run = trained(options)
    opened = load_run(run, device="cpu", precision="float32")
    parts = parts_of(opened)
    limit, draws, levels = options.images, options.draws, options.levels
    found = measure(opened.model, parts.test, draws=draws, levels=levels, limit=limit, batch=BATCH, progress=True)
    figures = found.to_dict()
    record = {
        "schema_version": 1,
        "command": f"python benchmarks/record.py {words(options)}",
        "data": data_facts(parts),
        **{name: figures[name] for name in ("n", "bits_per_dim", "terms_bits_per_dim")},
        "method": {name: figures[name] for name in ("levels", "estimator", "network_calls_per_example", "seed")}
        | {"draws": options.draws, "subgrid": options.levels, "measuring_seconds": round(found.seconds, 1)},
        "training": training_facts(opened)
        | {"settings": changed(to_table(opened.checkpoint.config), to_table(Config()))},
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "cores_allowed": len(os.sched_getaffinity(0)),
            "threads": torch.get_num_threads(),
            "note": options.note,
        },
        "software": {
            "markovae": markovae.__version__,
            "commit": commit(),
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    }
    text = (json.dumps(record, indent=1, allow_nan=False) + "\n").encode()
    write_file(run / ROWS, found.to_csv().encode())
    write_file(run / RECORD, text)
    if options.enter:
        make_folder(RECORDS)
        write_file(RECORDS / f"record_{options.enter}.json", text)
    return record


def trained(options: argparse.Namespace) -> Path:
    """The finished run: new, continued, or as it is."""
    if (options.out / "checkpoints").is_dir():
        return resume_run(options.out)
    budget = f"train.minutes={options.minutes}" if options.steps is None else f"train.steps={options.steps}"
    first = Config().with_settings([f"data.source={options.data}", budget, f"train.seed={options.seed}"])
    settings = preset_settings(options.recipe, first.schedule.kind)
    make_folder(options.out.parent)
    return train_run(first.with_settings([*settings, *options.set]), options.out, Surroundings())


def words(options: argparse.Namespace) -> str:
    """The options that make the record again."""
    budget = ["--minutes", f"{options.minutes:g}"] if options.steps is None else ["--steps", str(options.steps)]
    found = [options.data, "--recipe", options.recipe, *budget, "--seed", str(options.seed)]
    for setting in options.set:
        found += ["--set", setting]
    for name in ("images", "draws", "levels", "threads"):
        if getattr(options, name) is not None:
            found += [f"--{name}", str(getattr(options, name))]
    return shlex.join([*found, "--out", "RUN"])


def parts_of(opened: LoadedRun) -> Splits:
    """The parts of the run's data as they are on this machine: those that the run stored, no test image in training.

    Raises:
        UserError: for other data than the run's, or naming how many test images are trained on.
    """
    parts = reopen(opened.checkpoint.config.data, opened.checkpoint.split_record)
    parts.verify(opened.checkpoint.split_record)
    require_apart(parts.train, parts.test)
    return parts


def require_apart(train: ImageData, test: ImageData) -> None:
    """Refuse test images that are also trained on, by their content hashes.

    Raises:
        UserError: naming how many.
    """
    known = set(train.content_hashes())
    seen = sum(digest in known for digest in test.content_hashes())
    if seen:
        raise UserError(f"{seen:,} of the {len(test):,} test images are trained on: that is no record")


def data_facts(parts: Splits) -> dict[str, Any]:
    """The data set by name, counts and SHA-256 of its parts."""
    record = parts.record()
    return {
        "name": parts.train.name,
        "split": parts.method,
        "shape": list(parts.train.shape),
        **{name: record[name] for name in ("train", "validation", "test")},
    }


def training_facts(opened: LoadedRun) -> dict[str, Any]:
    """What the checkpoint says of its training; the digest is of the configuration too."""
    state, config = opened.checkpoint.state, opened.checkpoint.config
    return {
        "digest": opened.checkpoint.digest,
        "steps": opened.checkpoint.step,
        "images_seen": state["images_seen"],
        "seconds": state["seconds"],
        "precision": state["precision"],
        "weights": sum(weight.numel() for weight in opened.model.network.parameters()),
        "given": "class" if opened.num_classes else "nothing",
        "seed": config.train.seed,
    }


def changed(here: Mapping[str, Any], default: Mapping[str, Any], inside: str = "") -> dict[str, Any]:
    """The settings that differ from the defaults, by full name; the data's place is this machine's own."""
    found: dict[str, Any] = {}
    for name, value in here.items():
        if isinstance(value, Mapping):
            found |= changed(value, default.get(name) or {}, f"{inside}{name}.")
        elif value != default.get(name) and f"{inside}{name}" != "data.source":
            found[f"{inside}{name}"] = value
    return found


def commit() -> str | None:
    """The commit of this repository, or None outside one."""
    try:
        found = subprocess.run(
            ["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return found.stdout.strip() or None


# -------------------- checking one


def check(run: Path, sample: int) -> str:
    """What was checked, in a sentence.

    Args:
        sample: images measured again, drawn at random.
    Raises:
        UserError: for the first thing that is not as the record says.
    """
    opened = load_run(run, device="cpu", precision="float32")  # the bundle's manifest is verified here
    record, totals = read_claim(run)
    parts = parts_of(opened)
    same("data", record["data"], data_facts(parts))
    same("training", record["training"], training_facts(opened))
    # Each against its value, for defaults change from version to version.
    settings, every = record["training"].get("settings"), changed(to_table(opened.checkpoint.config), {})
    claimed = settings if isinstance(settings, dict) else {}
    same("settings", claimed, {name: every.get(name) for name in claimed})
    n, dims = len(totals), opened.model.dims
    if record["n"] != n or n > len(parts.test):
        raise UserError(f"{run / ROWS} has {n:,} rows, the record n={shown(record['n'])} of {len(parts.test):,} images")
    claim, rows = record["bits_per_dim"], estimate_dict(estimate_mean(totals).scaled(1 / dims / np.log(2)))
    for name in ("mean", "stderr"):
        if abs(claim[name] - rows[name]) > 1e-6:
            raise UserError(f"the record claims {name} {claim[name]:.4f} bits/dim, and its rows make {rows[name]:.4f}")
    places = torch.tensor(sorted(secrets.SystemRandom().sample(range(n), min(sample, n))))
    again = measured_again(opened, parts.test, record["method"], n, places)
    off = (again - totals[places]).abs() / totals[places].abs()
    if not bool((off < SAME).all()):
        worst = int(off.argmax())
        raise UserError(
            f"test image {int(places[worst]):,} costs {float(again[worst]):.1f} nats here and "
            f"{float(totals[places[worst]]):.1f} in {run / ROWS}: the record is not of this run"
        )
    return (
        f"{run}: {claim['mean']:.3f} ± {claim['stderr']:.3f} bits/dim on {n:,} of {len(parts.test):,} test images of "
        f"{parts.test.name}: bundle, configuration, data and {len(places)} images measured again agree "
        f"(to {float(off.max()):.1e}); wall time and machine are as the record says them"
    )


def read_claim(run: Path) -> tuple[dict[str, Any], Tensor]:
    """The record and the nats of its rows, (n,), float64.

    Raises:
        UserError: for files that are missing, too large or not what this writes.
    """
    for name in (RECORD, ROWS):
        if not (run / name).is_file():
            raise UserError(f"{run} has no {name}: benchmarks/record.py DATA --out {run} writes it")
    try:
        record = parse_object(read_bounded(run / RECORD, LARGEST))
        for name in ("data", "training", "method", "bits_per_dim"):
            if not isinstance(record.get(name), dict):
                raise ValueError(f"has no {name}")
        if not all(isinstance(record["bits_per_dim"].get(name), float) for name in ("mean", "stderr")):
            raise ValueError("has no bits_per_dim with a standard error")
    except ValueError as error:
        raise UserError(f"{run / RECORD} {error}: write it by benchmarks/record.py") from None
    try:
        rows = [
            float(row["total_nats"]) for row in csv.DictReader(read_bounded(run / ROWS, LARGEST).decode().splitlines())
        ]
        totals = torch.tensor(rows, dtype=torch.float64)
        if len(totals) < 2 or not bool(totals.isfinite().all()):
            raise ValueError("too few, or NaN or Inf")
    except (ValueError, KeyError, TypeError, csv.Error):
        raise UserError(f"{run / ROWS} is not a table of total_nats: write it by benchmarks/record.py") from None
    return record, totals


def same(what: str, claimed: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raises: UserError naming the first entry that differs."""
    for name, value in here.items():
        if claimed.get(name) != value:
            raise UserError(
                f"the record's {what} has {name}={shown(claimed.get(name))}, and this run {shown(value)}: it is not "
                "of this run"
            )


def measured_again(opened: LoadedRun, test: ImageData, method: Mapping[str, Any], n: int, places: Tensor) -> Tensor:
    """The nats of some of the n images that were measured, by the same levels and noise, (len(places),), float64.

    Raises:
        UserError: for a method that this does not repeat.
    """
    draws, seed, levels = (method.get(name) for name in ("draws", "seed", "subgrid"))
    whole = all(isinstance(number, int) for number in (draws, seed, levels or 1))
    if not whole or method.get("estimator") != "stratified" or not 1 <= draws <= MAX_DRAWS:
        raise UserError(f"the record's method {shown(dict(method))} is none of stratified draws, which can be repeated")
    model, labels = on_levels(opened.model, levels), labels_for(opened, test)
    known = checked_labels(labels, len(test))
    images = torch.as_tensor(np.asarray(test.images))
    every = Estimator(draws).evaluations(model.num_levels, n, seed)
    chosen, nats = every[torch.isin(every.image, places)], []
    with evaluating(model), torch.no_grad():
        for begin in range(0, len(chosen), BATCH):
            part = chosen[begin : begin + BATCH]
            given = conditions(model, None if known is None else known[part.image])
            nats.append(evaluate_nats(model, model.to_x(images[part.image]), part, given, seed))
        prior = model.prior_nats(model.to_x(images[places])).double()
    return prior.index_add(0, torch.searchsorted(places, chosen.image), torch.cat(nats) * chosen.weight)


if __name__ == "__main__":
    raise SystemExit(main())
