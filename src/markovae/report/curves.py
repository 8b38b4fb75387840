"""The rows of metrics.jsonl and the levels' nats as curves with few points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from markovae.likelihood import Measurement

POINTS = 150
LEVEL_POINTS = 30
FIGURES = ("mean", "stderr")


def training_curve(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Loss and nats against steps, averaged over at most POINTS stretches of the run."""
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
    """Mean nats of one level against log-SNR, in LEVEL_POINTS equal stretches of it, with standard errors.

    A stretch averages its levels by their draws; its error takes the levels' scatter within it for noise.
    """
    levels = measured.per_level
    if not levels:
        return []
    logsnr = np.array([level.logsnr for level in levels])
    edges = np.linspace(logsnr.max(), logsnr.min(), LEVEL_POINTS + 1)
    place = np.clip(np.searchsorted(-edges, -logsnr, side="right") - 1, 0, LEVEL_POINTS - 1)
    curve = []
    for stretch in np.unique(place):
        inside = [levels[i] for i in np.flatnonzero(place == stretch).tolist()]
        draws = np.array([level.draws for level in inside], np.float64)
        nats = np.array([level.nats for level in inside])
        mean = float((nats * draws).sum() / draws.sum())
        # Var of the weighted mean from the scatter of the levels' own means.
        spread = float((draws**2 * (nats - mean) ** 2).sum()) / draws.sum() ** 2
        stderr = math.sqrt(spread * len(inside) / (len(inside) - 1)) if len(inside) > 1 else None
        centre = float((logsnr[place == stretch] * draws).sum() / draws.sum())
        curve.append({"logsnr": centre, "nats": mean, "stderr": stderr, "levels": len(inside)})
    return curve
