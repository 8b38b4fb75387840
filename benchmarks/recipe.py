"""The recipe for likelihood against Ho et al.'s, at equal wall time: bits/dim of unseen images, paired.

    python benchmarks/recipe.py DATA --minutes 30 [--images 1000] [--set A.b=C …] [--out docs/results/recipe_faces.json]
    python benchmarks/recipe.py faces --base "one stage" --arms "two stages" --minutes 10 --set data.size=64

Every arm trains the same network on the same data for the same time, one after the other, with nothing looked at on
the way; then each is measured on the test images, and its bits/dim are compared with the base's image by image. Arms of
stages are the same recipe for a model of one stage and for cascades. Runs lie in the cache folder under the hash of
their configuration: an interrupted one goes on where it stopped.
Keep the machine to itself while it trains: the budget is a time.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import torch

from machine import processor
from markovae.checkpoints.reading import load, open_checkpoint
from markovae.config import Config, preset_settings
from markovae.data.cache import cache_folder
from markovae.data.loading import reopen
from markovae.errors import UserError
from markovae.likelihood.comparison import Comparison, compare
from markovae.likelihood.measurement import Measurement
from markovae.log import log
from markovae.run.start import resume_run, train_run
from markovae.system.files import make_folder, write_file

ROOT = Path(__file__).resolve().parent.parent
QUIET = ["train.evaluations=0", "train.grids=0", "train.save_minutes=1000"]
HO = ["schedule.kind=linear", "target.name=noise", "target.decoder=ho_small", *preset_settings("simple", "linear")]
BOUND = preset_settings("bound", "logsnr_linear")
ARMS = {
    "ho": HO,
    "ho, isotropic": [*HO, "target.reverse=isotropic", "target.decoder=step"],
    "default": [],
    "bound": BOUND,
    "bound, uniform law": [*BOUND, "train.level_sampling=uniform"],
    "bound, learned schedule": [*preset_settings("bound", "learned"), "schedule.kind=learned"],
}
EVEN = "train.level_sampling=auto"
STAGES = {
    "one stage": [*BOUND, "cascade.stages=1"],
    "one stage, uniform law": [*BOUND, EVEN, "cascade.stages=1"],
    "two stages": [*BOUND, "cascade.stages=2"],
    "two stages, uniform law": [*BOUND, EVEN, "cascade.stages=2"],
    "three stages": [*BOUND, "cascade.stages=3"],
}
SETTINGS = ARMS | STAGES


def main(arguments: list[str] | None = None) -> int:
    options = parsed(arguments)
    try:
        record = study(options)
    except UserError as error:
        log(str(error))
        return 2
    target = Path(options.out or ROOT / "docs" / "results" / f"recipe_{Path(options.data).name}.json")
    make_folder(target.parent)
    write_file(target, (json.dumps(record, indent=1) + "\n").encode())
    log(f"written: {target}")
    return 0


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The recipe for likelihood against Ho et al.'s at equal wall time.")
    parser.add_argument("data", metavar="DATA")
    parser.add_argument("--minutes", type=float, default=30.0, help="of training, each arm (default: 30)")
    parser.add_argument("--images", type=int, default=1000, help="test images measured (default: 1,000)")
    parser.add_argument("--draws", type=int, default=32, help="levels drawn an image (default: 32)")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), help="which (default: all but those of stages)")
    parser.add_argument("--base", default="ho", help="the arm that the others are compared with (default: ho)")
    parser.add_argument("--set", metavar="A.B=C", action="append", default=[], help="of every arm; repeatable")
    parser.add_argument("--out", help="the record (default: docs/results/recipe_DATA.json)")
    return parser.parse_args(arguments)


def study(options: argparse.Namespace) -> dict[str, Any]:
    """Train and measure every arm; the record."""
    unknown = [name for name in (options.base, *options.arms) if name not in SETTINGS]
    if unknown:
        raise UserError(f"arm {unknown[0]!r} is unknown: take some of {', '.join(map(repr, SETTINGS))}")
    # The default of color images depends on the objective, and every arm has the same network.
    same = "network.spectral=0"
    common = [f"data.source={options.data}", f"train.minutes={options.minutes:g}", same, *QUIET, *options.set]
    names = [options.base, *(name for name in options.arms if name != options.base)]
    runs = {name: trained(Config().with_settings([*SETTINGS[name], *common]), name) for name in names}
    base, arms = runs[options.base], {}
    for name in names:
        log(f"measuring {name}")
        arms[name] = arm(runs[name], compared(runs[name], base, options))
    words = f"{options.data} --minutes {options.minutes:g} --images {options.images} --draws {options.draws}"
    if options.base != "ho":
        words += f" --base {shlex.quote(options.base)}"
    if options.arms != list(ARMS):
        words += f" --arms {' '.join(shlex.quote(name) for name in names)}"
    words += "".join(f" --set {text}" for text in options.set)
    return {
        "schema_version": 1,
        "command": f"python benchmarks/recipe.py {words}",
        "data": options.data,
        "minutes": options.minutes,
        "settings": options.set,
        "draws": options.draws,
        "base": options.base,
        "machine": {"processor": processor(), "threads": torch.get_num_threads(), "system": platform.machine()},
        "arms": arms,
    }


def trained(config: Config, name: str) -> Path:
    """The finished run of a configuration, in the cache folder."""
    run = cache_folder() / f"recipe-{config.hash()}"
    log(f"training {name}: {run}")
    if (run / "checkpoints").is_dir():
        return resume_run(run)
    run.parent.mkdir(parents=True, exist_ok=True)
    return train_run(config, run)


def compared(run: Path, base: Path, options: argparse.Namespace) -> Comparison:
    """The run's bits/dim on the test images, and the base's on the same images by the same draws."""
    checkpoint = open_checkpoint(run)
    test = reopen(checkpoint.config.data, checkpoint.state["data"]).test
    images = np.asarray(test.images[: options.images])
    labels = None if test.labels is None else test.labels[: options.images]
    return compare(load(run), load(base), images, labels, draws=options.draws)


def arm(run: Path, found: Comparison) -> dict[str, Any]:
    """One arm's part of the record."""
    checkpoint = open_checkpoint(run)
    mine, difference = found.a, found.to_dict()["difference_bits_per_dim"]
    return {
        "digest": checkpoint.digest,
        "step": checkpoint.step,
        "images_seen": checkpoint.state["images_seen"],
        "weights": sum(value.numel() for value in checkpoint.tensors("ema").values()),
        "seconds": checkpoint.state["seconds"],
        "precision": checkpoint.state["precision"],
        **figures(mine),
        "less_than_base": {
            "mean": -difference["mean"],
            "stderr": difference["stderr"],
            "ci95": [-end for end in reversed(difference["ci95"])],
        },
    }


def figures(measured: Measurement) -> dict[str, Any]:
    """A measurement's part of the record."""
    record = measured.to_dict()
    return {name: record[name] for name in ("n", "bits_per_dim", "terms_bits_per_dim")}


if __name__ == "__main__":
    raise SystemExit(main())
