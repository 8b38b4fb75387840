"""Features of many images, and of real ones from the cache."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from markovae.console import say, track
from markovae.data import cache
from markovae.errors import UserError
from markovae.quality.extractors.extractor import BATCH, Extractor
from markovae.quality.neighbours import Images
from markovae.quality.resize import RESIZE


def features(extractor: Extractor, images: Images, bins: int, label: str = "features") -> Tensor:
    """Features of every image, (n, d), float32, with progress on stderr.

    Args:
        images: digits 0…bins−1, (n, C, H, W), read batch by batch.   label: what the progress is called.
    """
    starts = range(0, len(images), BATCH)
    parts = [extractor(np.asarray(images[start : start + BATCH]), bins) for start in track(starts, label)]
    return torch.cat(parts) if parts else torch.zeros(0, extractor.dims)


def cached_features(extractor: Extractor, images: Images, bins: int, label: str = "features") -> Tensor:
    """The same from the user's cache folder, under a hash of the images, the extractor and the resize rule.

    An entry that is damaged is made anew; where the folder cannot be written, nothing is kept, and said so.
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
        say(f"features are not kept for the next time: {error}")
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
