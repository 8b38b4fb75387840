"""Images scaled to cover their shape and not yet cut: training takes a window of each, where one is longer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from markovae.data.images import Indices, Pixels

Places = np.ndarray[Any, np.dtype[np.floating[Any]]]


@dataclass(frozen=True, eq=False)
class Strips:
    """N images of one scale and different lengths, of which the middle is what is measured.

    Args:
        pixels: of all of them, one after the other, each (C, height, width) in C order, uint8; may be memory-mapped.
        start: where each begins, (N,), int64.
        size: height and width of each, (N, 2), int64, at least those of `shape`.
        shape: (C, H, W) of a window.
    """

    pixels: Pixels
    start: Indices
    size: Indices
    shape: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.start)

    def take(self, rows: Sequence[int] | Indices | slice) -> Strips:
        """Those of these rows; the pixels stay where they are."""
        return Strips(self.pixels, self.start[rows], self.size[rows], self.shape)

    def windows(self, rows: Indices, places: Places) -> Pixels:
        """A window of each of these rows, (B, C, H, W).

        Args:
            places: in [0, 1), (B, 2): where its upper and its left edge lie among all places that there are.
        """
        _, height, width = self.shape
        windows = np.empty((len(rows), *self.shape), dtype=np.uint8)
        for window, row, place in zip(windows, rows.tolist(), places, strict=True):
            whole = self._whole(row)
            free = np.array(whole.shape[1:]) - (height, width)
            top, left = np.minimum((place * (free + 1)).astype(np.int64), free).tolist()
            window[...] = whole[:, top : top + height, left : left + width]
        return windows

    def _whole(self, row: int) -> Pixels:
        height, width = self.size[row].tolist()
        start, shape = int(self.start[row]), (self.shape[0], height, width)
        return self.pixels[start : start + int(np.prod(shape))].reshape(shape)


def middle(strip: Pixels, shape: tuple[int, int]) -> Pixels:
    """The window in the middle of a strip (C, h, w), (C, H, W), as `image_files.centred` cuts it."""
    (height, width), (_, tall, wide) = shape, strip.shape
    top, left = (tall - height) // 2, (wide - width) // 2
    return strip[:, top : top + height, left : left + width]
