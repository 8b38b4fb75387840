"""The rows of metrics.jsonl and the levels' nats as curves with few points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from markovae.data.pictures import Images, viewable
from markovae.diffusion.cascade import Cascade, Model
from markovae.diffusion.forward import noised, step
from markovae.diffusion.model import Diffusion
from markovae.likelihood.cascade_rate import cascade_rate_distortion
from markovae.likelihood.measurement import Measurement
from markovae.likelihood.statistics import RatePoint, collect_level_statistics, rate_distortion
from markovae.networks.conditioning import Condition, Conditioning
from markovae.randomness import Streams, normal_like
from markovae.sampling.generation import to_images
from markovae.strict_json import finite

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
CASCADE_IMAGES = 32  # of a cascade's larger ones
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


def rate_curve(model: Model, images: Images, labels: Any, pictured: int) -> RateCurve:
    """The curve of images that were never trained on, with pictures of the first few.

    Args:
        images: pixel values, (n, C, H, W).
        labels: theirs, where the model takes them.
        pictured: how many.
    """
    options: dict[str, Any] = {"least": LEAST_PER_IMAGE, "knots": KNOTS, "seed": 0}
    if isinstance(model, Cascade):
        images, labels = images[:CASCADE_IMAGES], None if labels is None else labels[:CASCADE_IMAGES]
        points = cascade_rate_distortion(model, np.asarray(images), labels, **options)
    else:
        points = rate_distortion(model, collect_level_statistics(model, np.asarray(images), labels, **options))
    shown = spread(points)
    some, given = np.asarray(images[:pictured]), None if labels is None else labels[:pictured]
    levels = [point.level for point in shown[:-1]]
    if isinstance(model, Cascade):
        pictures = cascade_predictions(model, some, given, levels)
    else:
        pictures = predictions(model, some, given, levels)
    return RateCurve(points, shown, (*pictures, viewable(some, model.pixels.bins)))


def spread(points: tuple[RatePoint, ...]) -> tuple[RatePoint, ...]:
    """Up to COLUMNS points evenly apart in the logarithm of the distortion, the exact image last."""
    inner = points[:-1]
    distortion = np.log([max(point.rmse, 1e-9) for point in inner])
    wanted = np.linspace(distortion[0], distortion.min(), COLUMNS - 1)
    places = sorted({int(np.abs(distortion - at).argmin()) for at in wanted})
    return (*(inner[i] for i in places), points[-1])


def _condition(model: Model, labels: Any) -> Condition | None:
    if labels is None:
        return None
    known = labels if isinstance(labels, Conditioning) else Condition(label=torch.as_tensor(labels).long())
    return known.condition().to(model.device)


@torch.no_grad()
def cascade_predictions(model: Cascade, images: Images, labels: Any, levels: Sequence[int]) -> list[Images]:
    """x̂ of each image at falling levels of a cascade, without the details of finer bands, as pictures in full size."""
    x, condition, found = model.to_x(torch.as_tensor(images)), _condition(model, labels), []
    bands = model.bands(x)
    for level, b, own in zip(levels, *(place.tolist() for place in model.locate(torch.tensor(levels))), strict=True):
        stage, source = model.stage(b), Streams(0, "report progress", range(len(x)), level)
        logsnr = stage.schedule.logsnr[own].to(model.device)
        z, given = noised(bands[b], normal_like(bands[b], source), logsnr), condition
        if b:
            image = model.means(x, b - 1)
            given = model.refining(condition, image, model.coarse_logsnr(b), normal_like(image, source))
        x_hat = stage.denoise(z, logsnr, given)
        whole = model.refined(model.means(x, b - 1), x_hat, b) if b else x_hat
        times = model.shape[-1] // whole.shape[-1]
        values = to_images(model, whole).repeat(times, -1).repeat(times, -2)
        found.append(viewable(values, model.pixels.bins))
    return found


@torch.no_grad()
def predictions(model: Diffusion, images: Images, labels: Any, levels: Sequence[int]) -> list[Images]:
    """x̂ of each image at falling levels of one draw of its encoder's chain, as pictures."""
    grid, x = model.schedule.logsnr.detach(), model.to_x(torch.as_tensor(images)).cpu()
    condition = _condition(model, labels)
    z, previous, found = x, 0, []
    for level in reversed(levels):
        source = Streams(0, "report progress", range(len(x)), level)
        z, previous = step(z, grid[previous], grid[level]).sample(source), level
        logsnr = grid[level].to(model.device).expand(len(x))
        x_hat = model.denoise(z.to(model.device), logsnr, condition)
        found.append(viewable(to_images(model, x_hat), model.pixels.bins))
    return found[::-1]
