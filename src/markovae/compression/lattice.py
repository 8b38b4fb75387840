r"""Gaussians on the whole numbers, as probabilities that every machine computes alike.

Only sums, products, quotients, roundings and powers of 2 are used, which IEEE 754 fixes to the last bit: no library's
exponential. Means are rounded to a small share of the standard deviation, so that all probabilities of one standard
deviation are a small table.

N(μ, σ²) at the whole numbers sums to 1 + 2 Σ_j exp(−2π²σ²j²) cos 2πjμ (Poisson): σ = 2/3 is already off by 3·10⁻⁴ at
most, and the two sides of the bound are off together. So grids hardly finer than the noise cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Protocol, final

import numpy as np

FINENESS = 256  # places of a mean within one standard deviation: 10⁻⁶ bits per number pushed or popped
MOST_OFFSETS = 1 << 14
TAILS = 10.0  # standard deviations that a window reaches at first; each doubling makes it twice as wide
ROOM = 1 << 21  # probabilities of one piece
LN2 = (float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33"))  # 32 bits, and the rest
TERMS = 15
SATURATED = 8.0  # standard deviations beyond which Φ is 0 or 1 to float64


class IntegerDistribution(Protocol):
    """A distribution of whole numbers around each of N means."""

    def half(self, doublings: int) -> int:
        """How far the window around a mean reaches on either side."""

    def centres(self, mean: Any) -> Any:
        """The whole number in the middle of the window of each mean, (N,), int64."""

    def pieces(self, mean: Any, doublings: int) -> Iterator[tuple[slice, Any]]:
        """(which means, their probabilities (n, 2 half + 1), not normalized), piece by piece.

        Args:
            mean: (N,), float64.
        """


@final
class LatticeGaussian:
    """P(k) ∝ exp(−(k − mean)²/2σ²).

    Args:
        std: σ > 0; one number, or one each, (N,).
        bins: k is one of 0…bins−1; None is any whole number.
    """

    def __init__(self, std: Any, bins: int | None = None) -> None:
        self._std, self._bins = np.asarray(std, dtype=np.float64), bins
        self._offsets = _offsets(self._std)
        self._tables: dict[int, Any] = {}

    def half(self, doublings: int) -> int:
        """How far the window around a mean reaches on either side."""
        return math.ceil(TAILS * float(self._std.max()) + 1) << doublings

    def centres(self, mean: Any) -> Any:
        """The whole number in the middle of the window of each mean, (N,), int64."""
        return _centres(mean, self._bins)

    def pieces(self, mean: Any, doublings: int) -> Iterator[tuple[slice, Any]]:
        """(which means, their probabilities (n, 2 half + 1)), piece by piece."""
        half, centres = self.half(doublings), self.centres(mean)
        places = np.arange(-half, half + 1)
        for piece in _slices(len(mean), len(places)):
            offset = mean[piece] - centres[piece]
            if self._std.ndim:
                chances = _densities(places, offset[:, None], self._std[piece, None])
            else:
                chances = self._table(doublings)[_rows(offset, self._offsets)]
            if self._bins is not None:
                values = centres[piece, None] + places
                chances = np.where((values >= 0) & (values < self._bins), chances, 0.0)
            yield piece, chances

    def _table(self, doublings: int) -> Any:
        if doublings not in self._tables:
            half = self.half(doublings)
            offset = _places(self._offsets)[:, None]
            self._tables[doublings] = _densities(np.arange(-half, half + 1), offset, self._std)
        return self._tables[doublings]


@final
class RoundedGaussian:
    """P(k) = Φ((k + ½ − mean)/σ) − Φ((k − ½ − mean)/σ) for k = 0…bins−1, the two end bins open.

    Args:
        std: σ > 0; one number, or one each, (N,).
        bins: how many values.
    """

    def __init__(self, std: Any, bins: int) -> None:
        self._std, self._bins = np.asarray(std, dtype=np.float64), bins
        self._offsets = _offsets(self._std)
        self._tables: dict[int, Any] = {}

    def half(self, doublings: int) -> int:
        """How far the window around a mean reaches on either side."""
        return min(math.ceil(TAILS * float(self._std.max()) + 1) << doublings, self._bins)

    def centres(self, mean: Any) -> Any:
        """The whole number in the middle of the window of each mean, (N,), int64."""
        return _centres(mean, self._bins)

    def pieces(self, mean: Any, doublings: int) -> Iterator[tuple[slice, Any]]:
        """(which means, their probabilities (n, 2 half + 1)), piece by piece."""
        half, centres = self.half(doublings), self.centres(mean)
        edges = np.arange(-half, half + 2)  # edge e lies between the values e − 1 and e
        for piece in _slices(len(mean), len(edges)):
            offset = mean[piece] - centres[piece]
            if self._std.ndim:
                below = exact_normal_cdf((edges - 0.5 - offset[:, None]) / self._std[piece, None])
            else:
                below = self._table(half)[_rows(offset, self._offsets)]
            values = centres[piece, None] + edges
            below = np.where(values <= 0, 0.0, np.where(values >= self._bins, 1.0, below))
            yield piece, np.maximum(np.diff(below), 0.0)

    def _table(self, half: int) -> Any:
        if half not in self._tables:
            offset = _places(self._offsets)[:, None]
            self._tables[half] = exact_normal_cdf((np.arange(-half, half + 2) - 0.5 - offset) / self._std)
        return self._tables[half]


def exact_exp(x: Any) -> Any:
    """exp(x) for x ≤ 0, to 2 units in the last place, the same bits everywhere; 0 below −700."""
    x = np.asarray(x, dtype=np.float64)
    twos = np.rint(x / LN2[0])
    rest = (x - twos * LN2[0]) - twos * LN2[1]
    made = np.ones_like(rest)
    for n in range(TERMS, 0, -1):
        made = 1 + made * rest / n
    return np.where(x < -700, 0.0, np.ldexp(made, np.maximum(twos, -1100).astype(np.int64)))


def exact_normal_cdf(x: Any) -> Any:
    """Φ(x), to 10⁻¹⁵, the same bits everywhere; 0 and 1 beyond 8 standard deviations.

    Source: Marsaglia 2004: Φ(x) = ½ + φ(x) (x + x³/3 + x⁵/15 + …).
    """
    far = np.minimum(np.abs(x), SATURATED)
    term, total, n = far, far, 1
    while float((term / np.maximum(total, 1e-300)).max()) > 1e-17:
        n += 2
        term = term * far * far / n
        total = total + term
    upper = 0.5 + total * exact_exp(-far * far / 2) / math.sqrt(2 * math.pi)
    upper = np.where(far >= SATURATED, 1.0, np.minimum(upper, 1.0))
    return np.where(np.asarray(x) < 0, 1 - upper, upper)


def _densities(places: Any, offset: Any, std: Any) -> Any:
    """exp(−(k − offset)²/2σ²) over its value at k = 0, so that no row is 0 throughout."""
    return exact_exp(np.minimum((2 * places * offset - places * places) / (2 * std * std), 0.0))


def _offsets(std: Any) -> int:
    share = 2.0 ** math.ceil(math.log2(FINENESS / float(std.min())))
    return int(min(max(share, 2), MOST_OFFSETS))


def _centres(mean: Any, bins: int | None) -> Any:
    centres = np.floor(mean + 0.5)
    return (centres if bins is None else np.clip(centres, 0, bins - 1)).astype(np.int64)


def _places(offsets: int) -> Any:
    """Means of a table's rows: −½…½."""
    return np.arange(-(offsets // 2), offsets // 2 + 1) / offsets


def _rows(offset: Any, offsets: int) -> Any:
    """The row of a table for means so far from their centres."""
    return np.clip(np.floor(offset * offsets + 0.5), -(offsets // 2), offsets // 2).astype(np.int64) + offsets // 2


def _slices(count: int, width: int) -> Iterator[slice]:
    step = max(1, ROOM // width)
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))
