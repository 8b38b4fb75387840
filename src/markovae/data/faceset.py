"""The data set of faces: 10,000 to train, 1,000 to validate, 1,000 to test, no two with the same pixels."""

import hashlib
import itertools
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

from markovae.console import track
from markovae.data import cache
from markovae.data.drawing import SIZES, render
from markovae.data.faces import RECIPE, attributes, caption
from markovae.data.findings import Findings, Reading
from markovae.data.images import ImageData, Pixels
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
    recorded. The first counts[0] that stay train, the next validate, the last test.

    Raises: UserError for another size, for one channel, or where the cache folder cannot be written.
    """
    size = config.size or SIZES[0]
    if size not in SIZES or config.shape not in (None, (size, size)):
        raise UserError(f"faces come as 32x32 or 64x64, not {config.width or size}x{size}: set data.size to 32 or 64")
    if config.channels == "grey":
        raise UserError("faces are rgb and told apart by colour: leave data.channels at auto")
    recipe = {
        "recipe": RECIPE,
        "size": size,
        "counts": counts,
        "packages": {name: version(name) for name in ("dicebear-core", "dicebear-styles", "resvg_py")},
    }
    folder = cache.entry(f"faces-{size}-{cache.key_of(recipe)}", partial(_make, size=size, total=sum(counts)))
    stored = cache.read_json(folder / "faces.json")
    data = ImageData(images=cache.read_array(folder / "images.npy"), captions=tuple(stored["captions"]), name="faces")
    return Reading(data, _parts(counts, stored["dropped"]), _findings(size, stored))


def _parts(counts: tuple[int, int, int], dropped: list[list[int]]) -> Parts:
    ends = list(itertools.accumulate(counts))
    starts = [0, *ends[:-1]]
    train, validation, test = (np.arange(start, end, dtype=np.int64) for start, end in zip(starts, ends, strict=True))
    method = "faces walked in order, repeated pixels dropped"
    return Parts(train, validation, test, method, left_out=len(dropped))


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


def _make(folder: Path, size: int, total: int) -> None:
    images, indices, dropped = walk(size, total)
    np.save(folder / "images.npy", images, allow_pickle=False)
    captions = [caption(attributes(index)) for index in indices]
    cache.write_json(folder / "faces.json", {"indices": indices, "dropped": dropped, "captions": captions})


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
