"""Faces above 64 pixels: drawn when they are first read, a block at a time, in worker processes, and then kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np

from markovae.data import cache
from markovae.data.images import Indices, Pixels
from markovae.data.unread_images import UnreadImages
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
class DrawnFaces(UnreadImages):
    """N faces; to its readers an array (N, 3, S, S) of uint8.

    Args:
        blocks: all faces.
        faces: the places of these among them, (N,).
    """

    def __init__(self, blocks: FaceBlocks, faces: Indices) -> None:
        super().__init__((len(faces), 3, blocks.size, blocks.size))
        self._blocks, self._faces = blocks, faces

    def select(self, rows: Sequence[int] | Indices | slice) -> DrawnFaces:
        """These rows, not drawn yet."""
        return DrawnFaces(self._blocks, self._faces[rows])

    def _groups(self) -> Indices:
        return self._faces // BLOCK

    def _order(self, rows: Indices) -> Iterable[int]:
        return range(len(rows))

    def _read(self, row: int) -> Pixels:
        face = int(self._faces[row])
        return np.array(self._blocks.block(face // BLOCK)[face % BLOCK])


def digest_of(drawing: object, size: int) -> bytes:
    """What stands for the hash of a face's pixels before they are drawn: equal drawings, equal digests."""
    return hashlib.sha256(f"{size}|{drawing!r}".encode()).digest()
