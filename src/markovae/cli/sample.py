"""`markovae sample`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from markovae.cli.parser import add_device, whole
from markovae.errors import UserError

if TYPE_CHECKING:
    from markovae.checkpoint import Checkpoint


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of this command."""
    command.add_argument("run_folder", metavar="RUN", help="a run, or one of its checkpoints")
    command.add_argument("--n", type=whole(1), default=64, help="how many images")
    command.add_argument(
        "--steps", type=whole(1), default=None, help="network calls an image; none named: 20, or all L of ancestral"
    )
    command.add_argument("--sampler", default="dpmpp2m", help="dpmpp2m, ddim, ancestral, heun, unipc2 …")
    command.add_argument("--seed", type=int, default=0, help="image i depends on the seed and i alone")
    command.add_argument("--class", dest="label", metavar="K", help="a class, by name or number")
    command.add_argument("--guidance", type=float, default=1.0, help="weight of the class; 1 is the model itself")
    command.add_argument("--out", metavar="DIR", help="folder for the images; none named: one in RUN/samples")
    add_device(command)


def run(options: argparse.Namespace) -> int:
    """Draw the images and write them."""
    import torch

    from markovae.cli.device import open_model
    from markovae.console import say, track
    from markovae.report.images import write_samples
    from markovae.sampling import Guidance, draw_batches, evaluating, plan, to_images

    checkpoint, model = open_model(options.run_folder, options)
    chosen = plan(model, options.sampler, options.steps)
    label = class_number(options.label, checkpoint)
    target = _target(options, chosen.calls)
    labels = None if label is None else torch.tensor(label)
    batches = draw_batches(
        model,
        options.n,
        chosen,
        seed=options.seed,
        batch=options.batch,
        labels=labels,
        guidance=Guidance(options.guidance),
    )
    count = -(-options.n // options.batch)
    with evaluating(model), torch.no_grad():
        parts = [to_images(model, x.cpu()) for x in track(batches, f"sampling {options.n} images", count)]
    facts = {
        "seed": str(options.seed),
        "sampler": options.sampler,
        "network_calls": str(chosen.calls),
        "checkpoint": checkpoint.digest,
    }
    write_samples(target, parts, model.pixels.bins, facts, label)
    say(f"{options.n} images, grid.png and samples.npz are in {target}")
    return 0


def class_number(name: str | None, checkpoint: Checkpoint) -> int | None:
    """A class named by name or number.

    Raises:
        UserError: where the model has no classes, or not this one.
    """
    if name is None:
        return None
    names = checkpoint.class_names if checkpoint.config.network.classes else ()
    if not names:
        raise UserError(f"--class {name}: this model was trained without labels; leave --class out")
    if name in names:
        return names.index(name)
    if name.isdecimal() and int(name) < len(names):
        return int(name)
    listed = ", ".join(names[:20]) + (" …" if len(names) > 20 else "")
    raise UserError(f"--class {name} is unknown: this model has {len(names)} classes: {listed}")


def _target(options: argparse.Namespace, calls: int) -> Path:
    if options.out is not None:
        target = Path(options.out)
    else:
        label = "" if options.label is None else f"-class-{options.label}"
        name = f"{options.sampler}-{calls}-seed-{options.seed}-n-{options.n}{label}"
        target = Path(options.run_folder) / "samples" / name
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is not empty: name another folder with --out")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{target} cannot be made ({error.strerror}): name another folder with --out") from None
    return target
