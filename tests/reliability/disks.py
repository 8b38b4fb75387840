"""Disks that fail, kill, or write down what they are asked: what the seam of `markovae.system.files` is for."""

from __future__ import annotations

import os
import signal
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from markovae.system.files import SYSTEM, Disk

WRITES = ("open", "write", "sync", "rename", "mkdir")  # without these there is no file
DELETES = ("unlink", "rmdir")


class Watcher(ABC):
    """What happens around the calls of a `WatchedDisk`."""

    @abstractmethod
    def before(self, call: str, path: Path) -> None:
        """A call is about to be made on this path; raise to refuse it."""

    @abstractmethod
    def after(self, call: str, path: Path, content: bytes) -> None:
        """It was made; `content` is what was written, or the new name."""


@final
class WatchedDisk(Disk):
    """The system's disk, each changing call shown to a watcher by its name and path."""

    def __init__(self, watcher: Watcher, free: int | None = None, system: Disk = SYSTEM) -> None:
        self._watcher, self._free, self._system = watcher, free, system
        self._paths: dict[int, Path] = {}

    def inside(self, root: Path) -> WatchedDisk:
        return WatchedDisk(self._watcher, self._free, self._system.inside(root))

    def open(self, path: Path, flags: int) -> int:
        making = bool(flags & os.O_CREAT)
        if making:
            self._watcher.before("open", path)
        handle = self._system.open(path, flags)
        self._paths[handle] = path
        if making:
            self._watcher.after("open", path, b"")
        return handle

    def write(self, handle: int, content: memoryview) -> int:
        self._watcher.before("write", self._paths[handle])
        written = self._system.write(handle, content)
        self._watcher.after("write", self._paths[handle], bytes(content[:written]))
        return written

    def sync(self, handle: int) -> None:
        self._watcher.before("sync", self._paths[handle])
        self._system.sync(handle)
        self._watcher.after("sync", self._paths[handle], b"")

    def close(self, handle: int) -> None:
        self._system.close(handle)

    def rename(self, source: Path, target: Path) -> None:
        self._watcher.before("rename", source)
        self._system.rename(source, target)
        self._watcher.after("rename", source, os.fsencode(target))

    def mkdir(self, path: Path) -> None:
        self._watcher.before("mkdir", path)
        self._system.mkdir(path)
        self._watcher.after("mkdir", path, b"")

    def unlink(self, path: Path) -> None:
        self._watcher.before("unlink", path)
        self._system.unlink(path)
        self._watcher.after("unlink", path, b"")

    def rmdir(self, path: Path) -> None:
        self._watcher.before("rmdir", path)
        self._system.rmdir(path)
        self._watcher.after("rmdir", path, b"")

    def free(self, path: Path) -> int:
        return self._system.free(path) if self._free is None else self._free


@final
@dataclass
class Failing(Watcher):
    """The k-th of the calls named fails with an error number, and so do all after it where the fault is lasting.

    Args:
        number: k, counted from 1.   code: errno.   lasting: whether the disk stays broken.
    """

    number: int
    code: int
    lasting: bool = False
    calls: tuple[str, ...] = WRITES
    count: int = 0
    failed: tuple[str, Path] | None = None

    def before(self, call: str, path: Path) -> None:
        if call not in self.calls:
            return
        self.count += 1
        if self.count == self.number or (self.lasting and self.count > self.number):
            self.failed = self.failed or (call, path)
            raise OSError(self.code, os.strerror(self.code))

    def after(self, call: str, path: Path, content: bytes) -> None:
        pass


@final
@dataclass
class Killing(Watcher):
    """SIGKILL to this very process right before the k-th call, so right after the one before it.

    Args:
        number: k, counted from 1, over all calls.
    """

    number: int
    count: int = 0

    def before(self, call: str, path: Path) -> None:
        self.count += 1
        if self.count == self.number:
            os.kill(os.getpid(), signal.SIGKILL)

    def after(self, call: str, path: Path, content: bytes) -> None:
        pass


@final
@dataclass
class Recording(Watcher):
    """Every call that was made: (name, path, content)."""

    log: list[tuple[str, Path, bytes]] = field(default_factory=list)

    def before(self, call: str, path: Path) -> None:
        pass

    def after(self, call: str, path: Path, content: bytes) -> None:
        self.log.append((call, path, content))
