"""The user's cache folder: entries (arrays, records) that can be made again, whole or absent, compared when opened."""

import errno
import functools
import hashlib
import json
import math
import os
import stat
import tempfile
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, final

import numpy as np

from markovae.errors import UserError, reason_of
from markovae.log import log
from markovae.system.files import STAGE, discard, free_bytes, make_folder, remove, sync, sync_files
from markovae.system.regular import open_regular, read_at

Result = TypeVar("Result")
# Above this, pixels stay on disk and are mapped.
LARGE_BYTES = 2**30
ABANDONED = 7 * 86_400.0  # seconds
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
SEAL, FORMAT, LONGEST_SEAL = "entry.json", 1, 1 << 16
BLOCK = 1 << 22  # bytes of one checksum
# Whatever reading a damaged file may end in.
DAMAGED = (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, RecursionError)


def cache_folder() -> Path:
    """$MARKOVAE_CACHE, else $XDG_CACHE_HOME/markovae, else ~/.cache/markovae. It need not exist yet.

    Without a writable home it is a folder of this user below the temporary one, which is logged once.

    Raises: UserError where that folder is someone else's.
    """
    if own := os.environ.get("MARKOVAE_CACHE"):
        try:
            return Path(own).expanduser()
        except RuntimeError:
            raise UserError(f"MARKOVAE_CACHE={own} has an unknown user in its path: give the whole path") from None
    folder = _home_cache()
    return _temporary_cache() if folder is None else folder


def _home_cache() -> Path | None:
    """The cache folder below the user's home, or None where none can be made there."""
    try:
        home = os.environ.get("XDG_CACHE_HOME")
        folder = (Path(home) if home else Path.home() / ".cache") / "markovae"
        there = next(path for path in (folder, *folder.parents) if path.exists())
        return folder if there.is_dir() and os.access(there, os.W_OK | os.X_OK) else None
    except (RuntimeError, OSError):  # no HOME and no entry among the users, or a home that may not be looked into
        return None


