"""Features as the statistics take them: finite float64 matrices of one width."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from markovae.data import cache
from markovae.errors import UserError
from markovae.log import log, track
from markovae.quality.convolutions import RESIZE
from markovae.quality.extractors import BATCH, Extractor
from markovae.quality.memorization import Images

Array = np.ndarray[Any, np.dtype[Any]] | Tensor


def as_features(features: Array, name: str, fewest: int) -> Tensor:
    """The features as a float64 matrix on the CPU, (n, d).

    Args:
        fewest: rows that the statistic needs.
    Raises:
        ValueError: for another shape, fewer rows, or entries that are not finite.
    """
    found = torch.as_tensor(features).detach().to("cpu", torch.float64)
    if found.ndim != 2 or not found.shape[1]:
        raise ValueError(f"{name} of shape {tuple(found.shape)} must be features, (n, d)")
    if len(found) < fewest:
        raise ValueError(f"{name} has {len(found)} rows and at least {fewest} are needed")
    if not torch.isfinite(found).all():
        raise ValueError(
            f"{name} has features that are not finite: the extractor overflowed, or the images are damaged"
        )
    return found


def same_width(first: Tensor, second: Tensor) -> None:
    """Refuse features of different extractors.

    Raises:
        ValueError: naming both widths.
    """
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"features of width {first.shape[1]} and {second.shape[1]} come from different extractors")


def features(extractor: Extractor, images: Images, bins: int, label: str | None = "features") -> Tensor:
    """Features of every image, (n, d), float32.

    Args:
        images: pixel values 0…bins−1, (n, C, H, W), read batch by batch.
        label: of the progress on stderr; None shows none.
    """
    starts = range(0, len(images), BATCH)
    parts = [
        extractor(np.asarray(images[start : start + BATCH]), bins)
        for start in (track(starts, label) if label else starts)
    ]
    return torch.cat(parts) if parts else torch.zeros(0, extractor.dims)


def cached_features(extractor: Extractor, images: Images, bins: int, label: str | None = "features") -> Tensor:
    """The same from the user's cache folder, under a hash of the images, the extractor and the resize rule.

    A damaged entry is computed again; where the folder cannot be written, nothing is kept, which is logged.
    """
    made: list[Tensor] = []

    def make(folder: Path) -> None:
        made.append(features(extractor, images, bins, label))
        np.save(folder / "features.npy", made[0].numpy(), allow_pickle=False)

    def read(kept: cache.Entry) -> Tensor:
        return torch.from_numpy(np.array(kept.array("features.npy")))

    try:
        return cache.entry(entry_of(extractor, images, bins), make, read)
    except UserError as error:
        log(f"the features are not cached: {error}")
        return made[0] if made else features(extractor, images, bins, label)


def entry_of(extractor: Extractor, images: Images, bins: int) -> str:
    """The name of the cache entry of these images' features."""
    recipe = [RESIZE, extractor.name, extractor.digest, bins, content_hash(images)]
    return f"features-{hashlib.sha256(json.dumps(recipe).encode('ascii')).hexdigest()[:40]}"


def content_hash(images: Images) -> str:
    """SHA-256 over shape and pixels (16-bit values little-endian), hex: equal only for equal images in equal order."""
    wire = images.dtype.newbyteorder("<")
    found = hashlib.sha256(repr((tuple(images.shape), wire.itemsize)).encode("ascii"))
    for start in range(0, len(images), 1024):
        found.update(np.ascontiguousarray(images[start : start + 1024], dtype=wire).data)
    return found.hexdigest()
