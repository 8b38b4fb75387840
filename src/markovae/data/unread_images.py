"""Images that are read when they are asked for, and are to their readers an array (N, C, H, W) of uint8."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np

from markovae.data.images import Indices, Pixels


class UnreadImages(ABC):
    """N images of one shape; each `_read` gives one.

    Args:
        shape: (N, C, H, W).
    """

    ndim, dtype = 4, np.dtype(np.uint8)

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        self.shape = shape

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels, were they read."""
        return int(np.prod(self.shape))

    @property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """(start, stop) of the rows that are kept together, where each group's stand together."""
        edges = np.flatnonzero(np.diff(self._groups())) + 1
        return tuple(itertools.pairwise([0, *edges.tolist(), len(self)])) if len(self) else ()

    @abstractmethod
    def select(self, rows: Sequence[int] | Indices | slice) -> Self:
        """The images at these rows, in that order, unread."""

    @abstractmethod
    def _groups(self) -> np.ndarray[Any, Any]:
        """What each row is kept in, (N,)."""

    @abstractmethod
    def _order(self, rows: Indices) -> Iterable[int]:
        """In which order these rows are read best: places among them."""

    @abstractmethod
    def _read(self, row: int) -> Pixels:
        """The image of a row, (C, H, W)."""

    def __getitem__(self, rows: Any) -> Pixels:
        """Read the images at one row (C, H, W), or at several, (n, C, H, W)."""
        if isinstance(rows, int | np.integer):
            return self._read(int(rows))
        wanted = self._rows(rows)
        pixels = np.empty((len(wanted), *self.shape[1:]), dtype=np.uint8)
        for place in self._order(wanted):
            pixels[place] = self._read(int(wanted[place]))
        return pixels

    def __iter__(self) -> Iterator[Pixels]:
        return (self._read(row) for row in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return self[:].astype(self.dtype if dtype is None else dtype, copy=False)

    def _rows(self, rows: Sequence[int] | Indices | slice) -> Indices:
        chosen = rows if isinstance(rows, slice) else np.asarray(rows, dtype=np.int64)
        return np.arange(len(self), dtype=np.int64)[chosen]