@functools.cache
def _temporary_cache() -> Path:
    """A folder that only this user may enter; the same in each process."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    try:
        folder = Path(tempfile.gettempdir()) / f"markovae-{user}"
        with suppress(FileExistsError):
            folder.mkdir(0o700)
        about = folder.lstat()
    except OSError as error:
        raise UserError(f"the cache folder cannot be made ({error.strerror}): set MARKOVAE_CACHE to a folder") from None
    if not stat.S_ISDIR(about.st_mode) or (os.name != "nt" and (about.st_uid, about.st_mode & 0o077) != (user, 0)):
        raise UserError(f"{folder} is not a private folder of this user: set MARKOVAE_CACHE to a folder for the cache")
    log(f"no home folder that can be written: the cache is {folder}; set MARKOVAE_CACHE to keep it elsewhere")
    return folder


def key_of(recipe: object) -> str:
    """16 hex digits of SHA-256 over the JSON text of `recipe` (sorted keys)."""
    text = json.dumps(recipe, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


@final
class Entry:
    """A whole cache entry: its files, open, so that they stay readable where another process takes it away.

    Args:
        files: each by its name.
    """

    def __init__(self, files: Mapping[str, BinaryIO]) -> None:
        self._files = files

    def bytes(self, name: str) -> bytes:
        """The content of a file."""
        file = self._files[name]
        file.seek(0)
        return file.read()

    def json(self, name: str) -> Any:
        """The value in a JSON file."""
        return json.loads(self.bytes(name))

    def array(self, name: str, mapped: bool = False) -> np.ndarray[Any, Any]:
        """The array of a .npy file: in RAM up to 1 GiB, memory-mapped beyond or where asked for; never a pickle."""
        file = self._files[name]
        file.seek(0)
        if not mapped and os.fstat(file.fileno()).st_size <= LARGE_BYTES:
            array: np.ndarray[Any, Any] = np.load(file, allow_pickle=False)
            return array
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"{name} has version {version} of its header")
        shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
        opened: Any = file  # numpy asks for less than its types say
        order: Any = "F" if by_column else "C"
        return np.memmap(opened, dtype, mode="r", offset=file.tell(), shape=shape, order=order)


def entry(
    name: str, make: Callable[[Path], None], read: Callable[[Entry], Result], folder: Path | None = None
) -> Result:
    """What `read` takes from the cache entry `name`, which `make(stage)` fills where it is missing.

    Every file's size and checksum is compared with the entry's seal. An entry that does not fit, or that `read` fails
    on, is made again, with a message. Several processes may do so at once: what one has opened or made is its own.

    Args:
        folder: that the entry lies in; left out, the cache folder.
    Raises: UserError where the cache folder cannot be written, or is full.
    """
    path = (cache_folder() if folder is None else folder) / name
    while (mark := _mark(path)) is not None:
        try:
            with _opened(path, name) as found:
                return read(found)
        except DAMAGED as error:
            if _mark(path) != mark:
                continue  # another process replaced it meanwhile
            log(f"the cache entry {path} is damaged ({reason_of(error)[:200]}): it is made again")
            forget(path)
            break
    with _staged(path) as stage:
        make(stage)
        write_json(stage / SEAL, _seal(stage, name))
        with _opened(stage, name) as found:
            return read(found)


def forget(path: Path) -> None:
    """Take away a cache entry, or what has its name; another process may have been first."""
    with suppress(OSError):
        discard(path)


def is_kept(name: str) -> bool:
    """Whether there is an entry of this name, whole or not."""
    return _mark(cache_folder() / name) is not None


def _mark(path: Path) -> tuple[int, int] | None:
    """What changes when another folder gets this name; None where nothing has it. Links are not followed."""
    try:
        about = path.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _refused(path.parent, error) from None
    return about.st_ino, about.st_ctime_ns


@contextmanager
def _opened(path: Path, name: str) -> Iterator[Entry]:
    """The files of an entry that are as its seal says.

    Raises: one of DAMAGED where anything is not.
    """
    if path.is_symlink() or not path.is_dir():
        raise ValueError("it is not a folder")
    with ExitStack() as stack:
        sealed = stack.enter_context(open_regular(path / SEAL, follow=False))
        seal = json.loads(sealed.read(LONGEST_SEAL))
        if seal["entry"] != name or seal["format"] != FORMAT:
            raise ValueError(f"it was made as {str(seal['entry'])[:80]!r} in format {str(seal['format'])[:20]!r}")
        files = {}
        for known, sizes in seal["files"].items():
            if known != Path(known).name:
                raise ValueError(f"{known[:80]!r} is not a file of an entry")
            files[known] = stack.enter_context(open_regular(path / known, follow=False))
            if sizes != _checksum(files[known]):
                raise ValueError(f"{known!r} is not what was written")
        yield Entry(files)


def _seal(stage: Path, name: str) -> dict[str, Any]:
    """What an entry is made of: size and checksum of each file."""
    files = {}
    for path in sorted(stage.iterdir()):
        with open_regular(path, follow=False) as file:
            files[path.name] = _checksum(file)
    return {"format": FORMAT, "entry": name, "files": files}


def _checksum(file: BinaryIO) -> list[Any]:
    """[bytes, SHA-256 over the CRC-32 of its blocks]: against damage, and fast enough for every opening."""
    handle, size = file.fileno(), os.fstat(file.fileno()).st_size
    starts = range(0, size, BLOCK)

    def checked(start: int) -> bytes:
        return zlib.crc32(read_at(handle, start, BLOCK)).to_bytes(4, "little")

    if len(starts) < 4 or not hasattr(os, "pread"):
        found = b"".join(map(checked, starts))
    else:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
            found = b"".join(threads.map(checked, starts))
    return [size, hashlib.sha256(found).hexdigest()]


@contextmanager
def _staged(path: Path) -> Iterator[Path]:
    """A fresh folder that becomes `path` when the block ends well, and vanishes when it does not.

    Every file is synced before the folder is renamed, so an entry is whole or absent. Where another process
    finished the same entry first, that one stays.

    Raises: UserError where the cache folder cannot be written, or is full.
    """
    stage = path.with_name(f"{STAGE}{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        make_folder(path.parent)
        _clear_abandoned(path.parent)
        stage.mkdir()
    except OSError as error:
        raise _refused(path.parent, error) from None
    try:
        yield stage
        sync_files(stage)
        sync(stage)
        _place(stage, path)
    except OSError as error:
        if error.errno not in FULL:
            raise  # not the cache's: what the block itself met
        raise _refused(path.parent, error) from None
    finally:
        remove(stage)


def _place(stage: Path, path: Path) -> None:
    try:
        stage.rename(path)
        sync(path.parent)
    except OSError as error:
        if _mark(path) is None or path.is_symlink() or not path.is_dir():
            log(f"the cache entry {path} is not kept for the next time ({reason_of(error)[:200]})")


def _clear_abandoned(folder: Path) -> None:
    """What was being made when its process was killed, a week ago or more."""
    for stage in folder.glob(f"{STAGE}*"):
        with suppress(OSError):
            if time.time() - stage.stat().st_mtime > ABANDONED:
                remove(stage)


def _refused(folder: Path, error: OSError) -> UserError:
    free = "an unknown number of"
    with suppress(OSError):
        free = f"{free_bytes(folder):,}"
    return UserError(
        f"the cache folder {folder} cannot be written ({error.strerror}, {free} bytes free): "
        "set MARKOVAE_CACHE to a folder that can"
    )


def write_json(path: Path, value: object) -> None:
    """Write `value` as JSON text; ASCII alone, since file names may not be UTF-8."""
    path.write_text(json.dumps(value), encoding="ascii")


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
