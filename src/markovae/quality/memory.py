"""Are samples copies? Their distances to the training images beside those of real images the model never saw."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from markovae.quality.neighbours import Images, nearest, pool_of
from markovae.vae import Estimate

RARE = 0.01
COPY = 1.0


@dataclass(frozen=True)
class Memorisation:
    """Nearest training images of samples and of held-out images, in grey levels of 0…255 (root mean square).

    Args:
        samples_median, heldout_median: the middle distance of each.
        nearer: P(a sample lies nearer to the training images than a held-out image does); ½ for a model that has
            learned and not stored, towards 1 for one that copies.
        suspicious: samples nearer than 99 % of the held-out images are.   expected: how many that makes by chance.
        copies: samples within COPY grey level of a training image.   searched: training images looked through.
    """

    samples_median: float
    heldout_median: float
    nearer: Estimate
    suspicious: int
    expected: float
    copies: int
    searched: int


def memorisation(samples: Images, heldout: Images, training: Images, bins: int) -> Memorisation:
    """Compare samples' distances to the training images with those of held-out images.

    Args:
        samples, heldout, training: digits, (n, C, H, W) each; of 100,000 training images and more at least 50,000 are
            searched.
    Raises:
        ValueError: for fewer than two samples or held-out images.
    Source: Meehan et al. 2020 (the held-out yardstick); DeLong et al. 1988 (the standard error).
    """
    if min(len(samples), len(heldout)) < 2:
        raise ValueError(f"{len(samples)} samples and {len(heldout)} held-out images: at least 2 of each are needed")
    pool = pool_of(training)
    ours, theirs = nearest(samples, pool, bins).distance, nearest(heldout, pool, bins).distance
    return Memorisation(
        samples_median=float(np.median(ours)),
        heldout_median=float(np.median(theirs)),
        nearer=share_below(ours, theirs),
        suspicious=int((ours < np.quantile(theirs, RARE)).sum()),
        expected=RARE * len(ours),
        copies=int((ours < COPY).sum()),
        searched=len(pool),
    )


def share_below(first: Images, second: Images) -> Estimate:
    """P(a number of the first < one of the second), ties counting half, with its standard error."""
    rows, columns = 1 - _share_up_to(first, second), _share_up_to(second, first)
    variance = rows.var(ddof=1) / len(rows) + columns.var(ddof=1) / len(columns)
    return Estimate(float(rows.mean()), math.sqrt(float(variance)))


def _share_up_to(values: Images, others: Images) -> Images:
    """The share of the others below each value, those that equal it counting half."""
    row = np.sort(others)
    return (np.searchsorted(row, values, "left") + np.searchsorted(row, values, "right")) / (2 * len(row))
