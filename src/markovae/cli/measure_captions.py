"""`markovae measure --captions`: what captions say about images, in nats."""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from markovae.cli.measure_data import Chosen
from markovae.cli.output import table
from markovae.cli.running import Opened
from markovae.errors import UserError
from markovae.likelihood.caption_information import DIFFERENCE, INFORMATION, caption_information
from markovae.likelihood.estimators import Estimator

DEFAULT_LIMIT, DEFAULT_CANDIDATES, DEFAULT_DRAWS, DEFAULT_BATCH = 300, 16, 8, 64
ALONE = ("against", "continuous", "ode", "csv", "save", "levels")  # what does not go with it


def check_captions(options: argparse.Namespace) -> None:
    """Refuse what does not go with --captions.

    Raises:
        UserError: naming it.
    """
    for name in ALONE:
        if getattr(options, name) not in (None, False):
            raise UserError(f"--captions weighs each image's own caption and takes no --{name}: leave it out")
    for name, plain in (("estimator", "stratified"), ("grid", "even"), ("variance", "own"), ("replicates", 1)):
        if getattr(options, name) != plain:
            raise UserError(f"--captions draws levels evenly on the run's own grid and takes no --{name}: leave it out")


def weigh(opened: Opened, chosen: Chosen, options: argparse.Namespace) -> dict[str, Any]:
    """The JSON object.

    Raises:
        UserError: for a run without captions, images without any, or too few.
    """
    began, data, limit = time.monotonic(), chosen.data, options.limit or DEFAULT_LIMIT
    if opened.model.text_conditioner is None:
        raise UserError(f"--captions needs a model of captions, and {opened.path} was trained without: leave it out")
    if not opened.checkpoint.config.train.label_dropout:
        raise UserError(
            f"{opened.path} never trained without captions (train.label_dropout=0): what it makes of images without "
            "them means nothing"
        )
    if data.captions is None or not any(map(str.strip, data.captions[:limit])):
        raise UserError(f"{data.name} has no captions: bring captioned images, or leave --captions out")
    draws = DEFAULT_DRAWS if options.draws is None else options.draws
    found = caption_information(
        opened.model,
        np.asarray(data.images[:limit]),
        data.captions[:limit],
        candidates=options.candidates or DEFAULT_CANDIDATES,
        estimator=Estimator(None if draws == "all" else draws),
        seed=options.seed,
        batch=options.batch or DEFAULT_BATCH,
    )
    made = opened.checkpoint
    return {
        "schema_version": 1,
        **found.to_dict(),
        "draws": draws,
        "seed": options.seed,
        "images": [
            {"image": number, "caption": text, "nats": nats}
            for number, text, nats in zip(found.places, found.captions, found.difference.tolist(), strict=True)
        ],
        "data": {"source": chosen.source, "split": chosen.split, "matches_run": chosen.matches},
        "checkpoint": {"path": str(made.path), "step": made.step, "digest": made.digest},
        "encoder": {key: made.text[key] for key in ("encoder", "sha256")},
        "precision": opened.precision,
        "device": str(opened.model.device),
        "seconds": time.monotonic() - began,
    }


def captions_in_words(record: dict[str, Any]) -> str:
    """The figures, each with what it means."""
    bits, lower = record["bits_per_dim"], record["information_lower_bound"]
    difference = record["bound_difference"]
    lines = [
        f"{record['n']:,} captioned images ({record['data']['split']} part of {record['data']['source']})",
        table(
            [
                ("with captions", said(bits["with_caption"], 4), "bits/dim"),
                ("without", said(bits["without_caption"], 4), "bits/dim"),
                ("bound difference", said(difference["nats"], 2), "nats an image"),
                ("", said(difference["bits_per_dim"], 4), "bits/dim"),
                ("information, at least", said(lower["nats"], 3), f"nats an image, on {lower['n']:,} images"),
            ]
        ),
        f"  {DIFFERENCE}.",
        f"  {INFORMATION.format(k=lower['candidates'], ceiling=lower['ceiling_nats'])}.",
    ]
    if record["phrases"]:
        rows = [(row["phrase"], said(row["nats"], 2), f"nats ({row['n']:,} images)") for row in record["phrases"]]
        lines += ["what leaving a phrase out of the caption costs, a bound difference too:", table(rows)]
    if record["attributes"]:
        rows = [
            (row["attribute"], _percent(row), f"by chance {100 * row['chance']:.0f} % ({row['n']:,} images)")
            for row in record["attributes"]
        ]
        lines += ["how often the bound tells the own value of an attribute from the others:", table(rows)]
    lines.append(
        f"{record['draws']} levels drawn a bound, {record['network_calls']:,} network calls, seed {record['seed']}, "
        f"{record['seconds']:.0f} s"
    )
    return "\n".join(lines)


def said(figure: dict[str, Any], digits: int) -> str:
    """mean ± stderr."""
    error = "" if figure["stderr"] is None else f" ± {figure['stderr']:.{digits}f}"
    return f"{figure['mean']:.{digits}f}{error}"


def _percent(row: dict[str, Any]) -> str:
    error = f" ± {100 * row['stderr']:.1f}" if row["stderr"] else ""  # of all right or all wrong nothing is spread
    return f"{100 * row['accuracy']:.1f}{error} %"
