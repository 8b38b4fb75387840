"""The calls that change a disk, in one place: the seam where tests fail, record and kill them."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import sys
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self, final

from markovae.errors import StoppedRun, UserError

WINDOWS = os.name == "nt"  # where folders cannot be opened, nor files flushed that are open to be read
FULL_SYNC = 51 if sys.platform == "darwin" else None  # F_FULLFSYNC
# What a file system answers that cannot flush, and for folders: nothing more can be done there, and nothing is wrong.
UNFLUSHED = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY}
UNFLUSHED_FOLDER = UNFLUSHED | {errno.EACCES, errno.EPERM, errno.EBADF, errno.EISDIR}
NO_LINK = getattr(os, "O_NOFOLLOW", 0)
# A folder that is gone through; a right to list it is not needed where the system says so.
FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0) | NO_LINK
HANDLES = bool(NO_LINK) and {os.open, os.rename, os.mkdir, os.unlink, os.rmdir} <= os.supports_dir_fd


class Disk(ABC):
    """What writing files asks of an operating system. Every method may raise OSError."""

    @abstractmethod
    def inside(self, root: Path) -> Disk:
        """The same disk, which changes what lies below `root` alone and follows no link there; its free() as before.

        `root` itself may be a link: it is followed once, now.
        """

    @abstractmethod
    def open(self, path: Path, flags: int) -> int:
        """A handle of a file or, with os.O_RDONLY, of a folder."""

    @abstractmethod
    def write(self, handle: int, content: memoryview) -> int:
        """Write from the start of `content`; how many bytes were written, at least one."""

    @abstractmethod
    def sync(self, handle: int) -> None:
        """Flush a file's bytes, or a folder's names, to the disk."""

    @abstractmethod
    def close(self, handle: int) -> None:
        """Close a handle."""

    @abstractmethod
    def rename(self, source: Path, target: Path) -> None:
        """Give a file or folder another name; a file, or an empty folder, of that name is replaced."""

    @abstractmethod
    def mkdir(self, path: Path) -> None:
        """Make one folder."""

    @abstractmethod
    def unlink(self, path: Path) -> None:
        """Delete a file."""

    @abstractmethod
    def rmdir(self, path: Path) -> None:
        """Delete an empty folder."""

    @abstractmethod
    def free(self, path: Path) -> int:
        """Bytes free on the disk of a file or folder."""


@final
class SystemDisk(Disk):
    """The operating system's own.

    Args:
        root: as `inside` has it; None is the whole disk, links and all.
    """

    def __init__(self, root: Path | None = None) -> None:
        self._root = None if root is None else root.absolute()
        self._real = None if root is None else root.resolve()

    def inside(self, root: Path) -> Self:
        """Folders on the way are opened one in another, so that none can become a link meanwhile."""
        if self._root is not None and root.absolute().is_relative_to(self._root):
            return self
        return type(self)(root)

    def open(self, path: Path, flags: int) -> int:
        """os.open, in binary."""
        with self._named(path, opened=True) as (name, folder):
            try:
                return os.open(name, flags | getattr(os, "O_BINARY", 0) | self._no_link, 0o666, dir_fd=folder)
            except PermissionError:
                if flags != os.O_RDONLY or not path.is_dir():
                    raise
                return os.open(name, FOLDER, dir_fd=folder)  # one that may be written to and not listed

    def write(self, handle: int, content: memoryview) -> int:
        """os.write."""
        return os.write(handle, content)

    def sync(self, handle: int) -> None:
        """os.fsync; on a Mac, where that stops at the drive's own memory, what goes beyond it, where the drive has it.

        A drive that cannot flush is left alone: network drives refuse it for folders, some for everything.
        """
        if FULL_SYNC is not None:
            import fcntl

            with suppress(OSError):
                fcntl.fcntl(handle, FULL_SYNC)
                return
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in (UNFLUSHED_FOLDER if stat.S_ISDIR(os.fstat(handle).st_mode) else UNFLUSHED):
                raise

    def close(self, handle: int) -> None:
        """os.close."""
        os.close(handle)

    def rename(self, source: Path, target: Path) -> None:
        """os.replace."""
        with self._named(source) as (old, there), self._named(target) as (new, here):
            os.replace(old, new, src_dir_fd=there, dst_dir_fd=here)

    def mkdir(self, path: Path) -> None:
        """os.mkdir."""
        with self._named(path) as (name, folder):
            os.mkdir(name, dir_fd=folder)

    def unlink(self, path: Path) -> None:
        """os.unlink."""
        with self._named(path) as (name, folder):
            os.unlink(name, dir_fd=folder)

    def rmdir(self, path: Path) -> None:
        """os.rmdir."""
        with self._named(path) as (name, folder):
            os.rmdir(name, dir_fd=folder)

    def free(self, path: Path) -> int:
        """Of the file system that holds the path, for this user."""
        return shutil.disk_usage(path).free

    @property
    def _no_link(self) -> int:
        return 0 if self._root is None else NO_LINK

    @contextmanager
    def _named(self, path: Path, opened: bool = False) -> Iterator[tuple[Path | str, int | None]]:
        """A name for a path, and the handle of the folder it is in; None where the name is the whole path."""
        if self._root is None or self._real is None:
            yield path, None
            return
        parts = path.absolute().relative_to(self._root).parts or (".",)
        if not HANDLES:
            yield _looked_at(self._real, parts, len(parts) if opened else len(parts) - 1), None
            return
        folder = os.open(self._real, FOLDER)
        try:
            for part in parts[:-1]:
                outer, folder = folder, os.open(part, FOLDER, dir_fd=folder)
                os.close(outer)
            yield parts[-1], folder
        finally:
            os.close(folder)


def _looked_at(root: Path, parts: tuple[str, ...], count: int) -> Path:
    """Where the system has no handles of folders: the path, of which the first `count` parts are no links."""
    for place in range(1, count + 1):
        path = root.joinpath(*parts[:place])
        if path.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return root.joinpath(*parts)


SYSTEM = SystemDisk()


STAGE = ".tmp-"
TRIES = 100  # of a folder that others replace at the same time
_ASIDE = re.compile(r"\.tmp-old-(.+)-[0-9a-f]{8}")
_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space of your quota",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f)",
    errno.EIO: "check the disk",
    errno.ELOOP: "put what the link leads to in its place",
}


def sync(path: Path, disk: Disk = SYSTEM) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    if WINDOWS and path.is_dir():
        return
    handle = disk.open(path, os.O_RDWR if WINDOWS else os.O_RDONLY)
    try:
        disk.sync(handle)
    finally:
        disk.close(handle)


def write_synced(path: Path, content: bytes, disk: Disk = SYSTEM) -> None:
    """Write a new file and flush it; for files inside a staged folder."""
    handle = disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        _write_all(handle, content, disk)
        disk.sync(handle)
    finally:
        disk.close(handle)


def append(path: Path, content: bytes, disk: Disk = SYSTEM) -> None:
    """Add to the end of a file, which is made where it is missing; not flushed.

    Raises:
        StoppedRun: naming the path, the bytes needed and the bytes free, when the disk refuses.
    """
    try:
        handle = disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            _write_all(handle, content, disk)
        finally:
            disk.close(handle)
    except OSError as error:
        raise refused(path, len(content), error, disk) from error


def write_file(path: Path, content: bytes, disk: Disk = SYSTEM) -> None:
    """Write a file of the person's choice as `replace_file` does.

    Of a link the file that it leads to is replaced; a device or a pipe is written to.
    Raises:
        StoppedRun: naming the path, the bytes needed and the bytes free, when the disk refuses.
    """
    # /dev/stdout leads to whatever the shell opened, by a name that is no file's.
    if path.parent == Path("/dev") or (path.exists() and not path.is_file()):
        append(path, content, disk)
    else:
        replace_file(path.resolve() if path.is_symlink() else path, content, disk)


def replace_file(path: Path, content: bytes, disk: Disk = SYSTEM) -> None:
    """Replace `path`, even a link, by a file with this content: the old one stays until the new one is on the disk.

    Its folder is made where it is missing.
    Raises:
        StoppedRun: naming the path, the bytes needed and the bytes free, when the disk refuses.
    """
    stage = path.with_name(f"{STAGE}{path.name}-{_token()}")
    try:
        make_folder(path.parent, disk)
        write_synced(stage, content, disk)
        disk.rename(stage, path)
        sync(path.parent, disk)
    except OSError as error:
        raise refused(path, len(content), error, disk) from error
    finally:
        remove(stage, disk)


def make_folder(path: Path, disk: Disk = SYSTEM) -> None:
    """Make a folder and those above it, each flushed into the one that holds it; one that is there stays."""
    if path.is_dir():
        return
    make_folder(path.parent, disk)
    try:
        disk.mkdir(path)
    except FileExistsError:
        if not path.is_dir():
            raise
    sync(path.parent, disk)


@contextmanager
def staged_folder(target: Path, disk: Disk = SYSTEM, *, first_stays: bool = False) -> Iterator[Path]:
    """A fresh folder beside `target` that becomes `target` when the block ends well, and vanishes when it does not.

    The files written in it are the caller's to flush (`write_synced`, `sync_files`).

    Args:
        first_stays: what happens to a folder of this name that is there by then. True: it stays, and the new one
            vanishes, unless it is empty. False: an empty one is filled, so that a mount, a link or the working folder
            stays what it is; another one is replaced: it steps aside first and is deleted last.
    """
    token = _token()
    if not first_stays and _is_empty(target):
        with _filling(target, target / f"{STAGE}{token}", disk) as stage:
            yield stage
        return
    stage, aside = (
        target.with_name(f"{STAGE}{target.name}-{token}"),
        target.with_name(f"{STAGE}old-{target.name}-{token}"),
    )
    disk.mkdir(stage)
    replaced = False
    try:
        yield stage
        sync(stage, disk)
        if first_stays:
            _move_unless_there(stage, target, disk)
        else:
            _swap(stage, target, aside, disk)
            replaced = True
        sync(target.parent, disk)
    finally:
        remove(stage, disk)
        if replaced or target.exists():
            remove(aside, disk)


def write_folder(target: Path, files: Mapping[str, bytes], disk: Disk = SYSTEM) -> Path:
    """Write a folder with these files, by name: whole or not at all; the folder.

    It is `target`, or where another process has filled that meanwhile, the next free name beside it.

    Raises:
        UserError: where no folder can be made there.
        StoppedRun: when the disk refuses a file.
    """
    try:
        make_folder(target.parent, disk)
        require_writable(target.parent, disk)
        place, own = _claimed(target, disk)
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror}): name another folder with --out") from None
    try:
        with staged_folder(place, disk, first_stays=own) as stage:
            for name, content in files.items():
                write_synced(stage / name, content, disk)
    except OSError as error:
        raise refused(place, sum(map(len, files.values())), error, disk) from error
    finally:
        if own:
            with suppress(OSError):
                place.rmdir()  # still empty: nothing was written
    return place


def _claimed(target: Path, disk: Disk) -> tuple[Path, bool]:
    """A folder that is empty, and whether it was made here: no other process takes it."""
    place, number = target, 1
    while True:
        try:
            disk.mkdir(place)
            return place, True
        except FileExistsError:
            if place == target and place.is_dir() and not any(place.iterdir()):
                return place, False
        number += 1
        place = target.absolute().with_name(f"{target.absolute().name}-{number}")


def sync_files(folder: Path) -> None:
    """Flush every file of a folder, of any maker."""
    for path in sorted(folder.iterdir()):
        sync(path)


def discard(path: Path, disk: Disk = SYSTEM) -> None:
    """Delete a folder that others may be reading: it loses its name at once, whole, and is deleted then."""
    aside = path.with_name(f"{STAGE}gone-{_token()}")
    disk.rename(path, aside)
    remove(aside, disk)


def remove(path: Path, disk: Disk = SYSTEM) -> None:
    """Delete a file, or a folder with all that is in it, as far as the disk lets us; nothing is raised.

    Of a link the link itself is deleted, and nothing is reached through one.
    """
    disk = disk.inside(path.parent)
    with suppress(OSError):
        if not stat.S_ISDIR(path.lstat().st_mode):
            disk.unlink(path)
            return
        for inside in path.iterdir():
            remove(inside, disk)
        disk.rmdir(path)


def clear_stages(folder: Path, disk: Disk = SYSTEM) -> None:
    """Delete what an interrupted write left behind in `folder`; what had stepped aside for it comes back."""
    disk = disk.inside(folder)
    for stage in folder.glob(f"{STAGE}*"):
        aside = _ASIDE.fullmatch(stage.name)
        if aside and not stage.is_symlink() and not os.path.lexists(target := stage.with_name(aside[1])):
            with suppress(OSError):
                disk.rename(stage, target)
            continue
        remove(stage, disk)


def free_bytes(path: Path, disk: Disk = SYSTEM) -> int:
    """Bytes free on the disk of `path`, or of its nearest parent that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return disk.free(path)


