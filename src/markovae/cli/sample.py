"""`markovae sample`: images from a run, as PNGs, a grid and an array."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from markovae.cli.classes import as_named
from markovae.cli.options import add_json, add_machine, part_of, whole
from markovae.cli.output import counted, free_place
from markovae.cli.prompts import add_prompts
from markovae.cli.running import Opened, open_run
from markovae.cli.sampler import HELP, add_sampler
from markovae.errors import UserError
from markovae.log import show, show_json
from markovae.system.files import SYSTEM
from markovae.system.plain import require_plain

if TYPE_CHECKING:
    from markovae.cli.drawing import Drawn

SUMMARY = "draw images from a run"
DESCRIPTION = """\
Draw images from a run's averaged weights. Image i depends on the seed and on i, not on how many are drawn.
Writes 00000.png and so on, grid.png, and samples.npz (arr_0: images, N x H x W x C; arr_1: classes, and
prompts: texts, if any). Of several prompts each has a row of grid.png, with the same noise down each column.
"""
EXAMPLES = """\
examples:
  markovae sample runs/faces
  markovae sample runs/digits --class 7 --n 16 --out sevens
  markovae sample runs/faces --sampler ancestral --steps 1000 --seed 1
  markovae sample runs/digits --class 3 --guidance 2 --guidance-interval -3 4
  markovae sample runs/faces --sampler dpmpp2m --spacing tuned --steps 10
  markovae sample runs/text --prompt "a person with red curly hair and round glasses" --n 16 --guidance 1.5
  markovae sample runs/text --prompts lines.txt --n 8 --negative "a beard"     a row of 8 for each line
  markovae sample runs/faces --n 50000 --shard 3/8 --out part3     every eighth batch, from the third on
  torchrun --nproc-per-node 8 -m markovae sample runs/faces --n 50000     eight processes, the same images

"""
EXAMPLES += HELP


APART = 86_400.0  # seconds that processes may end apart: each draws its own part


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `markovae sample`."""
    parser.add_argument("run_path", metavar="RUN", help="a run's folder, or one of its checkpoints")
    parser.add_argument("--n", metavar="N", type=whole(1), help="how many images (default: 64), or of each prompt (8)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of every draw (default: 0)")
    parser.add_argument(
        "--class",
        dest="label",
        metavar="K",
        help="a class by name or number; all: each in turn (the default); none: whatever the model likes",
    )
    add_prompts(parser)
    add_sampler(parser)
    parser.add_argument(
        "--shard", metavar="I/N", type=part_of, help="draw only every N-th batch from the I-th on; numbers stay"
    )
    parser.add_argument("--out", metavar="DIR", help="a new or empty folder (default: a new one in RUN/samples)")
    add_json(parser)
    add_machine(
        parser,
        batch="images at a time (default: 64)",
        precision="auto (as trained where the device has it, the default), float32, bfloat16 or float64",
    )


def run(options: argparse.Namespace) -> int:
    """Draw and write; exit code 0.

    Raises:
        UserError: for what the model does not offer, or an --out that is not empty.
    """
    if options.out is not None:
        require_free(Path(options.out))
    else:
        require_plain(Path(options.run_path))
    from markovae.cli.drawing import draw
    from markovae.cli.sample_files import write_samples
    from markovae.system.distributed import joined

    opened = open_run(options, trained_in=True)
    with joined(APART, opened.model.device) as ranks:
        drawn = draw(opened, options, ranks)
    if not ranks.first:
        return 0
    target = Path(options.out) if options.out else _free_place(opened, options)
    target = write_samples(target, opened, drawn, options, SYSTEM if options.out else SYSTEM.inside(opened.path))
    _report(target, opened, drawn, options)
    return 0


def require_free(target: Path) -> None:
    """Nothing is overwritten.

    Raises:
        UserError: for a folder that holds anything, or a file.
    """
    if target.is_dir() and any(target.iterdir()):
        raise UserError(f"--out {target} is not empty: name a new folder, or empty it")
    if target.exists() and not target.is_dir():
        raise UserError(f"--out {target} is a file: name a folder")


def _free_place(opened: Opened, options: argparse.Namespace) -> Path:
    if not (opened.path / "checkpoints").is_dir():
        raise UserError(f"{opened.path} is a checkpoint and no run: name a folder for the samples with --out")
    name = f"{options.sampler}-{options.steps or 'auto'}-seed{options.seed}"
    name += f"-class{options.label}" if (options.label or "").isalnum() else ""
    return free_place(opened.path / "samples", name)


def _report(target: Path, opened: Opened, drawn: Drawn, options: argparse.Namespace) -> None:
    from markovae.sampling.generation import network_evaluations

    if options.json:
        record = {
            "schema_version": 1,
            "out": str(target),
            "n": len(drawn.images),
            "shape": list(drawn.images.shape[1:]),
            "bins": opened.model.pixels.bins,
            "shard": options.shard,
            "labels": None if drawn.labels is None else as_named(opened, drawn.labels).tolist(),
            "prompts": list(drawn.asked) or None,
            "negative": options.negative,
            "network_calls_per_sample": network_evaluations(drawn.chosen.plan, drawn.chosen.guidance),
            **drawn.chosen.facts,
            "seed": options.seed,
            "precision": opened.precision,
            "checkpoint": {
                "path": str(opened.checkpoint.path),
                "step": opened.checkpoint.step,
                "digest": opened.checkpoint.digest,
            },
            "seconds": drawn.seconds,
        }
        show_json(record)
        return
    facts, calls = drawn.chosen.facts, network_evaluations(drawn.chosen.plan, drawn.chosen.guidance)
    show(
        f"{counted(len(drawn.images), 'image')} in {drawn.seconds:.1f} s ({facts['sampler']}, "
        f"{counted(calls, 'network call')} each, seed {options.seed}{_classes_drawn(opened, drawn, options)})\n"
        f"{target / 'grid.png'}"
    )


def _classes_drawn(opened: Opened, drawn: Drawn, options: argparse.Namespace) -> str:
    """What was done about classes, where the run has any and none was named."""
    if not opened.num_classes or options.label not in (None, "all", "none"):
        return ""
    if drawn.labels is None or len(drawn.images) < 2:
        return ", without a class" if drawn.labels is None else ""
    return f", each of {opened.num_classes} classes in turn"
