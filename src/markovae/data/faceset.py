"""The data set of faces: 10,000 to train, 1,000 to validate, 1,000 to test, no two with the same pixels."""

import hashlib
import itertools
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from markovae.console import track
from markovae.data import cache
from markovae.data.drawing import SIZES, render
from markovae.data.faces import RECIPE, attributes, caption, short_caption
from markovae.data.findings import Findings, Reading
from markovae.data.holdout import combinations, shows
from markovae.data.images import Digests, ImageData, Pixels, content_digests
from markovae.data.options import DataConfig
from markovae.data.split import Parts
from markovae.data.workers import map_in_processes
from markovae.errors import UserError

COUNTS = (10_000, 1_000, 1_000)
# Below this, drawing takes less time than starting workers.
SERIAL_BELOW = 200
CHUNK = 50


def read_faces(config: DataConfig, counts: tuple[int, int, int] = COUNTS) -> Reading:
    """The faces at 32 x 32 (default) or 64 x 64, drawn in worker processes once and then cached.

    Faces 0, 1, 2, … are walked in order; one whose pixels, at this size, were already seen is dropped and
    recorded. The first counts[0] that stay train, the next validate, the last test; of those that train, the ones
    that show a combination of data.hold_out are left out. A face that trains has a second caption, which leaves things
    out: a model that only ever met whole captions blends what a prompt leaves open.

    Raises: UserError for another size, for one channel, or where the cache folder cannot be written.
    """
    size = config.size or SIZES[0]
    if size not in SIZES or config.shape not in (None, (size, size)):
        raise UserError(f"faces come as 32x32 or 64x64, not {config.width or size}x{size}: set data.size to 32 or 64")
    if config.channels == "grey":
        raise UserError("faces are rgb and told apart by colour: leave data.channels at auto")
    stored, images, digests = _kept(size, counts)
    captions = stored["captions"]
    captions[: counts[0]] = map("\n".join, zip(captions[: counts[0]], stored["short_captions"], strict=True))
    data = ImageData(images=images, captions=tuple(captions), name="faces", digests=digests)
    parts = _parts(counts, stored["dropped"])
    return Reading(data, _held_out(parts, stored["indices"], config.hold_out), _findings(size, stored))


def face_numbers(size: int, counts: tuple[int, int, int] = COUNTS) -> tuple[list[int], list[int], list[int]]:
    """Which face each image of the training, validation and test part is: `attributes(number)` is what it shows."""
    numbers = iter(_kept(size, counts)[0]["indices"])
    train, validation, test = (list(itertools.islice(numbers, count)) for count in counts)
    return train, validation, test


def _kept(size: int, counts: tuple[int, int, int]) -> tuple[dict[str, Any], Pixels, Digests]:
    """(what is known, images, content hashes) of these faces, from the cache; drawn where they are missing."""
    recipe = {
        "recipe": RECIPE,
        "size": size,
        "counts": counts,
        "captions": ["whole", "short"],
        "digests": "sha256",
        "packages": {name: version(name) for name in ("dicebear-core", "dicebear-styles", "resvg_py")},
    }

    def read(kept: cache.Entry) -> tuple[dict[str, Any], Pixels, Digests]:
        return kept.json("faces.json"), kept.array("images.npy"), kept.array("digests.npy")

    return cache.entry(f"faces-{size}-{cache.key_of(recipe)}", partial(_make, size=size, counts=counts), read)


def _parts(counts: tuple[int, int, int], dropped: list[list[int]]) -> Parts:
    ends = list(itertools.accumulate(counts))
    starts = [0, *ends[:-1]]
    train, validation, test = (np.arange(start, end, dtype=np.int64) for start, end in zip(starts, ends, strict=True))
    method = "faces walked in order, repeated pixels dropped"
    return Parts(train, validation, test, method, left_out=len(dropped))


def _held_out(parts: Parts, numbers: list[int], texts: tuple[str, ...]) -> Parts:
    """The parts without the training faces that show one of these combinations."""
    if not texts:
        return parts
    wanted = combinations(texts)
    shown = [attributes(numbers[place]) for place in parts.train.tolist()]
    keep = np.array([not any(shows(face, pair) for pair in wanted) for face in shown], dtype=bool)
    if not keep.any():
        raise UserError("data.hold_out leaves no face to train on: name fewer combinations")
    left = int((~keep).sum())
    method = f"{parts.method}; {left:,} left out of training that show {' or '.join(texts)}"
    return replace(parts, train=parts.train[keep], method=method, left_out=parts.left_out + left)


def _findings(size: int, stored: dict[str, list[int]]) -> Findings:
    walked = len(stored["indices"]) + len(stored["dropped"])
    return Findings(
        kind="faces",
        modes={"RGB": len(stored["indices"])},
        sizes={f"{size}x{size}": len(stored["indices"])},
        notes=(
            f"drawn from faces 0 … {walked - 1}; {len(stored['dropped'])} dropped because their pixels "
            "repeated an earlier face",
        ),
    )


def _make(folder: Path, size: int, counts: tuple[int, int, int]) -> None:
    images, indices, dropped = walk(size, sum(counts))
    np.save(folder / "images.npy", images, allow_pickle=False)
    np.save(folder / "digests.npy", content_digests(images), allow_pickle=False)
    stored = {
        "indices": indices,
        "dropped": dropped,
        "captions": [caption(attributes(index)) for index in indices],
        "short_captions": [short_caption(index) for index in indices[: counts[0]]],
    }
    cache.write_json(folder / "faces.json", stored)


def walk(size: int, total: int) -> tuple[Pixels, list[int], list[list[int]]]:
    """The first `total` faces with different pixels, in order of their index.

    Returns: images (total, 3, size, size) uint8; their indices; [index, earlier equal index] of the dropped.
    """
    images = np.empty((total, 3, size, size), dtype=np.uint8)
    seen: dict[bytes, int] = {}
    dropped: list[list[int]] = []
    start = 0
    while len(seen) < total:
        batch = range(start, start + total - len(seen))
        drawn = map_in_processes(partial(render, size=size), batch, CHUNK, SERIAL_BELOW)
        for index, pixels in zip(batch, track(drawn, "drawing faces", len(batch)), strict=True):
            digest = hashlib.sha256(pixels.tobytes()).digest()
            if digest in seen:
                dropped.append([index, seen[digest]])
            else:
                images[len(seen)] = pixels
                seen[digest] = index
        start = batch.stop
    return images, list(seen.values()), dropped
