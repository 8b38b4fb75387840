"""What training on would bring: the held-out bound extrapolated from the run's own curve; and memorizing, if it does.

The held-out bounds of a run follow, about, a power law in the area S under its learning rate, and fall once more as the
rate falls (the anneal a, from 0 to 1): b = c + A S^(−p) − C a. A run that continues has its rates stretched over its
new length: its area grows as its time does, and its anneal ends at 1 again. So a curve of one run tells of the next.

Source: Tissue et al. 2024, "Scaling law with learning rate annealing".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from markovae.log import duration
from markovae.system.jsonlines import is_figure

LEAST = 4  # held-out bounds behind the first steps
FIRST = 0.02  # of the area: what came before is the untrained network's
POWERS = np.geomspace(0.05, 2.0, 41)
NOISE = 0.004  # bits/dim by which a bound differs from the law, before the curve has told
DOUBT = 2.0  # bounds that this counts as
ANNEAL = 0.1  # of the fall so far: a priori size of the anneal's part
SAMPLES = 20_000
WIDEST = 1.0  # of the fall since the first of the bounds: an interval that is wider tells nothing
HOUR, SHORT = 3600.0, 20 * 60.0
RISE = 0.01  # bits/dim: the least rise that is called one

Row = Mapping[str, Any]
Numbers = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Outlook:
    """The held-out bound after training on.

    Args:
        seconds: how much longer.
        bits_per_dim: the median; None where it cannot be told.
        ci95: the interval, 95 %.
        bounds: held-out bounds that it is from.
        rise: since the least of them while the training loss fell, bits/dim; 0 where there is none.
        best_step: of the least.
    """

    seconds: float
    bits_per_dim: float | None
    ci95: tuple[float, float] | None
    bounds: int
    rise: float = 0.0
    best_step: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As in report.json."""
        return {
            "seconds": self.seconds,
            "bits_per_dim": self.bits_per_dim,
            "ci95": None if self.ci95 is None else list(self.ci95),
            "bounds": self.bounds,
            "rise": self.rise,
            "best_step": self.best_step,
            "sentence": self.sentence(),
        }

    def sentence(self) -> str:
        """In words."""
        if self.rise:
            return (
                f"the held-out bound has risen by {self.rise:.3f} bits/dim since step {self.best_step:,} while the "
                "training loss fell: the model memorizes; more images help, or train.keep_best=true, dropout and flips"
            )
        longer = "another hour" if self.seconds == HOUR else f"another {duration(self.seconds)}"
        if self.bits_per_dim is None or self.ci95 is None:
            return f"{longer}: cannot be told from {self.bounds} held-out bounds (train.evaluations=10 takes more)"
        low, high = self.ci95
        return f"{longer}: held-out bound {self.bits_per_dim:.2f} ({low:.2f} to {high:.2f}) bits/dim"


def outlook(rows: Sequence[Row]) -> Outlook | None:
    """The outlook of a run by the rows of its metrics.jsonl; None where it took no held-out bounds.

    As much longer as an hour, or as the run took where that was less than 20 minutes.
    """
    taken = [row for row in rows if row.get("kind") == "heldout" and row["bits_per_dim"]["mean"] is not None]
    train = [row for row in rows if row.get("kind") == "train" and is_figure(row.get("lr")) and row["lr"] > 0]
    if not taken or not train or not taken[-1]["seconds"] > 0 or not (_rises(taken) and _rises(train)):
        return None
    last = taken[-1]
    seconds = HOUR if last["seconds"] >= SHORT else float(last["seconds"])
    area, anneal = schedule_at(train, [row["step"] for row in taken])
    behind = area > FIRST * area[-1]
    bounds = np.array([row["bits_per_dim"]["mean"] for row in taken], np.float64)[behind]
    steps = np.array([row["step"] for row in taken])[behind]
    best = int(bounds.argmin())
    rise = float(bounds[-1] - bounds[best])
    if rise >= RISE and best <= len(bounds) - 3 and _loss_fell(train, int(steps[best])):
        return Outlook(seconds, None, None, len(bounds), rise, int(steps[best]))
    if len(bounds) < LEAST or not bounds[-1] < bounds[0]:
        return Outlook(seconds, None, None, len(bounds))
    longer = (last["seconds"] + seconds) / last["seconds"]
    made = extrapolate(area[behind] / area[-1], anneal[behind], bounds, longer)
    if made is None or made[2] - made[1] > WIDEST * (bounds[0] - bounds[-1]):
        return Outlook(seconds, None, None, len(bounds))
    return Outlook(seconds, made[0], (made[1], made[2]), len(bounds))


