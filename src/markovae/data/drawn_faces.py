"""Faces above 64 pixels: drawn when they are first read, a block at a time, in worker processes, and then kept."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np

from markovae.data import cache
from markovae.data.images import Indices, Pixels
from markovae.data.workers import map_in_processes
from markovae.log import track

BLOCK = 500  # faces that are drawn together
CHUNK = 25
SERIAL_BELOW = 100


@final
class FaceBlocks:
    """Faces of one size in the cache folder, block after block, each drawn when it is first asked for.

    Args:
        numbers: of the faces, in their order.
        size: pixels a side.
        recipe: whatever else the pixels depend on.
        draw: draw(number, size=) -> (3, size, size) uint8, a function of a module.
    """

    def __init__(self, numbers: Sequence[int], size: int, recipe: object, draw: Any) -> None:
        self.numbers, self.size, self.recipe, self._draw = list(numbers), size, recipe, draw
        self._opened: dict[int, Pixels] = {}

    def block(self, place: int) -> Pixels:
        """Block number `place`, (≤ BLOCK, 3, size, size), mapped from its file."""
        if place not in self._opened:
            numbers = self.numbers[place * BLOCK : (place + 1) * BLOCK]
            key = cache.key_of({"recipe": self.recipe, "size": self.size, "numbers": numbers})
            make = partial(self._make, numbers=numbers)
            found = cache.entry(f"faces-{self.size}-{key}", make, lambda kept: kept.array("images.npy", mapped=True))
            self._opened[place] = found
        return self._opened[place]

    def _make(self, stage: Path, numbers: list[int]) -> None:
        drawn = map_in_processes(partial(self._draw, size=self.size), numbers, CHUNK, SERIAL_BELOW)
        images = cache.new_array(stage / "images.npy", np.dtype(np.uint8), (len(numbers), 3, self.size, self.size))
        for row, pixels in enumerate(track(drawn, f"drawing faces of {self.size} pixels", len(numbers))):
            images[row] = pixels
        images.flush()


@final
class DrawnFaces:
    """N faces; to its readers an array (N, 3, S, S) of uint8.

    Args:
        blocks: all faces.
        rows: the places of these among them, (N,).
    """

    def __init__(self, blocks: FaceBlocks, rows: Indices) -> None:
        self._blocks, self._rows = blocks, rows
        self.shape = (len(rows), 3, blocks.size, blocks.size)
        self.ndim, self.dtype = 4, np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels, were they drawn."""
        return int(np.prod(self.shape))

    @property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """(start, stop) of the rows whose faces are drawn together."""
        edges = np.flatnonzero(np.diff(self._rows // BLOCK)) + 1
        ends = [0, *edges.tolist(), len(self)]
        return tuple(itertools.pairwise(ends))

    def select(self, rows: Sequence[int] | Indices | slice) -> DrawnFaces:
        """These rows, not drawn yet."""
        return DrawnFaces(self._blocks, self._rows[rows])

    def __getitem__(self, rows: Any) -> Pixels:
        if isinstance(rows, int | np.integer):
            return self._read(int(self._rows[rows]))
        chosen = self._rows[rows if isinstance(rows, slice) else np.asarray(rows, dtype=np.int64)]
        pixels = np.empty((len(chosen), *self.shape[1:]), dtype=np.uint8)
        for place, row in enumerate(chosen.tolist()):
            pixels[place] = self._read(row)
        return pixels

    def __iter__(self) -> Iterator[Pixels]:
        return (self._read(row) for row in self._rows.tolist())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Pixels:
        return self[:].astype(self.dtype if dtype is None else dtype, copy=False)

    def _read(self, row: int) -> Pixels:
        return np.array(self._blocks.block(row // BLOCK)[row % BLOCK])


def digest_of(drawing: object, size: int) -> bytes:
    """What stands for the hash of a face's pixels before they are drawn: equal drawings, equal digests."""
    return hashlib.sha256(f"{size}|{drawing!r}".encode()).digest()
