"""Shards on this machine, or at the URLs that are opened (`locations`); those are fetched whole, a few at a time."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any, final

from markovae.data import cache
from markovae.errors import StoppedRun, UserError, reason_of
from markovae.locations import FromFile, is_elsewhere, refusal, without_secrets, without_secrets_of
from markovae.log import log
from markovae.system.files import remove
from markovae.system.regular import glance, mark_of, read_at

OPEN_FILES = 64
FETCHED = 48  # shards from elsewhere that stay in the cache
ATTEMPTS = 4
CHUNK = 1 << 22
BRACES = re.compile(r"\{(\d{1,18})\.\.(\d{1,18})\}")


def require_named(source: str) -> None:
    """Refuse a URL that comes from a file: only the user's own words open the network.

    Raises: UserError for a URL that a configuration or a bundle gave (`FromFile`), showing it.
    """
    if isinstance(source, FromFile) and is_elsewhere(source):
        raise UserError(
            f"{without_secrets(source)} comes from a file, and a URL is opened only if the command itself names it: "
            "give it as DATA (markovae train URL --resume --out RUN, markovae measure RUN URL, markovae quality RUN "
            "URL), or a folder that holds a copy"
        )


def named(source: str) -> tuple[str, ...]:
    """The shards that a source names, by name: a folder of .tar files, one .tar, or a pattern with {000..099}.

    Raises: UserError where there are none.
    """
    if (braces := BRACES.search(source)) is not None:
        first, last = braces[1], braces[2]
        if int(first) > int(last) or int(last) - int(first) >= 1_000_000:
            raise UserError(f"{source} is not a range of shards: write it as {{000..099}}, rising")
        width = len(first) if first.startswith("0") else 0
        return tuple(
            BRACES.sub(str(number).zfill(width), source, count=1) for number in range(int(first), int(last) + 1)
        )
    if source.endswith(".tar"):
        return (source,)
    if is_elsewhere(source):
        found = _listed_elsewhere(source)
    else:
        found = [str(path) for path in Path(source).glob("*.tar") if not path.name.startswith(".")]
    if not found:
        raise UserError(f"{source} holds no .tar files: name a folder of shards, or one shard")
    return tuple(sorted(found))


def beside(folder: str, name: str, limit: int) -> bytes | None:
    """A file in a folder of shards, local or remote; None where it does not exist.

    Raises: UserError for one of more than `limit` bytes, or that cannot be read.
    """
    if not is_elsewhere(folder):
        path = Path(folder) / name
        try:
            if not path.is_file():
                return None
            size = path.stat().st_size
            content = path.read_bytes() if size <= limit else b""
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}): make it readable") from None
    else:
        system, place = _system(f"{folder.rstrip('/')}/{name}")
        try:
            content = system.cat_file(place, start=0, end=limit + 1)
            size = len(content)
        except FileNotFoundError:
            return None
        except Exception as error:  # each file system of fsspec has errors of its own
            raise UserError(
                f"{folder}/{name} cannot be read ({_reason(error, folder)}): check access and network"
            ) from None
    if size > limit:
        raise UserError(f"{folder}/{name} has {size:,} bytes, at most {limit:,} are read")
    return content


@final
class ShardStore:
    """The bytes of shards by number, from any thread.

    Args:
        names: paths, or URLs that fsspec opens.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self._open: OrderedDict[int, int] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.names)

    def facts(self, shard: int) -> list[Any]:
        """[name, size, marks…] of a shard: what changes when it does. Raises: UserError where it is not there."""
        return _facts(self.names[shard])

    def path(self, shard: int) -> Path:
        """The shard as a file on this machine; fetched first where it lies elsewhere.

        Raises: StoppedRun where it cannot be fetched.
        """
        name = self.names[shard]
        return _fetched(name) if is_elsewhere(name) else Path(name)

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on.

        Raises: StoppedRun where they are not to be had, naming the shard.
        """
        try:
            # Read under the lock, so that no other thread moves in the file or closes it meanwhile.
            with self._lock:
                handle = self._handle(shard)
                content = read_at(handle, offset, size)
        except OSError as error:
            raise StoppedRun(
                f"{self.names[shard]} cannot be read ({error.strerror}): restore it, then --resume"
            ) from None
        if len(content) != size:
            raise StoppedRun(f"{self.names[shard]} ends before byte {offset + size:,}: it was cut short; restore it")
        return content

    def fetch_again(self, shard: int) -> bool:
        """Drop the copy of a shard that lies elsewhere, so that it is fetched anew; False for one that lies here."""
        if not is_elsewhere(self.names[shard]):
            return False
        log(f"{without_secrets(self.names[shard])} is damaged in the cache: it is fetched again")
        with self._lock:
            if shard in self._open:
                os.close(self._open.pop(shard))
        remove(_copy_of(self.names[shard])[0])
        return True

    def close(self) -> None:
        """Close every file."""
        with self._lock:
            while self._open:
                os.close(self._open.popitem()[1])

    def __del__(self) -> None:
        self.close()

    def _handle(self, shard: int) -> int:
        if shard not in self._open:
            handle = os.open(self.path(shard), os.O_RDONLY | getattr(os, "O_BINARY", 0))
            while len(self._open) >= OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
            self._open[shard] = handle
        self._open.move_to_end(shard)
        return self._open[shard]


def _facts(name: str) -> list[Any]:
    if not is_elsewhere(name):
        try:
            about = Path(name).stat()
        except OSError as error:
            raise UserError(f"{name} cannot be read ({error.strerror}): give existing shards") from None
        if not stat.S_ISREG(about.st_mode):
            raise UserError(f"{name} is not a regular file: give existing shards")
        return [str(Path(name).resolve()), *mark_of(about), glance(Path(name))]
    system, path = _system(name)
    try:
        about = system.info(path)
    except Exception as error:  # each file system of fsspec has errors of its own
        raise UserError(f"{name} cannot be read ({_reason(error, name)}): give existing shards") from None
    mark = next((str(about[key]) for key in ("ETag", "etag", "mtime", "LastModified", "created") if key in about), "")
    return [name, about.get("size"), mark]


def _system(name: str) -> tuple[Any, str]:
    if (reason := refusal(name)) is not None:
        raise UserError(reason)
    try:
        import fsspec
    except ImportError:
        raise UserError(f"{name} needs fsspec, which is not installed: pip install 'markovae[remote]'") from None
    try:
        system, path = fsspec.core.url_to_fs(name)
    except Exception as error:
        raise UserError(f"{name} cannot be opened by fsspec ({_reason(error, name)})") from None
    return system, path


def _listed_elsewhere(source: str) -> list[str]:
    system, path = _system(source)
    try:
        found = system.glob(f"{path.rstrip('/')}/*.tar")
    except Exception as error:
        raise UserError(f"{source} cannot be listed ({_reason(error, source)})") from None
    return [system.unstrip_protocol(name) for name in found]


def _copy_of(name: str) -> tuple[Path, int | None]:
    """Where the copy of a shard from elsewhere is kept, and its size in bytes if that is known."""
    facts = _facts(name)
    return cache.cache_folder() / "fetched" / f"{hashlib.sha256(repr(facts).encode()).hexdigest()[:32]}.tar", facts[1]


def _fetched(name: str) -> Path:
    target, size = _copy_of(name)
    folder = target.parent
    with suppress(OSError):
        about = target.lstat()
        if stat.S_ISREG(about.st_mode) and size in (None, about.st_size) and not folder.is_symlink():
            os.utime(target)
            return target
        log(f"the fetched shard {target} is damaged (a link, or cut): it is fetched again")
        remove(folder if folder.is_symlink() else target)
    for attempt in range(ATTEMPTS):
        try:
            _fetch(name, target)
            _evict(folder, target)
            return target
        except Exception as error:
            reason = _reason(error, name)
            time.sleep(0.2 * 4**attempt if attempt < ATTEMPTS - 1 else 0)
    raise StoppedRun(f"{name} could not be fetched in {ATTEMPTS} attempts ({reason}): restore access, then --resume")


def _fetch(name: str, target: Path) -> None:
    system, path = _system(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    stage = target.with_name(f".{target.name}-{os.getpid()}-{threading.get_ident()}")
    try:
        with system.open(path, "rb") as source, stage.open("wb") as file:
            shutil.copyfileobj(source, file, CHUNK)
        stage.replace(target)
    finally:
        stage.unlink(missing_ok=True)


def _evict(folder: Path, newest: Path) -> None:
    """Keep the shards that were used last; those open elsewhere stay readable though their names go."""
    aged = []
    for path in folder.glob("*.tar"):
        with suppress(OSError):
            aged.append((path.stat().st_mtime_ns, path))
    for _, path in sorted(aged)[: max(0, len(aged) - FETCHED)]:
        if path != newest:
            path.unlink(missing_ok=True)


def _reason(error: BaseException, location: str) -> str:
    return without_secrets_of(location, reason_of(error))[:200]
