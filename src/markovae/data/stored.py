"""Images that stay in their shards and are decoded when asked for."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from markovae.data.decode import decode
from markovae.data.images import Digests
from markovae.data.places import Shards
from markovae.data.plan import Plan
from markovae.errors import StoppedRun

Column = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, eq=False)
class Index:
    """Where each image lies.

    Args:
        shard, offset, size: number of its shard, and its bytes there, (N,) each.
        digest: SHA-256 of its pixels, (N, 32).
    """

    shard: Column
    offset: Column
    size: Column
    digest: Digests

    def __len__(self) -> int:
        return len(self.shard)

    def take(self, rows: Column) -> Index:
        """The index of these rows."""
        return Index(self.shard[rows], self.offset[rows], self.size[rows], self.digest[rows])


@final
class StoredImages:
    """N images in shards; to its readers an array (N, C, H, W) of uint8 that is read image by image.

    Args:
        shards: where the bytes are.   index: of these images.   plan: what each is brought to.
        checked: whether the index has the digests of these very pixels, so that each image read is compared.
        bins: values that a pixel may have, 0 … bins − 1.
    """

    def __init__(self, shards: Shards, index: Index, plan: Plan, checked: bool = True, bins: int = 256) -> None:
        self.shards, self.index, self.plan, self.checked, self.bins = shards, index, plan, checked, bins
        self.shape = (len(index), plan.channels, *plan.shape)
        self.ndim, self.dtype = 4, np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels, were they read."""
        return int(np.prod(self.shape))

    @property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """(start, stop) of the rows that lie in one shard, where each shard's stand together."""
        edges = np.flatnonzero(np.diff(self.index.shard)) + 1
        bounds = [0, *edges.tolist(), len(self)]
        return tuple(itertools.pairwise(bounds)) if len(self) else ()

    def select(self, rows: Sequence[int] | Column | slice) -> StoredImages:
        """The images at these rows, in that order, unread."""
        return StoredImages(self.shards, self.index.take(self._rows(rows)), self.plan, self.checked, self.bins)

    def __getitem__(self, rows: Any) -> np.ndarray[Any, Any]:
        """Read the images at one row (C, H, W), or at several, (n, C, H, W).

        Raises: StoppedRun for an image that is not what was indexed, naming shard and place.
        """
        if isinstance(rows, (int, np.integer)):
            return self._read(int(rows))
        wanted = self._rows(rows)
        # In the order of their places, which is kindest to disks.
        pixels = np.empty((len(wanted), *self.shape[1:]), dtype=np.uint8)
        for place in np.lexsort((self.index.offset[wanted], self.index.shard[wanted])).tolist():
            pixels[place] = self._read(int(wanted[place]))
        return pixels

    def __iter__(self) -> Iterator[np.ndarray[Any, Any]]:
        return (self._read(row) for row in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return self[:].astype(self.dtype if dtype is None else dtype, copy=False)

    def _rows(self, rows: Sequence[int] | Column | slice) -> Column:
        chosen = rows if isinstance(rows, slice) else np.asarray(rows, dtype=np.int64)
        return np.arange(len(self), dtype=np.int64)[chosen]

    def _read(self, row: int) -> np.ndarray[Any, Any]:
        index = self.index
        shard, offset = int(index.shard[row]), int(index.offset[row])
        content = self.shards.read(shard, offset, int(index.size[row]))
        plan = self.plan
        try:
            pixels = decode(content, plan.shape, plan.grey, fit=plan.fit, background=plan.background)
            whole = not self.checked or hashlib.sha256(pixels.tobytes()).digest() == index.digest[row].tobytes()
            reason = "holds other pixels than when it was indexed"
            if self.bins < 256 and int(pixels.max()) >= self.bins:
                whole, reason = False, f"has pixels of {int(pixels.max())} where its record says below {self.bins}"
        except Exception as error:  # a decoder may raise anything on damaged bytes
            whole, reason = False, f"cannot be decoded ({' '.join(str(error).split())})"
        if not whole:
            raise StoppedRun(
                f"the image at byte {offset:,} of {self.shards.names[shard]} {reason}: restore the shard, then --resume"
            )
        return pixels