def schedule_at(train: Sequence[Row], steps: Sequence[int]) -> tuple[Numbers, Numbers]:
    """The area under the learning rate up to some steps, in steps of its highest rate, and 1 − rate/highest there.

    Args:
        train: rows of training, each with its step, rising, and learning rate, above 0.
    """
    at = np.array([0, *(row["step"] for row in train)], np.float64)
    rate = np.array([train[0]["lr"], *(row["lr"] for row in train)], np.float64)
    rate /= rate.max()
    area = np.concatenate([[0.0], np.cumsum(np.diff(at) * (rate[1:] + rate[:-1]) / 2)])
    after = at >= at[int(rate.argmax())]  # before it the rate rises: that is no anneal
    wanted = np.asarray(steps, np.float64)
    return np.interp(wanted, at, area), np.interp(wanted, at, np.where(after, 1 - rate, 0.0))


def extrapolate(area: Numbers, anneal: Numbers, bounds: Numbers, longer: float) -> tuple[float, float, float] | None:
    """The bound at an area `longer` times the last one's, annealed as far as there: median and 95 % interval.

    For each power p a Bayesian regression on (1, S^(−p), −a), whose predictive distribution is Student's t; powers
    count by their evidence. Powers whose law would rise, or end below 0 bits, do not count.

    Args:
        area: S, the last 1 or near, (n,).
        anneal: a, (n,).
        bounds: bits/dim, (n,).
    Returns: None where no power counts.
    """
    drop, n = float(bounds[0] - bounds.min()), len(bounds)
    weights, centers, scales = [], [], []
    for power in POWERS:
        # The law is c + A·x, x = S^(−p) scaled to its own range, so that priors mean the same for every power.
        x = area**-power
        spread = float(x.max() - x.min())
        if not spread > 0:
            return None
        design = np.stack([np.ones(n), (x - x[-1]) / spread, -anneal], 1)
        target = bounds - bounds[-1]
        precision = np.diag([1e-6, 1e-6, (NOISE / max(ANNEAL * drop, NOISE)) ** 2])
        inverse = np.linalg.inv(design.T @ design + precision)
        found = inverse @ (design.T @ target)
        shape = (DOUBT + n) / 2
        rest = DOUBT * NOISE**2 / 2 + max(0.0, float(target @ target - found @ (design.T @ target))) / 2
        limit = bounds[-1] + found[0] - found[1] * x[-1] / spread - found[2]
        if not found[1] > 0 or not limit >= 0:
            continue
        ahead = np.array([1.0, ((longer * area[-1]) ** -power - x[-1]) / spread, -anneal[-1]])
        weights.append(0.5 * math.log(np.linalg.det(inverse)) - shape * math.log(rest))
        centers.append(float(bounds[-1] + ahead @ found))
        scales.append(math.sqrt(rest / shape * (1 + float(ahead @ inverse @ ahead))))
    if not weights:
        return None
    share = np.exp(np.array(weights) - max(weights))
    chance = np.random.default_rng(0)
    which = chance.choice(len(share), SAMPLES, p=share / share.sum())
    drawn = np.array(centers)[which] + np.array(scales)[which] * chance.standard_t(DOUBT + n, SAMPLES)
    low, middle, high = np.quantile(drawn, [0.025, 0.5, 0.975])
    return float(middle), max(0.0, float(low)), float(high)


def _rises(rows: Sequence[Row]) -> bool:
    """Whether the steps of rows rise, as they do in a file that nobody has touched."""
    return all(before["step"] < after["step"] for before, after in pairwise(rows))


def _loss_fell(train: Sequence[Row], step: int) -> bool:
    """Whether the mean loss behind a step is below that of as many rows before it."""
    after = [row["loss"] for row in train if row["step"] > step]
    before = [row["loss"] for row in train if row["step"] <= step][-len(after) :]
    return bool(after) and bool(before) and sum(after) / len(after) < sum(before) / len(before)
