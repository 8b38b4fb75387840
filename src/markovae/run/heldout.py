"""What a run evaluates while it trains: the held-out bound on a fixed draw, and sample grids."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from markovae.data.images import ImageData
from markovae.data.pictures import png, readable, tile, viewable
from markovae.data.split import Splits
from markovae.diffusion.cascade import Cascade, Model
from markovae.likelihood.measurement import LevelNats, Measurement
from markovae.likelihood.measuring import measure
from markovae.log import plus_minus
from markovae.networks.conditioning import Condition
from markovae.quality.memorization import measure_memorization
from markovae.sampling.generation import sample
from markovae.sampling.plans import default_steps
from markovae.strict_json import finite
from markovae.system.memory import within_memory
from markovae.training.train_config import TrainConfig

SEED = 20_240_229  # of the fixed draw: the same images, levels and noise in every run
BANDS = 5
GRID_SIDE = 4
COPIED = 0.8


def held_out_row(model: Model, data: ImageData, config: TrainConfig) -> dict[str, Any]:
    """The bound on the first images of `data`, on a draw that never changes: the figures of a row of metrics.jsonl.

    Args:
        model: with averaged weights.
        data: the validation part as the model knows it (`attach_conditioning`).
        config: eval_images and eval_draws are read.
    """
    images = np.asarray(data.images[: config.eval_images])
    known = None if data.known is None else data.known[: config.eval_images]
    at_batch = partial(measure, model, images, known, draws=config.eval_draws, seed=SEED)
    measured = within_memory(lambda size: at_batch(batch=size), config.batch)
    record = measured.figures()
    return {
        "n": record["n"],
        "bits_per_dim": {name: record["bits_per_dim"][name] for name in ("mean", "stderr")},
        "terms_bits_per_dim": record["terms_bits_per_dim"],
        "bands": stage_table(model, measured)
        if isinstance(model, Cascade)
        else band_table(measured, model.level_logsnr),
    }


def band_table(measured: Measurement, logsnr: torch.Tensor) -> list[dict[str, Any]]:
    """The levels' nats summed over bands of log-SNR, in bits per dim.

    A band with n levels of which m draws were taken costs n times the mean of those draws.
    Args:
        logsnr: the grid λ_0…λ_L.
    """
    levels = logsnr[2:]
    high, low = float(levels[0]), float(levels[-1])
    edges = [high + (low - high) * i / BANDS for i in range(BANDS + 1)]
    rows = []
    for index, (upper, lower) in enumerate(pairwise(edges)):
        last = index == BANDS - 1
        inside = [p for p in measured.per_level if p.level > 1 and _within(p, upper, lower, index == 0, last)]
        count = int(((levels < upper) | (index == 0)).logical_and((levels >= lower) | last).sum())
        draws = sum(p.draws for p in inside)
        nats = count * sum(p.nats * p.draws for p in inside) / draws if draws else math.nan
        rows.append({"logsnr": [upper, lower], "bits_per_dim": finite(nats / measured.dims / math.log(2))})
    return rows


def stage_table(model: Cascade, measured: Measurement) -> list[dict[str, Any]]:
    """`band_table` of a cascade: the levels' nats of each band, finest first, between its own log-SNRs."""
    assert measured.band_levels is not None, "a cascade's are there"
    means = (measured.band_levels.mean(0) / measured.dims / math.log(2)).tolist()
    rows = []
    for b in reversed(range(model.octaves + 1)):
        levels = model.stage(b).schedule.logsnr[2:] - model.units[b]
        rows.append({"logsnr": [float(levels[0]), float(levels[-1])], "bits_per_dim": finite(means[b])})
    return rows


def _within(level: LevelNats, upper: float, lower: float, first: bool, last: bool) -> bool:
    return (level.logsnr < upper or first) and (level.logsnr >= lower or last)


def sample_grid(model: Model, data: ImageData) -> tuple[bytes, np.ndarray[Any, Any]]:
    """PNG and pixel values of a square of samples 0…15 of seed 0: classes in turn, or captions of the first images.

    Args:
        data: the validation part as the model knows it.
    """
    count, condition = GRID_SIDE**2, None
    if data.conditioning is not None:
        condition = data.conditioning[torch.arange(count) % len(data)].condition()
    elif data.class_names:
        condition = Condition(label=torch.arange(count) % len(data.class_names))
    draw = partial(sample, model, count, steps=default_steps(model), seed=0, condition=condition)
    images = within_memory(lambda size: draw(batch=size), count)
    pictures = viewable(images, model.pixels.bins)
    return png(readable(tile(pictures, GRID_SIDE), pictures)), images


def copying_sentence(samples: np.ndarray[Any, Any], splits: Splits) -> str:
    """How near samples lie to training images, in words."""
    found = measure_memorization(samples, np.asarray(splits.validation.images), splits.train.images, splits.train.bins)
    said = "nothing is copied" if found.nearer.value < COPIED else "training images are being copied"
    return (
        f"P(copy) {found.nearer.value:.2f} ± {found.nearer.stderr:.2f}: {said} (0.5: samples are as near to training "
        "images as held-out images are; 1: all are nearer)"
    )


def heldout_sentence(row: dict[str, Any], before: dict[str, Any] | None, bins: int) -> str:
    """A held-out row in words."""
    now = row["bits_per_dim"]
    text = f"held-out bound {plus_minus(now, 3)} bits/dim"
    if before is None or before["bits_per_dim"]["mean"] is None:
        return f"{text} on {row['n']} images, the same draw each time; unmodelled pixels cost {math.log2(bins):.3g}"
    change = now["mean"] - before["bits_per_dim"]["mean"]
    return f"{text}, {'down' if change <= 0 else 'up'} {abs(change):.3f} since step {before['step']:,}"
