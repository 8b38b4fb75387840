"""Distances between two sets of features: KID with its standard error, Fréchet, precision and recall."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from markovae.diffusion.bound import Estimate
from markovae.quality.features import Array, as_features, same_width

BLOCK = 2048
FEWEST = 4


@dataclass(frozen=True)
class Sums:
    """What the estimators need of a kernel matrix.

    Args:
        rows, columns: sums of the entries, (m,), (n,).
        squares: Σ k², all entries.
    """

    rows: Tensor
    columns: Tensor
    squares: float


def kid(samples: Array, reference: Array) -> Estimate:
    r"""Squared maximum mean discrepancy under k(a, b) = (a·b/d + 1)³, unbiased, with its standard error.

        KID = mean_{i≠j} k(x_i, x_j) + mean_{i≠j} k(y_i, y_j) − 2 mean_{ij} k(x_i, y_j)

    It is 0 in expectation for equal populations, whatever the two sizes, so a single figure may be negative. The
    variance is that of the Hoeffding decomposition (see `_variance`): both sets count as random draws.

    Args:
        samples, reference: features, (m, d) and (n, d), at least 4 rows each.
    Returns: value ± standard error.
    Raises:
        ValueError: for features that are no matrices of one width, too few, or not finite.
    Source: Bińkowski et al. 2018, section 4; the variance is derived in docs/quality.md.
    """
    x, y = as_features(samples, "samples", FEWEST), as_features(reference, "reference", FEWEST)
    same_width(x, y)
    within_x, within_y, across = sums(x), sums(y), sums(x, y)
    m, n = len(x), len(y)
    value = float(within_x.rows.sum()) / (m * (m - 1)) + float(within_y.rows.sum()) / (n * (n - 1))
    value -= 2 * float(across.rows.sum()) / (m * n)
    return Estimate(value, math.sqrt(_variance(within_x, within_y, across)))


def kid_difference(first: Array, second: Array, reference: Array) -> Estimate:
    r"""KID(first) − KID(second) against one fixed reference set, where row i of both belongs together.

    Samples drawn from one seed share their noise, so the difference is known better than either. With
    c(x) = mean_j k(x, y_j) it is a U-statistic of the pairs w_i = (x_i, x'_i),

        mean_{i≠j} g(w_i, w_j),   g = k(x_i, x_j) − c(x_i) − c(x_j) − [k(x'_i, x'_j) − c(x'_i) − c(x'_j)],

    with variance 4 Var[E g | w]/m + 2 E[g̃²]/(m(m−1)), g̃ the doubly centred g. The reference counts as given.

    Args:
        first, second: features, (m, d).
        reference: (n, d).
    Raises:
        ValueError: for features that are no matrices of one width, too few, not finite, or not in pairs.
    """
    x, other = as_features(first, "first", FEWEST), as_features(second, "second", FEWEST)
    y = as_features(reference, "reference", 1)
    same_width(x, y)
    same_width(other, y)
    if len(x) != len(other):
        raise ValueError(f"{len(x)} and {len(other)} rows do not pair: give the features of the same samples")
    m = len(x)
    near, far = sums(x, y).rows / len(y), sums(other, y).rows / len(y)
    tilt = near - far
    found = _difference_sums(x, other, tilt)
    value = float(found.rows.sum()) / (m * (m - 1))
    second_order = degenerate_within(found)
    first_order = float((found.rows / (m - 2)).var()) - second_order / (m - 2)
    return Estimate(value, math.sqrt(4 * max(first_order, 0) / m + 2 * max(second_order, 0) / (m * (m - 1))))


def kernel(x: Tensor, y: Tensor) -> Tensor:
    """(x·y/d + 1)³ of every pair, (m, n), float64."""
    root = x @ y.T / x.shape[1] + 1
    return root * root * root


def sums(x: Tensor, y: Tensor | None = None) -> Sums:
    """Sums of the kernel matrix of x with y, or of x with itself without the diagonal, block by block."""
    other = x if y is None else y
    rows, columns, squares = [], torch.zeros(len(other), dtype=torch.float64), 0.0
    for start in range(0, len(x), BLOCK):
        block = kernel(x[start : start + BLOCK], other)
        if y is None:
            block.diagonal(start).fill_(0)
        rows.append(block.sum(1))
        columns += block.sum(0)
        squares += float((block**2).sum())
    return Sums(torch.cat(rows), columns, squares)


def _difference_sums(x: Tensor, other: Tensor, tilt: Tensor) -> Sums:
    """Sums of k(x_i, x_j) − k(x'_i, x'_j) − t_i − t_j without the diagonal, block by block; it is symmetric."""
    rows, squares = [], 0.0
    for start in range(0, len(x), BLOCK):
        cut = slice(start, start + BLOCK)
        block = kernel(x[cut], x) - kernel(other[cut], other) - tilt[cut, None] - tilt
        block.diagonal(start).fill_(0)
        rows.append(block.sum(1))
        squares += float((block**2).sum())
    whole = torch.cat(rows)
    return Sums(whole, whole, squares)


def _variance(xx: Sums, yy: Sums, xy: Sums) -> float:
    r"""Variance of KID, its two first-order parts floored at 0.

    Hoeffding's parts are uncorrelated, so with g_x(x) = E k(x, X) − E k(x, Y), g_y alike, and v the second moments
    of the doubly centred kernels,

        Var = 4 Var g_x/m + 4 Var g_y/n + 2 v_xx/(m(m−1)) + 2 v_yy/(n(n−1)) + 4 v_xy/(mn).

    Each is estimated without bias: v from sums over distinct indices, Var g_x as the variance of
    r_i/(m−2) − c_i/n (row sums within and across) less what the second order adds to it, v_xx/(m−2) + v_xy/n. For equal
    populations Var g = 0 and its estimate may fall below 0; there the floor makes the error larger, never smaller.
    """
    m, n = len(xx.rows), len(yy.rows)
    v_xx, v_yy, v_xy = degenerate_within(xx), degenerate_within(yy), degenerate_across(xy)
    first_x = float((xx.rows / (m - 2) - xy.rows / n).var()) - v_xx / (m - 2) - v_xy / n
    first_y = float((yy.rows / (n - 2) - xy.columns / m).var()) - v_yy / (n - 2) - v_xy / m
    second = 2 * v_xx / (m * (m - 1)) + 2 * v_yy / (n * (n - 1)) + 4 * v_xy / (m * n)
    return 4 * max(first_x, 0) / m + 4 * max(first_y, 0) / n + max(second, 0)


def degenerate_within(found: Sums) -> float:
    """E k̃² of k̃(x, x') = k − h(x) − h(x') + θ, without bias, from sums that leave the diagonal out."""
    m = len(found.rows)
    pairs, triples = m * (m - 1), m * (m - 1) * (m - 2)
    total, rows = float(found.rows.sum()), float((found.rows**2).sum())
    mean_square = found.squares / pairs
    projection = (rows - found.squares) / triples
    squared_mean = (total**2 - 4 * rows + 2 * found.squares) / (triples * (m - 3))
    return mean_square - 2 * projection + squared_mean


def degenerate_across(found: Sums) -> float:
    """E k̃² of k̃(x, y) = k − h(x) − h(y) + θ, without bias."""
    m, n = len(found.rows), len(found.columns)
    total = float(found.rows.sum())
    rows, columns = float((found.rows**2).sum()), float((found.columns**2).sum())
    mean_square = found.squares / (m * n)
    along_x = (rows - found.squares) / (m * n * (n - 1))
    along_y = (columns - found.squares) / (m * n * (m - 1))
    squared_mean = (total**2 - rows - columns + found.squares) / (m * (m - 1) * n * (n - 1))
    return mean_square - along_x - along_y + squared_mean


def frechet_distance(samples: Array, reference: Array) -> float:
    r"""Squared 2-Wasserstein distance between the two fitted Gaussians.

        ‖μ_x − μ_y‖² + tr Σ_x + tr Σ_y − 2 tr (Σ_x^½ Σ_y Σ_x^½)^½

    Covariances have the denominator n − 1. The figure is biased upwards, roughly as 1/n, and far more where n is
    not well above d: it can be compared at equal n only, and read beside its floor only.

    Args:
        samples, reference: features, (m, d) and (n, d), at least 2 rows each.
    Raises:
        ValueError: for features that are no matrices of one width, too few, or not finite.
    Source: Dowson and Landau 1982; used on features by Heusel et al. 2017.
    """
    x, y = as_features(samples, "samples", 2), as_features(reference, "reference", 2)
    same_width(x, y)
    return gaussian_distance(x.mean(0), covariance(x), y.mean(0), covariance(y))


def gaussian_distance(mean_x: Tensor, cov_x: Tensor, mean_y: Tensor, cov_y: Tensor) -> float:
    r"""The distance between N(mean_x, cov_x) and N(mean_y, cov_y).

    Σ_x^½ Σ_y Σ_x^½ is symmetric, so two symmetric eigen-decompositions suffice, and nothing complex or iterative
    arises where a covariance is singular.

    Args:
        mean_x, mean_y: (d,).
        cov_x, cov_y: symmetric, positive semi-definite, (d, d), float64.
    """
    half = root(cov_x)
    product = half @ cov_y @ half
    cross = float(torch.linalg.eigvalsh((product + product.T) / 2).clamp_min(0).sqrt().sum())
    return float(((mean_x - mean_y) ** 2).sum() + cov_x.trace() + cov_y.trace()) - 2 * cross


def root(covariance: Tensor) -> Tensor:
    """The symmetric square root by eigen-decomposition; eigenvalues that rounding left below 0 are 0."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp_min(0).sqrt() @ vectors.T


def covariance(features: Tensor) -> Tensor:
    """(x − x̄)ᵀ(x − x̄)/(n − 1), (d, d)."""
    centred = features - features.mean(0)
    return centred.T @ centred / (len(features) - 1)


NEIGHBOURS = 3


@dataclass(frozen=True)
class PrecisionRecall:
    """Shares of points that lie in balls around the points of the other set.

    A ball reaches from a point to its k-th nearest neighbour of its own set.

    Args:
        precision: samples within any real image's ball.
        recall: real images within any sample's ball.
        density: real balls over a sample, divided by k, averaged; 1 in expectation for equal populations.
        coverage: real images whose ball holds a sample.
        k: as above.
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
        samples, reference: features, (m, d) and (n, d).
        k: neighbours, 1…min(m, n) − 1.
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
