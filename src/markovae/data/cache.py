"""The user's cache folder: arrays (.npy) and records (.json) that can be made again, written atomically."""

import errno
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from markovae.data.images import Pixels
from markovae.errors import UserError
from markovae.files import STAGE, free_bytes, make_folder, remove, staged_folder, sync_files

# Above this, pixels stay on disk and are mapped.
LARGE_BYTES = 2**30
ABANDONED = 7 * 86_400.0  # seconds
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def cache_folder() -> Path:
    """$MARKOVAE_CACHE, else $XDG_CACHE_HOME/markovae, else ~/.cache/markovae. It need not exist yet."""
    if own := os.environ.get("MARKOVAE_CACHE"):
        return Path(own).expanduser()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "markovae"


def key_of(recipe: object) -> str:
    """16 hex digits of SHA-256 over the JSON text of `recipe` (sorted keys)."""
    text = json.dumps(recipe, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


@contextmanager
def staged(entry: Path) -> Iterator[Path]:
    """A fresh folder that becomes `entry` when the block ends well, and vanishes when it does not.

    Every file is synced before the folder is renamed, so an entry is whole or absent. Where another process
    finished the same entry first, that one stays.

    Raises: UserError where the cache folder cannot be written, or is full.
    """
    with ExitStack() as stack:
        try:
            make_folder(entry.parent)
            _clear_abandoned(entry.parent)
            stage = stack.enter_context(staged_folder(entry, first_stays=True))
        except OSError as error:
            raise _refused(entry.parent, error) from None
        try:
            yield stage
            sync_files(stage)
        except OSError as error:
            if error.errno not in FULL:
                raise  # not the cache's: what the block itself met
            raise _refused(entry.parent, error) from None


def _clear_abandoned(folder: Path) -> None:
    """What was being made when its process was killed, a week ago or more."""
    for stage in folder.glob(f"{STAGE}*"):
        with suppress(OSError):
            if time.time() - stage.stat().st_mtime > ABANDONED:
                remove(stage)


def _refused(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"the cache folder {folder} cannot be written ({error.strerror}, {free_bytes(folder):,} bytes free): "
        "set MARKOVAE_CACHE to a folder that can"
    )


def entry(name: str, make: Callable[[Path], None]) -> Path:
    """The cache entry `name`; `make(folder)` fills it where it is missing."""
    path = cache_folder() / name
    if not path.is_dir():
        with staged(path) as stage:
            make(stage)
    return path


def write_json(path: Path, value: object) -> None:
    """Write `value` as JSON text; ASCII alone, since names of files may hold what is no UTF-8."""
    path.write_text(json.dumps(value), encoding="ascii")


def read_json(path: Path) -> Any:
    """The value in a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def new_array(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """A mapped .npy file to fill, its room taken beforehand: a disk that fills up under a mapping kills the process.

    A file system that cannot be asked for room is not.

    Raises: UserError where the disk has not the room.
    """
    size, free = math.prod(shape) * dtype.itemsize, free_bytes(path.parent)
    if free < size:
        raise UserError(
            f"the cache folder {path.parent.parent} has {free / 2**30:.1f} GiB free and needs {size / 2**30:.1f}: "
            "set MARKOVAE_CACHE to a larger disk"
        )
    made: np.memmap[Any, Any] = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate") and size:
        with path.open("r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                if error.errno in FULL:
                    raise
    return made


def read_array(path: Path) -> Pixels:
    """The array of a .npy file: in RAM up to 1 GiB, memory-mapped beyond. Pickled objects are refused."""
    if path.stat().st_size > LARGE_BYTES:
        mapped: Pixels = np.load(path, mmap_mode="r", allow_pickle=False)
        return mapped
    array: Pixels = np.load(path, allow_pickle=False)
    return array
