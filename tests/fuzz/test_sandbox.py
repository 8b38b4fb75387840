"""Each violation is caught, whichever way it is done, and what is allowed is left alone."""

from __future__ import annotations

import ctypes
import importlib.util
import marshal
import os
import pickle
import pty
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from multiprocessing import util
from pathlib import Path

import pytest
from tests.fuzz.sandbox import CANARY, MEGABYTE, Sandbox, fuzz

from markovae.errors import UserError


class Places:
    """`inside` may be changed, `given` read, `outside` neither."""

    def __init__(self, folder: Path) -> None:
        self.inside, self.given, self.outside = folder / "inside", folder / "given", folder / "outside"
        for place in (self.inside, self.given, self.outside):
            (place / "folder").mkdir(parents=True)
            (place / "file").write_bytes(b"content")
            (place / "hostile.py").write_text("import this_is_never_reached\n")
        (self.inside / "link").symlink_to(self.outside / "file")
        (self.inside / "up").symlink_to(self.outside)
        self.handle = os.open(self.outside, os.O_RDONLY | os.O_DIRECTORY)

    def box(self) -> Sandbox:
        return Sandbox(readable=[self.given], writable=[self.inside])


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Places]:
    places = Places(tmp_path)
    yield places
    os.close(places.handle)


def at(folder: Path, name: str, flags: int) -> None:
    """`os.open` relative to a folder's handle."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.close(os.open(name, flags, dir_fd=handle))
    finally:
        os.close(handle)


def imported(path: Path) -> None:
    spec = importlib.util.spec_from_file_location("hostile", path)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def silent_child() -> None:
    """A process that no audit event tells of."""
    read, write = os.pipe()
    pid = util.spawnv_passfds(os.fsencode(sys.executable), [sys.executable, "-c", ""], [read])
    os.waitpid(pid, 0)
    os.close(read)
    os.close(write)


def looked_up() -> None:
    socket.getaddrinfo("localhost", 80)


def connected() -> None:
    with socket.socket() as one:
        one.connect(("127.0.0.1", 9))


def bound() -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))


VIOLATIONS: dict[str, tuple[str, Callable[[Places], object]]] = {
    "Popen": ("process", lambda p: subprocess.run(["true"], check=False)),
    "system": ("process", lambda p: os.system("true")),
    "exec": ("process", lambda p: os.execv("/bin/true", ["true"])),
    "posix_spawn": ("process", lambda p: os.posix_spawn("/bin/true", ["true"], {})),
    "spawn": ("process", lambda p: os.spawnv(os.P_WAIT, "/bin/true", ["true"])),
    "fork": ("process", lambda p: os.fork()),
    "pty": ("process", lambda p: pty.spawn("true")),
    "kill": ("process", lambda p: os.kill(os.getppid(), 0)),
    "silent child": ("process", lambda p: silent_child()),
    "getaddrinfo": ("connection", lambda p: looked_up()),
    "connect": ("connection", lambda p: connected()),
    "bind": ("connection", lambda p: bound()),
    "write": ("write", lambda p: (p.outside / "file").write_text("x")),
    "append": ("write", lambda p: (p.outside / "file").open("ab")),
    "create": ("write", lambda p: (p.outside / "new").open("xb")),
    "write to what is given": ("write", lambda p: (p.given / "file").write_text("x")),
    "write through a link": ("write", lambda p: (p.inside / "link").write_text("x")),
    "write below a linked folder": ("write", lambda p: (p.inside / "up" / "file").write_text("x")),
    "write upwards": ("write", lambda p: (p.inside / ".." / "outside" / "file").write_text("x")),
    "write by handle": ("write", lambda p: os.open("file", os.O_WRONLY, dir_fd=p.handle)),
    "write by handle through a link": ("write", lambda p: at(p.inside, "link", os.O_WRONLY)),
    "remove": ("change", lambda p: (p.outside / "file").unlink()),
    "remove a folder": ("change", lambda p: (p.outside / "folder").rmdir()),
    "remove a tree": ("", lambda p: shutil.rmtree(p.outside)),
    "rename out": ("change", lambda p: (p.inside / "file").rename(p.outside / "new")),
    "rename in": ("change", lambda p: (p.outside / "file").rename(p.inside / "new")),
    "mkdir": ("change", lambda p: (p.outside / "new").mkdir()),
    "symlink": ("change", lambda p: (p.outside / "new").symlink_to("file")),
    "hard link": ("change", lambda p: (p.inside / "new").hardlink_to(p.outside / "file")),
    "truncate": ("change", lambda p: os.truncate(p.outside / "file", 0)),
    "chmod": ("change", lambda p: (p.outside / "file").chmod(0o777)),
    "chmod through a link": ("change", lambda p: (p.inside / "link").chmod(0o777)),
    "utime": ("change", lambda p: os.utime(p.outside / "file")),
    "read": ("read", lambda p: (p.outside / "file").read_bytes()),
    "read through a link": ("read", lambda p: (p.inside / "link").read_bytes()),
    "read the environment": ("read", lambda p: Path("/proc/self/environ").read_bytes()),
    "read accounts": ("read", lambda p: Path("/etc/passwd").read_bytes()),
    "read by handle": ("read", lambda p: os.open("file", os.O_RDONLY, dir_fd=p.handle)),
    "list by handle": ("read", lambda p: os.scandir(p.handle)),
    "remove by handle": ("change", lambda p: os.unlink("file", dir_fd=p.handle)),
    "list": ("read", lambda p: list(p.outside.iterdir())),
    "import": ("execution", lambda p: imported(p.inside / "hostile.py")),
    "import what is given": ("execution", lambda p: imported(p.given / "hostile.py")),
    "library": ("execution", lambda p: ctypes.CDLL(str(p.inside / "file"))),
    "evaluation": ("compilation", lambda p: eval(f"'{CANARY}'")),
    "pickle": ("pickle", lambda p: pickle.loads(b"cos\ngetcwd\n.")),
    "marshal": ("marshal", lambda p: marshal.loads(marshal.dumps(1))),
}


@pytest.mark.parametrize(("name", "thread"), list(zip(VIOLATIONS, cycle([False, True]), strict=False)))
def test_a_violation_is_recorded_and_forbidden(places: Places, name: str, thread: bool):
    kind, action = VIOLATIONS[name]

    def act() -> None:
        if name == "silent child":
            action(places)
        else:
            with pytest.raises((PermissionError, RuntimeError), match="the sandbox forbids"):
                action(places)

    with places.box() as box:
        if thread:
            other = threading.Thread(target=act)
            other.start()
            other.join()
        else:
            act()
    assert box.violations, name
    assert box.violations[0].startswith(kind)
    assert (places.outside / "file").read_bytes() == (places.given / "file").read_bytes() == b"content"
    assert not (places.outside / "new").exists()


def test_what_is_allowed_is_left_alone_and_outside_the_context_all_is(places: Places):
    with places.box() as box:
        (places.given / "file").read_bytes()
        (places.inside / "file").rename(places.inside / "moved")
        (places.inside / "new").mkdir()
        at(places.inside, "made", os.O_WRONLY | os.O_CREAT)
        os.close(os.open(places.inside.parent, os.O_RDONLY | os.O_DIRECTORY))  # on the way to what is allowed
        with pytest.raises(OSError, match="Too many levels"):
            at(places.inside, "link", os.O_WRONLY | os.O_NOFOLLOW)
        (places.inside / "link").unlink()
        shutil.rmtree(places.inside / "new")
        imported(Path(__file__).parents[1] / "words.py")
        Path(os.devnull).write_text("x")
    assert box.violations == []
    (places.outside / "file").write_text("x")
    subprocess.run(["true"], check=True)


def refuse(case: object) -> None:
    raise UserError("no")


def hog(case: object) -> None:
    bytearray(64 * MEGABYTE)[::4096] = b"x" * (16 * 1024)


def spin(case: object) -> None:
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass


def raising(error: BaseException) -> Callable[[object], None]:
    def door(case: object) -> None:
        raise error

    return door


def number(chance: random.Random) -> int:
    return chance.randrange(1000)


@pytest.mark.parametrize(("door", "words"), [(lambda case: time.sleep(30), "0 of them"), (spin, "s of processor time")])
def test_a_door_that_waits_or_works_without_end_is_ended(
    door: Callable[[object], None], words: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tests.fuzz.sandbox.HANGS", 0.1)
    with pytest.raises(AssertionError, match=f"_Hung: .*{words}"):
        fuzz(door, number, 1)


def test_a_door_that_works_on_a_busy_machine_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    """Its clock runs on while others are served: here, while it sleeps most of the time."""
    monkeypatch.setattr("tests.fuzz.sandbox.HANGS", 0.05)

    def door(case: object) -> None:
        for _ in range(20):
            end = time.process_time() + 1e-3
            while time.process_time() < end:
                pass
            time.sleep(0.01)

    assert fuzz(door, number, 1).accepted == 1


def test_cases_are_counted_and_each_can_be_repeated(tmp_path: Path):
    met: list[int] = []

    def door(case: int) -> None:
        met.append(case)
        if case % 2:
            raise UserError("odd")

    found = fuzz(door, number, 40, seed=3)
    assert found.accepted + found.refused == 40
    assert found.refused == sum(case % 2 for case in met)
    fuzz(door, number, 1, seed=3, first=17)
    assert met[-1] == met[17]


@pytest.mark.parametrize(
    ("door", "words"),
    [
        (raising(ZeroDivisionError("bang")), "case 0 of seed 5 .*ZeroDivisionError"),
        (raising(SystemExit(1)), "SystemExit"),
        (raising(UserError("two\nlines")), "no sentence"),
        (raising(UserError("")), "no sentence"),
        (raising(UserError("9" * 60_000)), "60,000 characters"),
        (lambda case: os.system("true"), "process: os.system"),
        (lambda case: Path("/etc/passwd").read_text(), "read: open /etc/passwd"),
        (spin, "s of processor time"),
        (hog, "memory grew by 6[0-9] MiB"),
    ],
)
def test_a_fuzzer_fails_for_whatever_is_no_refusal(door: Callable[[int], object], words: str):
    fuzz(refuse, number, 3)
    with pytest.raises(AssertionError, match=words):
        fuzz(door, number, 3, seed=5, seconds=0.25, memory=32 * MEGABYTE)
