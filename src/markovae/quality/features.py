"""Features of many images, and of real ones from the cache."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from markovae.console import say, track
from markovae.data.cache import cache_folder
from markovae.errors import StoppedRun
from markovae.files import write_file
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

    An entry that is damaged is made again; where the folder cannot be written, nothing is kept, and said so.
    """
    path = entry_of(extractor, images, bins)
    found = _read(path, (len(images), extractor.dims))
    if found is not None:
        return found
    made = features(extractor, images, bins, label)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, safetensors.torch.save({"features": made, "sha256": _digest(made)}))
    except (OSError, StoppedRun) as error:
        say(f"features are not kept for the next time: {error}")
    return made


def entry_of(extractor: Extractor, images: Images, bins: int) -> Path:
    """Where the features of these images lie in the cache."""
    recipe = [RESIZE, extractor.name, extractor.digest, bins, content_hash(images)]
    key = hashlib.sha256(json.dumps(recipe).encode("ascii")).hexdigest()
    return cache_folder() / "quality" / f"{key[:40]}.safetensors"


def content_hash(images: Images) -> str:
    """SHA-256 over shape and pixels (16-bit values little-endian), hex: equal only for equal images in equal order."""
    wire = images.dtype.newbyteorder("<")
    found = hashlib.sha256(repr((tuple(images.shape), wire.itemsize)).encode("ascii"))
    for start in range(0, len(images), 1024):
        found.update(np.ascontiguousarray(images[start : start + 1024], dtype=wire).data)
    return found.hexdigest()


def _digest(features: Tensor) -> Tensor:
    content = hashlib.sha256(features.contiguous().numpy().astype("<f4").tobytes()).digest()
    return torch.tensor(list(content), dtype=torch.uint8)


def _read(path: Path, shape: tuple[int, int]) -> Tensor | None:
    if not path.is_file():
        return None
    try:
        stored = safetensors.torch.load(path.read_bytes())
        found, digest = stored["features"], stored["sha256"]
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError):
        found, digest = torch.zeros(0), torch.zeros(0)
    if found.dtype == torch.float32 and tuple(found.shape) == shape and torch.equal(_digest(found), digest):
        return found
    say(f"{path} is damaged: its features are made again")
    return None
