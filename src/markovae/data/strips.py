"""Images scaled to cover their shape and not yet cut: training takes a window of each, where one is longer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, final

import numpy as np

from markovae.data import cache
from markovae.data.image_files import Header, Plan, strip_shape
from markovae.data.images import Indices, Pixels

Places = np.ndarray[Any, np.dtype[np.floating[Any]]]


class Strips(ABC):
    """N images of one scale and different lengths, of which the middle is what is measured.

    Args:
        shape: (C, H, W) of a window.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape

    @abstractmethod
    def __len__(self) -> int:
        """N."""

    @abstractmethod
    def take(self, rows: Sequence[int] | Indices | slice) -> Self:
        """Those of these rows; the pixels stay where they are."""

    @abstractmethod
    def whole(self, row: int) -> Pixels:
        """One of them, (C, height, width), at least as long as a window in both."""

    def windows(self, rows: Indices, places: Places) -> Pixels:
        """A window of each of these rows, (B, C, H, W).

        Args:
            places: in [0, 1), (B, 2): where its upper and its left edge lie among all places that there are.
        """
        _, height, width = self.shape
        windows = np.empty((len(rows), *self.shape), dtype=np.uint8)
        for window, row, place in zip(windows, rows.tolist(), places, strict=True):
            whole = self.whole(row)
            free = np.array(whole.shape[1:]) - (height, width)
            top, left = np.minimum((place * (free + 1)).astype(np.int64), free).tolist()
            window[...] = whole[:, top : top + height, left : left + width]
        return windows


@final
class KeptStrips(Strips):
    """Strips one after the other in an array.

    Args:
        pixels: of all of them, each (C, height, width) in C order, uint8; may be memory-mapped.
        start: where each begins, (N,), int64.
        size: height and width of each, (N, 2), int64, at least those of `shape`.
        shape: (C, H, W) of a window.
    """

    def __init__(self, pixels: Pixels, start: Indices, size: Indices, shape: tuple[int, int, int]) -> None:
        super().__init__(shape)
        self.pixels, self.start, self.size = pixels, start, size

    def __len__(self) -> int:
        return len(self.start)

    def take(self, rows: Sequence[int] | Indices | slice) -> KeptStrips:
        """Those of these rows; the pixels stay where they are."""
        return KeptStrips(self.pixels, self.start[rows], self.size[rows], self.shape)

    def whole(self, row: int) -> Pixels:
        """One of them, (C, height, width)."""
        height, width = self.size[row].tolist()
        start, shape = int(self.start[row]), (self.shape[0], height, width)
        return self.pixels[start : start + int(np.prod(shape))].reshape(shape)


def read_strips(kept: cache.Entry, shape: tuple[int, int, int]) -> KeptStrips:
    """The strips that a `StripFile` wrote to a cache entry."""
    pixels, start, size = (kept.array(f"strips-{name}.npy") for name in ("pixels", "start", "size"))
    return KeptStrips(pixels, start, size, shape)


@final
class StripFile:
    """Strips, written to a cache entry one after the other.

    Args:
        stage: the entry's folder.
        headers: of all images that may come.
        plan: what each is brought to.
    """

    def __init__(self, stage: Path, headers: Sequence[Header], plan: Plan) -> None:
        sizes = (strip_shape((header.height, header.width), plan.shape) for header in headers)
        total = plan.channels * sum(height * width for height, width in sizes)
        self._stage, self._shape, self._end = stage, plan.shape, 0
        self._pixels = cache.new_array(stage / "strips-pixels.npy", np.dtype(np.uint8), (total,))
        self._start, self._size = list[int](), list[tuple[int, ...]]()

    def add(self, strip: Pixels) -> None:
        """The next one, (C, height, width)."""
        self._start.append(self._end)
        self._size.append(strip.shape[1:])
        self._pixels[self._end : self._end + strip.size] = strip.reshape(-1)
        self._end += strip.size

    def finish(self) -> str:
        """Write where each is. Returns: a sentence on how many are longer than a window."""
        self._pixels.flush()
        del self._pixels  # some systems replace no file that is mapped
        size = np.array(self._size, dtype=np.int64).reshape(-1, 2)
        np.save(self._stage / "strips-start.npy", np.array(self._start, dtype=np.int64), allow_pickle=False)
        np.save(self._stage / "strips-size.npy", size, allow_pickle=False)
        return longer_note(int((size > self._shape).any(axis=1).sum()), len(size), self._shape)


def longer_note(longer: int, count: int, shape: Sequence[int]) -> str:
    """How many of some images are longer than a window, in words."""
    shown = "x".join(map(str, shape))
    if not longer:
        return f"warning: no image is longer than {shown} once it is scaled: data.random_crop changes nothing"
    return f"{longer:,} of {count:,} images are longer than {shown}: training cuts them at random places"


def middle(strip: Pixels, shape: tuple[int, int]) -> Pixels:
    """The window in the middle of a strip (C, h, w), (C, H, W), as `image_files.centred` cuts it."""
    (height, width), (_, tall, wide) = shape, strip.shape
    top, left = (tall - height) // 2, (wide - width) // 2
    return strip[:, top : top + height, left : left + width]
