"""A set of equally shaped images with what is known about each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from markovae.columns import Cells

if TYPE_CHECKING:
    from markovae.data.strips import Strips
    from markovae.networks.conditioning import Conditioning


Pixels = np.ndarray[Any, np.dtype[np.integer[Any]]]
Indices = np.ndarray[Any, np.dtype[np.int64]]
Digests = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, eq=False)
class ImageData:
    """N images of one shape, with optional classes and captions.

    Args:
        images: (N, C, H, W), C = 1 or 3, uint8 (uint16 where bins > 256), in RAM, memory-mapped, or what stands for
            such an array and reads it when asked (`StoredImages`).
        labels: (N,) int64 class of each image, 0 … len(class_names) - 1, or None.
        class_names: the name of each class; empty without labels.
        captions: N texts, each line of one a caption of its image, "" where it has none; or None.
        bins: number of values a pixel can take, 0 … bins - 1.
        name: what the set is called in messages.
        digests: (N, 32) uint8, the content hash of each image where it is known already, or None.
        conditioning: of each image, instead of its class: its encoded captions, for instance; or None.
        files: the name of each image's file, as a path within the source, or None.
        columns: of a table beside the images, N cells each by the column's name; see `columns.Cell`.
        strips: the images before they are cut, of which training takes windows (data.random_crop), or None.

    Raises: ValueError where the parts do not fit together.
    """

    images: Pixels
    labels: Indices | None = None
    class_names: tuple[str, ...] = ()
    captions: tuple[str, ...] | None = None
    bins: int = 256
    name: str = "images"
    digests: Digests | None = None
    conditioning: Conditioning | None = None
    files: tuple[str, ...] | None = None
    columns: Cells = field(default_factory=dict)
    strips: Strips | None = None

    def __post_init__(self) -> None:
        expected = np.uint8 if self.bins <= 256 else np.uint16
        if self.images.ndim != 4 or self.images.shape[1] not in (1, 3):
            raise ValueError(f"images of shape {self.images.shape} must be (N, C, H, W) with C = 1 or 3")
        if self.images.dtype != expected:
            raise ValueError(f"images of type {self.images.dtype} with bins={self.bins} must be {expected}")
        for what in ("labels", "captions", "digests", "conditioning", "files", "strips"):
            column = getattr(self, what)
            if column is not None and len(column) != len(self.images):
                raise ValueError(f"{len(column)} {what} for {len(self.images)} images: give one each")
        for name, cells in self.columns.items():
            if len(cells) != len(self.images):
                raise ValueError(
                    f"{len(cells)} cells of the column {name} for {len(self.images)} images: give one each"
                )
        if (self.labels is None) != (not self.class_names):
            raise ValueError("labels and class_names go together: give both or neither")
        if self.labels is not None and len(self.labels):
            low, high = int(self.labels.min()), int(self.labels.max())
            if low < 0 or high >= len(self.class_names):
                raise ValueError(f"labels {low}…{high} must lie in 0…{len(self.class_names) - 1}")

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        size = "x".join(map(str, self.shape))
        known = f", {len(self.class_names)} classes" if self.class_names else ", captions" if self.captions else ""
        return f"<{len(self):,} images of {size}{known} ({self.name})>"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    @property
    def known(self) -> Any:
        """What a model is conditioned on: `conditioning`, or else the labels, or None."""
        return self.labels if self.conditioning is None else self.conditioning

    def take(self, indices: Sequence[int] | Indices | slice) -> ImageData:
        """The images at `indices`, in that order. A slice of a memory-mapped set stays mapped, a stored one stored."""
        if not isinstance(indices, slice):
            indices = np.asarray(indices, dtype=np.int64)
        positions = range(len(self))[indices] if isinstance(indices, slice) else indices.tolist()
        return ImageData(
            images=self.images[indices] if isinstance(self.images, np.ndarray) else _lazy(self.images).select(indices),
            labels=None if self.labels is None else self.labels[indices],
            class_names=self.class_names,
            captions=None if self.captions is None else tuple(self.captions[i] for i in positions),
            bins=self.bins,
            name=self.name,
            digests=None if self.digests is None else self.digests[indices],
            conditioning=None if self.conditioning is None else self.conditioning[indices],
            files=None if self.files is None else tuple(self.files[i] for i in positions),
            columns={name: tuple(cells[i] for i in positions) for name, cells in self.columns.items()},
            strips=None if self.strips is None else self.strips.take(indices),
        )

    @property
    def runs(self) -> tuple[tuple[int, int], ...] | None:
        """(start, stop) of the rows that are stored together and are read best together; None where all are at hand."""
        return (
            None if isinstance(self.images, np.ndarray) else cast(tuple[tuple[int, int], ...], _lazy(self.images).runs)
        )

    def content_hashes(self) -> tuple[bytes, ...]:
        """SHA-256 of each image's pixel bytes ((C, H, W) in C order, 16-bit values little-endian)."""
        if self.digests is not None:
            return tuple(row.tobytes() for row in self.digests)
        return tuple(row.tobytes() for row in content_digests(self.images))


def content_digests(images: Pixels) -> Digests:
    """The SHA-256 of each image's pixel bytes, (N, 32); see `ImageData.content_hashes`."""
    wire = images.dtype.newbyteorder("<")
    found = (hashlib.sha256(np.ascontiguousarray(x, dtype=wire).data).digest() for x in images)
    return np.frombuffer(b"".join(found), dtype=np.uint8).reshape(-1, 32)


def _lazy(images: object) -> Any:
    """Images that stand for an array, by what only they have."""
    return images


def fingerprint(hashes: Sequence[bytes]) -> str:
    """SHA-256, as hex, over content hashes in order: two parts agree in it only if all images do."""
    return hashlib.sha256(b"".join(hashes)).hexdigest()


def count_uncaptioned(data: ImageData) -> int:
    """How many images have no caption."""
    return len(data) if data.captions is None else sum(not text.strip() for text in data.captions)


def columns_digest(data: ImageData, names: Sequence[str]) -> str:
    """SHA-256 of these columns' cells in order, as hex: equal only where every one is."""
    return hashlib.sha256(json.dumps([data.columns.get(name) for name in names]).encode()).hexdigest()


def captions_digest(data: ImageData) -> str:
    """SHA-256 of the captions in order, as hex: equal only where every one is."""
    return hashlib.sha256(json.dumps(data.captions).encode()).hexdigest()
