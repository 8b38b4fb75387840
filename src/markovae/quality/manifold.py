"""Precision and recall, density and coverage: do samples lie where real images do, and everywhere they do?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from markovae.quality.arrays import Array, as_features, same_width

NEIGHBOURS = 3
BLOCK = 2048


@dataclass(frozen=True)
class PrecisionRecall:
    """Shares of points that lie in balls around the points of the other set.

    A ball reaches from a point to its k-th nearest neighbour of its own set.

    Args:
        precision: samples within any real image's ball.   recall: real images within any sample's ball.
        density: real balls over a sample, divided by k, averaged; 1 in expectation for equal populations.
        coverage: real images whose ball holds a sample.   k: as above.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    k: int


def precision_recall(samples: Array, reference: Array, k: int = NEIGHBOURS) -> PrecisionRecall:
    """Precision and recall by nearest neighbours, with density and coverage.

    All four depend on the two sizes: compare at equal n, beside the floor.

    Args:
        samples, reference: features, (m, d) and (n, d).   k: neighbours, 1…min(m, n) − 1.
    Raises:
        ValueError: for features that are no matrices of one width, not finite, or no more than k.
    Source: Kynkäänniemi et al. 2019 (precision, recall); Naeem et al. 2020 (density, coverage).
    """
    if k < 1:
        raise ValueError(f"k={k} must be at least 1: it counts the neighbours a ball reaches to")
    x, y = as_features(samples, "samples", k + 1), as_features(reference, "reference", k + 1)
    same_width(x, y)
    x_ball, y_ball = radii(x, k), radii(y, k)
    balls = torch.zeros(len(x), dtype=torch.int64)
    found, covered = torch.zeros(len(y), dtype=torch.bool), torch.zeros(len(y), dtype=torch.bool)
    for start in range(0, len(x), BLOCK):
        part = slice(start, start + BLOCK)
        distance = distances(x[part], y)
        within = distance <= y_ball
        balls[part] = within.sum(1)
        covered |= within.any(0)
        found |= (distance <= x_ball[part, None]).any(0)
    return PrecisionRecall(
        precision=float((balls > 0).double().mean()),
        recall=float(found.double().mean()),
        density=float(balls.double().mean()) / k,
        coverage=float(covered.double().mean()),
        k=k,
    )


def radii(points: Tensor, k: int) -> Tensor:
    """Distance of each point to its k-th nearest other point, (n,)."""
    reach = []
    for start in range(0, len(points), BLOCK):
        distance = distances(points[start : start + BLOCK], points)
        distance.diagonal(start).fill_(torch.inf)
        reach.append(distance.kthvalue(k, 1).values)
    return torch.cat(reach)


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distance of every pair, (m, n), from |x|² + |y|² − 2 x·y in float64."""
    squares = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
    return squares.clamp_min(0).sqrt()
