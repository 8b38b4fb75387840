"""The rows of metrics.jsonl and the levels' nats as curves with few points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from markovae.data.pictures import Images, viewable
from markovae.diffusion.forward import step
from markovae.diffusion.model import Diffusion
from markovae.likelihood.measurement import Measurement, finite
from markovae.likelihood.statistics import RatePoint, collect_level_statistics, rate_distortion
from markovae.networks.conditioning import Condition, Conditioning
from markovae.randomness import Streams
from markovae.sampling.generation import to_images

POINTS = 150
LEVEL_POINTS = 30
FIGURES = ("mean", "stderr")


def training_curve(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Loss and nats against steps, averaged over at most POINTS intervals of the run."""
    train = [row for row in rows if row.get("kind") == "train"]
    curve = []
    for part in np.array_split(np.arange(len(train)), min(POINTS, len(train))) if train else []:
        chosen = [train[i] for i in part.tolist()]
        point = {name: math.fsum(row[name] for row in chosen) / len(chosen) for name in ("loss", "nats")}
        curve.append({"step": chosen[-1]["step"], "seconds": chosen[-1]["seconds"], **point})
    return curve


def heldout_curve(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The held-out bounds in bits/dim against steps."""
    return [
        {"step": row["step"], "seconds": row["seconds"], **{name: row["bits_per_dim"][name] for name in FIGURES}}
        for row in rows
        if row.get("kind") == "heldout"
    ]


def level_curve(measured: Measurement) -> list[dict[str, Any]]:
    """Mean nats of one level against log-SNR, in LEVEL_POINTS equal intervals of it, with standard errors.

    An interval averages its levels by their draws; its error takes the scatter of its levels for noise.
    """
    levels = measured.per_level
    if not levels:
        return []
    logsnr = np.array([level.logsnr for level in levels])
    edges = np.linspace(logsnr.max(), logsnr.min(), LEVEL_POINTS + 1)
    place = np.clip(np.searchsorted(-edges, -logsnr, side="right") - 1, 0, LEVEL_POINTS - 1)
    curve = []
    for interval in np.unique(place):
        inside = [levels[i] for i in np.flatnonzero(place == interval).tolist()]
        draws = np.array([level.draws for level in inside], np.float64)
        nats = np.array([level.nats for level in inside])
        mean = float((nats * draws).sum() / draws.sum())
        # Var of the weighted mean from the scatter of the levels' own means.
        spread = float((draws**2 * (nats - mean) ** 2).sum()) / draws.sum() ** 2
        stderr = math.sqrt(spread * len(inside) / (len(inside) - 1)) if len(inside) > 1 else None
        centre = float((logsnr[place == interval] * draws).sum() / draws.sum())
        curve.append({"logsnr": centre, "nats": mean, "stderr": stderr, "levels": len(inside)})
    return curve


KNOTS, LEAST_PER_IMAGE = 33, 8
COLUMNS = 9


@dataclass(frozen=True)
class RateCurve:
    """Rate against distortion, and images along the curve.

    Args:
        points: from level L to the exact image.
        shown: some of them.
        pictures: the network's predictions there, then the images themselves, (n, H, W, C) each.
    """

    points: tuple[RatePoint, ...]
    shown: tuple[RatePoint, ...]
    pictures: tuple[Images, ...]

    def to_dict(self) -> list[dict[str, Any]]:
        """The points, JSON-able."""
        return [
            {
                "level": point.level,
                "logsnr": finite(point.logsnr),
                "bits_per_dim": point.rate_bits_per_dim,
                "rmse": point.rmse,
            }
            for point in self.points
        ]


def rate_curve(model: Diffusion, images: Images, labels: Any, pictured: int) -> RateCurve:
    """The curve of images that were never trained on, with pictures of the first few.

    Args:
        images: pixel values, (n, C, H, W).
        labels: theirs, where the model takes them.
        pictured: how many.
    """
    options: dict[str, Any] = {"least": LEAST_PER_IMAGE, "knots": KNOTS, "seed": 0}
    found = collect_level_statistics(model, np.asarray(images), labels, **options)
    points = rate_distortion(model, found)
    shown = spread(points)
    some, given = np.asarray(images[:pictured]), None if labels is None else labels[:pictured]
    pictures = predictions(model, some, given, [point.level for point in shown[:-1]])
    return RateCurve(points, shown, (*pictures, viewable(some, model.pixels.bins)))


def spread(points: tuple[RatePoint, ...]) -> tuple[RatePoint, ...]:
    """Up to COLUMNS points evenly apart in the logarithm of the distortion, the exact image last."""
    inner = points[:-1]
    distortion = np.log([max(point.rmse, 1e-9) for point in inner])
    wanted = np.linspace(distortion[0], distortion.min(), COLUMNS - 1)
    places = sorted({int(np.abs(distortion - at).argmin()) for at in wanted})
    return (*(inner[i] for i in places), points[-1])


@torch.no_grad()
def predictions(model: Diffusion, images: Images, labels: Any, levels: Sequence[int]) -> list[Images]:
    """x̂ of each image at falling levels of one draw of its encoder's chain, as pictures."""
    grid, x = model.schedule.logsnr.detach(), model.to_x(torch.as_tensor(images)).cpu()
    condition = None
    if labels is not None:
        known = labels if isinstance(labels, Conditioning) else Condition(label=torch.as_tensor(labels).long())
        condition = known.condition().to(model.device)
    z, previous, found = x, 0, []
    for level in reversed(levels):
        source = Streams(0, "report progress", range(len(x)), level)
        z, previous = step(z, grid[previous], grid[level]).sample(source), level
        logsnr = grid[level].to(model.device).expand(len(x))
        x_hat = model.denoise(z.to(model.device), logsnr, condition)
        found.append(viewable(to_images(model, x_hat), model.pixels.bins))
    return found[::-1]
