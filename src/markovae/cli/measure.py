"""`markovae measure`."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from markovae.cli.parser import add_device, add_json, whole
from markovae.errors import UserError

if TYPE_CHECKING:
    from markovae.checkpoint import Checkpoint
    from markovae.data.images import ImageData

SPLITS = ("train", "validation", "test")


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of this command."""
    command.add_argument("run_folder", metavar="RUN", help="a run, or one of its checkpoints")
    command.add_argument("data", nargs="?", metavar="DATA", help="other data than the run's own")
    command.add_argument("--split", choices=SPLITS, default="test", help="which part of the data")
    command.add_argument("--levels", type=whole(1), help="measure on so many of the model's levels")
    command.add_argument(
        "--draws", type=_draws, default=16, metavar="M", help="levels drawn an image, or `all` (one network call each)"
    )
    command.add_argument("--limit", type=whole(1), help="the first so many images only")
    command.add_argument("--seed", type=int, default=0, help="of the draws")
    add_json(command)
    add_device(command)


def _draws(text: str) -> int | None:
    return None if text == "all" else whole(1)(text)  # type: ignore[no-any-return]


def run(options: argparse.Namespace) -> int:
    """Measure the bound and print it."""
    from markovae.cli.device import open_model
    from markovae.console import say, track
    from markovae.likelihood import finish, measuring

    checkpoint, model = open_model(options.run_folder, options)
    data = _data(options, checkpoint)
    labels = data.labels if getattr(model.network, "num_classes", 0) else None
    work = measuring(
        model, data.images, labels, options.draws, options.levels, options.limit, options.seed, options.batch
    )
    first = next(work)
    say(f"measuring {options.split} images of {options.data or checkpoint.config.data.source}")
    batches = -(-first.total // options.batch)

    def all_of_it():  # type: ignore[no-untyped-def]
        yield first
        yield from work

    drawn = list(track(all_of_it(), "measuring", batches))
    record = finish(model, drawn, options.seed, options.levels).to_dict()
    print(json.dumps(record, allow_nan=False) if options.json else describe(record))
    return 0


def describe(record: dict[str, Any]) -> str:
    """A measurement in words."""
    bits, nats = record["bits_per_dim"], record["nats"]
    terms = record["terms_bits_per_dim"]
    spread = (
        "one image has no standard error"
        if bits["stderr"] is None
        else f"± {bits['stderr']:.4f} (95 % {bits['ci95'][0]:.4f} … {bits['ci95'][1]:.4f})"
    )
    return "\n".join(
        [
            f"bits/dim  {bits['mean']:.4f} {spread}",
            f"  an upper bound on what an ideal coder with this model would spend on a pixel channel, "
            f"over {record['n']:,} images",
            f"nats      {nats['mean']:,.1f} an image of {record['dims']:,} dimensions",
            f"  prior           {terms['prior']:.5f}  what the noisiest level still knows of the image",
            f"  levels          {terms['levels']:.5f}  the denoising errors of levels 2…{record['levels']}",
            f"  reconstruction  {terms['reconstruction']:.5f}  the digits, given level 1",
            f"{record['network_calls_per_example']} network calls an image, seed {record['seed']}",
        ]
    )


def _data(options: argparse.Namespace, checkpoint: Checkpoint) -> ImageData:
    from markovae.data import load_data, reopen

    own = checkpoint.config.data
    if options.data is None or options.data == own.source:
        splits = reopen(own, checkpoint.state["data"])
    else:
        channels, height, width = checkpoint.shape
        splits = load_data(
            replace(
                own,
                source=options.data,
                size=height,
                width=0 if width == height else width,
                channels="grey" if channels == 1 else "rgb",
            )
        )
    data: ImageData = getattr(splits, options.split)
    if data.bins != int(checkpoint.state["bins"]):
        raise UserError(
            f"the data have {data.bins} grey values a pixel and the model {checkpoint.state['bins']}: "
            "measure data of the same kind"
        )
    return data
