"""Several processes on one entry of the cache: whatever they do to it, each gets what it asked for."""

import os
import random
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from markovae.data import cache


def make(stage: Path) -> None:
    (stage / "x.txt").write_bytes(b"whole")


def read(kept: cache.Entry) -> bytes:
    return kept.bytes("x.txt")


def asked() -> bytes:
    return cache.entry("one", make, read)


def damage(entry: Path) -> None:
    """By another file under its name: one that is written into while it is read is nobody's to defend."""
    other = entry.with_name(f"wrong-{os.getpid()}")
    other.write_bytes(b"wrong")
    try:
        other.replace(entry / "x.txt")
    finally:
        other.unlink(missing_ok=True)


@pytest.fixture
def damaged(own_cache: Path) -> Path:
    asked()
    damage(own_cache / "one")
    return own_cache / "one"


def test_another_replaces_it_while_it_is_made(damaged: Path):
    def slow(stage: Path) -> None:
        assert asked() == b"whole"
        make(stage)

    assert cache.entry("one", slow, read) == b"whole"
    assert asked() == b"whole"


@pytest.mark.parametrize("leave", [True, False], ids=["replaced", "gone"])
def test_another_replaces_it_between_the_look_and_the_word(damaged: Path, monkeypatch, capsys, leave: bool):
    """The damage that was seen is no longer there: nothing is said, and the other's entry is taken."""
    real = cache._checksum

    def other(file):
        monkeypatch.setattr(cache, "_checksum", real)
        found = real(file)
        cache.forget(damaged)
        if leave:
            asked()
        return found

    monkeypatch.setattr(cache, "_checksum", other)
    assert asked() == b"whole"
    assert capsys.readouterr().err == ""


def test_another_takes_it_away_while_it_is_read(own_cache: Path):
    asked()

    def late(kept: cache.Entry) -> bytes:
        cache.forget(own_cache / "one")
        return read(kept)

    assert cache.entry("one", make, late) == b"whole"
    assert not (own_cache / "one").exists()


def test_another_takes_it_away_before_it_is_opened(own_cache: Path, monkeypatch):
    asked()
    real = cache._opened

    def late(path: Path, name: str):
        monkeypatch.setattr(cache, "_opened", real)
        cache.forget(path)
        return real(path, name)

    monkeypatch.setattr(cache, "_opened", late)
    assert asked() == b"whole"


@pytest.mark.parametrize("other", [lambda path: path.write_bytes(b"x"), lambda path: path.symlink_to("elsewhere")])
def test_something_that_takes_its_name_meanwhile_is_told(own_cache: Path, other: Callable[[Path], object], capsys):
    def slow(stage: Path) -> None:
        make(stage)
        other(own_cache / "one")

    assert cache.entry("one", slow, read) == b"whole"
    assert "is not kept for the next time" in capsys.readouterr().err
    assert asked() == asked() == b"whole"


def test_many_processes_damage_replace_and_remove_one_entry(own_cache: Path, tmp_path: Path):
    def work(number: int) -> None:
        chance, until = random.Random(number), time.monotonic() + 0.5
        rounds = 0
        while rounds < 25 or time.monotonic() < until:
            try:
                if chance.random() < 0.3:
                    damage(own_cache / "one")
                elif chance.random() < 0.3:
                    shutil.rmtree(own_cache / "one")
            except OSError:
                pass  # another was first
            if chance.random() < 0.3:
                cache.forget(own_cache / "one")
            assert asked() == b"whole"
            rounds += 1

    children = []
    for number in range(6):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # forking a process with threads: these children use none of them
            pid = os.fork()
        if not pid:
            try:
                os.dup2(os.open(tmp_path / f"said-{number}", os.O_WRONLY | os.O_CREAT), 2)
                work(number)
                os._exit(0)
            except BaseException as error:
                (tmp_path / f"failed-{number}").write_text(repr(error))
                os._exit(1)
        children.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    assert codes == [0] * 6, [path.read_text() for path in tmp_path.glob("failed-*")]
    assert asked() == b"whole"
    assert not list(own_cache.glob(".tmp-one-*")), "nothing half made"
