"""What input from outside must never do: a sandbox of audit events, and a fuzzer that opens a door many times in it.

    def test_an_index_is_read_or_refused(fuzzer: Fuzzer, tmp_path: Path) -> None:
        def make(chance: random.Random) -> Path: ...  # one hostile folder below tmp_path
        def door(case: Path) -> object: ...           # what a person's command does with it
        fuzzer("index", door, make, writable=[tmp_path])

`fuzzer` (tests/fuzz/conftest.py) runs 100 cases in `make test` and 10,000 in `make soak`, where it writes the door's
row of docs/reliability.md. Case k is made by `make(random.Random(f"{seed}:{k}"))` outside the sandbox; `door(case)`
runs in it. Open the door once with good input first: what Python imports lazily is no affair of the cases.
"""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Self, TypeVar

from markovae.errors import StoppedRun, UserError

Case = TypeVar("Case")
MEGABYTE = 1 << 20
CANARY = "executed_by_markovae"  # text with this word in it must never be compiled
LONGEST_MESSAGE = 2_000  # characters: a sentence that repeats a hostile file is none
HANGS = 60  # seconds of the wall clock, after which a door is asked what it does
WORKS = 1e-3  # share of a processor below which a door waits

ROOT = Path(__file__).parents[2]
TRUSTED = tuple(
    {
        os.path.realpath(path)
        for path in (
            *sys.path,
            *sysconfig.get_paths().values(),
            sys.prefix,
            sys.base_prefix,
            ROOT / "src",
            ROOT / "tests",
        )
        if path and Path(path).is_dir()
    }
)
# What Python, torch and this file ask of the system; /proc/self/environ is not among it.
SYSTEM = (
    *(
        f"/proc/self/{name}"
        for name in ("status", "statm", "stat", "maps", "task", "fd", "cgroup", "clear_refs", "mounts")
    ),
    *("/proc/meminfo", "/proc/cpuinfo", "/proc/stat", "/sys/devices", "/sys/fs/cgroup"),
    *("/dev/null", "/dev/urandom", "/usr/share/zoneinfo", "/etc/localtime", "/etc/mime.types", "/usr/share/locale"),
)
PROCESSES = (
    *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn"),
    *("os.startfile", "webbrowser.open", "os.kill", "os.killpg"),
)
CONNECTIONS = (
    *("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.getnameinfo"),
    *("socket.gethostbyname", "socket.gethostbyaddr", "urllib.Request", "ftplib.connect", "smtplib.connect"),
)
# Event → (place of a path among its arguments, place of the folder's descriptor or None) of each path it changes.
CHANGES: dict[str, tuple[tuple[int, int | None], ...]] = {
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.mkdir": ((0, 2),),
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((0, 2), (1, 3)),
    "os.symlink": ((1, 2),),
}
# The same, of events that follow a link.
FOLLOWED: dict[str, tuple[tuple[int, int | None], ...]] = {
    "os.truncate": ((0, None),),
    "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),),
    "os.utime": ((0, 3),),
    "os.setxattr": ((0, None),),
    "os.removexattr": ((0, None),),
    "sqlite3.connect": ((0, None),),
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_active: list[Sandbox] = []  # at most one: audit hooks cannot be taken away, so theirs asks here
_here = threading.local()  # the folder of the `os.open` that is going on, of which its event says nothing


class Sandbox:
    """Record, and forbid by PermissionError, what hostile input may not do while the context lasts, in every thread.

    Recorded are: processes started; connections, names looked up; files opened for writing, made, removed, renamed,
    linked, cut or changed outside `writable`; files and folders read outside `readable`, `writable`, the installation
    and this source; code executed from a file of `readable` or `writable`, or with `CANARY` in it; pickles, marshals.
    Children that no event tells of are found by their page faults. What C libraries open by themselves is not seen.

    Args:
        readable: files and folders that may be read.   writable: folders that may be read and changed.
    """

    def __init__(self, *, readable: Sequence[Path] = (), writable: Sequence[Path] = ()) -> None:
        self._hostile = tuple(os.path.realpath(path) for path in (*readable, *writable))
        self._writable = tuple(os.path.realpath(path) for path in writable)
        self.violations: list[str] = []

    def __enter__(self) -> Self:
        assert not _active, "one sandbox at a time"
        _install()
        self._bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
        self._open, os.open = os.open, _open
        self._children = _children()
        _active.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        _active.clear()
        os.open = self._open
        sys.dont_write_bytecode = self._bytecode
        if _children() != self._children and not any(said.startswith("process") for said in self.violations):
            self.violations.append("process: a child that no event told of")

    def judge(self, event: str, arguments: tuple[Any, ...]) -> str | None:
        """What is wrong with an audit event, or None."""
        if event == "open":
            return self._opened(*arguments)
        if event in PROCESSES:
            return f"process: {event}{arguments[:2]!r}"
        if event in CONNECTIONS:
            return f"connection: {event}{arguments[-2:]!r}"
        for places, follow in ((CHANGES.get(event, ()), False), (FOLLOWED.get(event, ()), True)):
            for place, folder in places:
                path = _real(arguments[place], None if folder is None else arguments[folder], follow=follow)
                if path is not None and not _within(path, self._writable):
                    return f"change: {event} {path}"
        if event in ("os.listdir", "os.scandir"):
            path = arguments[0]
            return self._read(_behind(path) if isinstance(path, int) else _real(path, None), event)
        return self._executed(event, arguments)

    def _opened(self, path: object, mode: str | None, flags: int) -> str | None:
        exclusive = flags & os.O_EXCL and flags & os.O_CREAT
        real = _real(path, getattr(_here, "folder", None), follow=not (flags & os.O_NOFOLLOW or exclusive))
        if not flags & WRITING:
            on_the_way = flags & os.O_DIRECTORY and any(_within(root, [real or ""]) for root in self._hostile)
            return None if on_the_way else self._read(real, "open")
        if real is None or _within(real, self._writable) or real in ("/dev/null", "/proc/self/clear_refs"):
            return None
        return f"write: {real}"

    def _read(self, real: str | None, event: str) -> str | None:
        if real is None or _within(real, self._hostile) or _within(real, TRUSTED) or _within(real, SYSTEM):
            return None
        return f"read: {event} {real}"

    def _executed(self, event: str, arguments: tuple[Any, ...]) -> str | None:
        if event == "pickle.find_class":
            return f"pickle: {arguments!r}"
        if event in ("marshal.loads", "marshal.load"):
            return None if _caller().startswith("<frozen importlib") else f"marshal, by {_caller()}"
        if event == "exec" and isinstance(code := arguments[0], CodeType):
            return self._foreign(code.co_filename) or (f"execution: {CANARY}" if _has_canary(code) else None)
        if event == "compile":
            source, name = arguments
            text = source.decode(errors="replace") if isinstance(source, bytes | bytearray) else source
            if isinstance(text, str) and CANARY in text and not _within(_named(name), TRUSTED):
                return f"compilation: {text[:80]!r}"
            return self._foreign(_named(name))
        if event in ("import", "ctypes.dlopen") and isinstance(name := arguments[event == "import"], str | bytes):
            return self._foreign(os.fsdecode(name))
        return None

    def _foreign(self, name: str) -> str | None:
        if name.startswith("<") or not Path(name).is_absolute() or not _within(os.path.realpath(name), self._hostile):
            return None
        return f"execution: {name}"


@dataclass(frozen=True)
class Found:
    """What a fuzzer found: cases that were read and refused, the longest in seconds of processor time, bytes grown."""

    accepted: int
    refused: int
    longest: float
    growth: int


def fuzz(
    door: Callable[[Case], object],
    make: Callable[[random.Random], Case],
    count: int,
    *,
    seed: int = 0,
    first: int = 0,
    readable: Sequence[Path] = (),
    writable: Sequence[Path] = (),
    seconds: float = 1.0,
    memory: int = 200 * MEGABYTE,
    allowed: tuple[type[Exception], ...] = (UserError, StoppedRun),
) -> Found:
    """Open `door` with `count` cases, each of which it must read or refuse by one sentence.

    Args:
        make: a case from a generator of its own, seeded by seed and number: `first=k, count=1` repeats case k.
        seconds: of processor time a case may take, in all threads.   memory: bytes that a case may grow by at its peak.
        allowed: how a case is refused.   readable, writable: as for `Sandbox`.
    Raises:
        AssertionError: for the first case that does anything else, with its number, seed and traceback.
    """
    accepted, longest, growth = 0, 0.0, 0
    for number in range(first, first + count):
        case = make(random.Random(f"{seed}:{number}"))
        told = f"case {number} of seed {seed} ({ascii(case)[:300]})"
        error: BaseException | None = None
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = peak()
        box = Sandbox(readable=readable, writable=writable)
        began = time.process_time()
        try:
            with _alarm(), box:
                door(case)
        except KeyboardInterrupt:
            raise
        except BaseException as raised:
            error = raised
        spent, grown = time.process_time() - began, peak() - before
        if box.violations:
            raise AssertionError(f"{told}: {'; '.join(box.violations[:5])}") from error
        if error is not None and not isinstance(error, allowed):
            raise AssertionError(f"{told}: {type(error).__name__}: {ascii(error)[:500]}") from error
        if error is not None:
            _check_sentence(told, str(error), error)
        assert spent <= seconds, f"{told}: {spent:.2f} s of processor time"
        assert grown <= memory, f"{told}: memory grew by {grown / MEGABYTE:.0f} MiB"
        accepted += error is None
        longest, growth = max(longest, spent), max(growth, grown)
    return Found(accepted, count - accepted, longest, growth)


def _check_sentence(told: str, said: str, error: BaseException) -> None:
    """One line: what cannot be printed in it is escaped where it leaves, a line's end is not."""
    if not said.strip() or len(said) > LONGEST_MESSAGE or "\n" in said or "\r" in said:
        raise AssertionError(f"{told}: no sentence: {ascii(said)[:500]}, {len(said):,} characters") from error


class _Hung(BaseException):
    """Raised in a door that waits for something, or works without an end."""


@contextmanager
def _alarm() -> Iterator[None]:
    """Ends a door that takes no processor time while the clock turns, or too much; a busy machine is no fault of it."""
    began = last = time.process_time()

    def ring(number: int, frame: FrameType | None) -> None:
        nonlocal last
        now = time.process_time()
        if now - last < WORKS * HANGS or now - began > HANGS:
            raise _Hung(f"{now - began:.1f} s of processor time, {now - last:.1f} of them in the last {HANGS} s")
        last = now

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, HANGS, HANGS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def peak() -> int:
    """The largest resident memory so far, in bytes."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _children() -> tuple[int, str]:
    """It changes with every child that was started or has ended."""
    with suppress(OSError):
        alive = Path(f"/proc/self/task/{threading.main_thread().native_id}/children").read_text()
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt, alive
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt, ""


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _active or getattr(_here, "judging", False):
        return
    _here.judging = True
    try:
        box = _active[0]
        wrong = box.judge(event, arguments)
        if wrong is not None:
            box.violations.append(wrong)
            raise PermissionError(errno.EACCES, f"the sandbox forbids: {ascii(wrong)[:300]}")
    finally:
        _here.judging = False


def _install() -> None:
    if not getattr(_hook, "installed", False):
        sys.addaudithook(_hook)
        os.supports_dir_fd.add(_open)
        _hook.installed = True  # type: ignore[attr-defined]


_os_open = os.open


def _open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
    """`os.open`, of whose `dir_fd` the audit event says nothing."""
    _here.folder = dir_fd
    try:
        return _os_open(path, flags, mode, dir_fd=dir_fd)
    finally:
        _here.folder = None


def _real(path: object, folder: int | None, *, follow: bool = True) -> str | None:
    """The path behind links; None for a descriptor, which was opened before. Of /proc/PID it says /proc/self."""
    if path is None:
        path = "."
    if not isinstance(path, str | bytes | os.PathLike):
        return None
    name = os.fsdecode(path)
    if "\0" in name:
        return None  # refused by the call itself
    if folder is not None and folder >= 0:
        name = f"{_behind(folder)}/{name}"
    head, tail = os.path.split(name)
    real = os.path.realpath(name) if follow or tail in ("", "..") else f"{os.path.realpath(head).rstrip('/')}/{tail}"
    return real.replace(f"/proc/{os.getpid()}", "/proc/self", 1)


def _behind(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


def _within(path: str, roots: Sequence[str]) -> bool:
    return any(path == root or path.startswith(root.rstrip("/") + "/") for root in roots)


def _named(name: object) -> str:
    return os.fsdecode(name) if isinstance(name, str | bytes) else ""


def _caller() -> str:
    """The file of the Python code whose call is judged."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return frame.f_code.co_filename if frame is not None else "?"


def _has_canary(code: CodeType) -> bool:
    if _within(code.co_filename, TRUSTED):
        return False
    return any(CANARY in name for name in code.co_names) or any(
        CANARY in c for c in code.co_consts if isinstance(c, str)
    )