def refused(path: Path, needed: int, error: OSError, disk: Disk = SYSTEM) -> StoppedRun:
    """A refused write in one sentence: path, reason, bytes needed and free, remedy."""
    remedy = _REMEDIES.get(error.errno or 0, "make the folder writable")
    free = "an unknown number is"
    with suppress(OSError):
        free = f"{free_bytes(path.parent, disk):,} are"
    return StoppedRun(
        f"{path} could not be written ({error.strerror}): it needs {needed:,} bytes and {free} free; {remedy}, then "
        "go on (train: --resume)"
    )


def require_new_folder(out: Path, option: str = "") -> None:
    """Nothing is overwritten.

    Args:
        option: of the command line that names it.
    Raises:
        UserError: for a folder that holds anything, or a file.
    """
    named = f"{option} {out}".lstrip()
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"{named} is not empty: name a new folder, or empty it")
    if out.exists() and not out.is_dir():
        raise UserError(f"{named} is a file: name a new folder")


def require_writable(folder: Path, disk: Disk = SYSTEM) -> None:
    """Check that `folder` takes files, by writing one.

    Raises:
        UserError: with the reason and the remedy.
    """
    probe = folder / f"{STAGE}probe-{_token()}"
    try:
        write_synced(probe, b"x", disk)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): name another folder with --out") from None
    finally:
        remove(probe, disk)


def require_free_space(folder: Path, needed: int, disk: Disk = SYSTEM) -> int:
    """Check before work starts that `folder` takes files and has `needed` bytes free; the number that is.

    Raises:
        UserError: with the figures and the remedy.
    """
    require_writable(folder, disk)
    free = free_bytes(folder, disk)
    if free < needed:
        raise UserError(
            f"{folder} has {free:,} bytes free and the run needs {needed:,} for its checkpoints: "
            "free some space or name another disk with --out"
        )
    return free


def _write_all(handle: int, content: bytes, disk: Disk) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[disk.write(handle, rest) :]


def _is_empty(folder: Path) -> bool:
    """Whether a folder is there and empty; one that another process moved aside and emptied meanwhile is neither."""
    try:
        before = folder.stat()
        empty = folder.is_dir() and not any(folder.iterdir())
        after = folder.stat()
    except FileNotFoundError:
        return False
    # A new folder may have the number of one that was just deleted, but not its time.
    return empty and (before.st_ino, before.st_ctime_ns) == (after.st_ino, after.st_ctime_ns)


@contextmanager
def _filling(target: Path, stage: Path, disk: Disk) -> Iterator[Path]:
    """A fresh folder inside the empty one `target`, whose files move up when the block ends well, or all vanish."""
    moved: list[Path] = []
    disk.mkdir(stage)
    try:
        yield stage
        sync(stage, disk)
        for path in sorted(stage.iterdir()):
            moved.append(target / path.name)
            disk.rename(path, moved[-1])
        sync(target, disk)
    except BaseException:
        for path in moved:
            remove(path, disk)
        raise
    finally:
        remove(stage, disk)


def _swap(stage: Path, target: Path, aside: Path, disk: Disk) -> None:
    for _ in range(TRIES):
        if target.exists():
            with suppress(FileNotFoundError):  # another process, which puts its own there, was faster
                disk.rename(target, aside)
        try:
            disk.rename(stage, target)
            return
        except OSError as error:
            # A folder of another process, which may have stepped aside for a third one's by now.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                _put_back(aside, target, disk)
                raise
        except BaseException:
            _put_back(aside, target, disk)
            raise
        remove(aside, disk)  # the other's is newer: it is what steps aside now
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(target))


def _put_back(aside: Path, target: Path, disk: Disk) -> None:
    if aside.exists():
        disk.rename(aside, target)


def _move_unless_there(stage: Path, target: Path, disk: Disk) -> None:
    try:
        disk.rename(stage, target)
    except OSError:
        if not target.is_dir():
            raise
        if not any(target.iterdir()):  # some systems rename over no folder at all
            target.rmdir()
            disk.rename(stage, target)


def _token() -> str:
    return uuid.uuid4().hex[:8]
