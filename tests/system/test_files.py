import errno
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.reliability.disks import Failing, Killing, Recording, WatchedDisk, Watcher

from markovae.errors import StoppedRun, UserError
from markovae.system import files
from markovae.system.files import SYSTEM, Disk


class ShortDisk(Disk):
    """Takes one byte at a time."""

    open, sync, close, rename = SYSTEM.open, SYSTEM.sync, SYSTEM.close, SYSTEM.rename
    mkdir, unlink, rmdir, free = SYSTEM.mkdir, SYSTEM.unlink, SYSTEM.rmdir, SYSTEM.free

    def inside(self, root: Path) -> Disk:
        return self

    def write(self, handle: int, content: memoryview) -> int:
        return SYSTEM.write(handle, content[:1])


def test_write_file_replaces_the_old_one_and_leaves_nothing_else(tmp_path: Path):
    path = tmp_path / "a.txt"
    files.write_file(path, b"old")
    files.write_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EFBIG, "raise the limit"),
        (errno.EIO, "check the disk"),
        (errno.EACCES, "make the folder writable"),
        (errno.EROFS, "make the folder writable"),
    ],
)
def test_whichever_call_fails_the_old_file_or_the_new_one_is_there_and_the_sentence_says_what_it_needed(
    tmp_path: Path, code: int, remedy: str
):
    path = tmp_path / "a.txt"
    files.write_file(path, b"old")
    failures = 0
    for number in range(1, 10):
        watcher = Failing(number, code)
        try:
            files.write_file(path, b"new", WatchedDisk(watcher, free=12_345))
            break
        except StoppedRun as error:
            message = str(error)
        failures += 1
        assert (
            f"a.txt could not be written ({os.strerror(code)}): it needs 3 bytes and 12,345 are free; {remedy}"
            in message
        )
        # The last flush is of the folder, after the rename.
        renamed = watcher.failed == ("sync", tmp_path)
        assert path.read_bytes() == (b"new" if renamed else b"old")
        assert list(tmp_path.iterdir()) == [path]
    assert failures == 5


def test_short_writes_are_gone_on_with(tmp_path: Path):
    files.write_file(tmp_path / "a", b"whole", ShortDisk())
    files.append(tmp_path / "a", b", and more", ShortDisk())
    assert (tmp_path / "a").read_bytes() == b"whole, and more"


def test_folders_are_made_with_those_above_them_each_flushed(tmp_path: Path):
    watcher = Recording()
    files.make_folder(tmp_path / "a" / "b", WatchedDisk(watcher))
    files.make_folder(tmp_path / "a", WatchedDisk(watcher))
    a, b = tmp_path / "a", tmp_path / "a" / "b"
    assert [(call, path) for call, path, _ in watcher.log] == [
        ("mkdir", a),
        ("sync", tmp_path),
        ("mkdir", b),
        ("sync", a),
    ]


def test_a_staged_folder_appears_whole(tmp_path: Path):
    target = tmp_path / "target"
    with files.staged_folder(target) as stage:
        files.write_synced(stage / "a", b"1")
        assert not target.exists()
    assert (target / "a").read_bytes() == b"1"
    assert list(tmp_path.iterdir()) == [target]


def test_a_staged_folder_replaces_an_older_one_as_a_whole(tmp_path: Path):
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").touch()
    with files.staged_folder(target) as stage:
        files.write_synced(stage / "new", b"1")
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


def test_of_two_makers_the_first_may_stay(tmp_path: Path):
    target = tmp_path / "target"
    with files.staged_folder(target, first_stays=True) as stage:
        files.write_synced(stage / "a", b"second")
        target.mkdir()
        (target / "a").write_bytes(b"first")
    assert (target / "a").read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("number", range(1, 11))
def test_a_kill_while_a_folder_is_replaced_leaves_the_old_or_the_new_one(tmp_path: Path, number: int):
    target = tmp_path / "target"
    target.mkdir()
    (target / "a").write_bytes(b"old")
    child = os.fork()
    if child == 0:
        disk = WatchedDisk(Killing(number))
        with files.staged_folder(target, disk) as stage:
            files.write_synced(stage / "a", b"new", disk)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    files.clear_stages(tmp_path)
    assert (target / "a").read_bytes() == (b"new" if number > 7 else b"old")
    assert list(tmp_path.iterdir()) == [target]


def test_a_staged_folder_that_fails_leaves_nothing(tmp_path: Path):
    def fill():
        with files.staged_folder(tmp_path / "target") as stage:
            files.write_synced(stage / "a", b"1")
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_clear_stages_deletes_stages_alone(tmp_path: Path):
    (tmp_path / ".tmp-x").mkdir()
    (tmp_path / ".tmp-x" / "a").touch()
    (tmp_path / ".tmp-y").touch()
    (tmp_path / "kept").touch()
    files.clear_stages(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_require_room_names_both_figures_and_leaves_no_probe(tmp_path: Path):
    files.require_free_space(tmp_path, 1)
    with pytest.raises(UserError, match=r"bytes free and the run needs 1,000,000,000,000,000,000"):
        files.require_free_space(tmp_path, 10**18)
    with pytest.raises(UserError, match="cannot be written"):
        files.require_free_space(tmp_path / "missing", 1)
    assert list(tmp_path.iterdir()) == []


def test_devices_pipes_and_links_are_written_to_and_stay_what_they_are(tmp_path: Path):
    pipe, link, real = tmp_path / "pipe", tmp_path / "link", tmp_path / "real"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    files.write_file(pipe, b"rows")
    assert os.read(reader, 10) == b"rows"
    os.close(reader)
    assert pipe.is_fifo()
    real.write_bytes(b"old")
    link.symlink_to(real)
    files.write_file(link, b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    files.write_file(Path(os.devnull), b"rows")
    assert Path(os.devnull).is_char_device()


def test_an_empty_folder_is_filled_and_stays_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    target, link = tmp_path / "out", tmp_path / "link"
    target.mkdir(mode=0o750)
    link.symlink_to(target)
    before = target.stat()
    files.write_folder(link, {"a.txt": b"a", "b.txt": b"b"})
    assert link.is_symlink()
    assert (target.stat().st_ino, target.stat().st_mode) == (before.st_ino, before.st_mode)
    assert sorted(p.name for p in target.iterdir()) == ["a.txt", "b.txt"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    files.write_folder(Path(), {"c.txt": b"c"})
    assert Path("c.txt").read_bytes() == b"c"


@pytest.mark.parametrize("number", range(12))
def test_an_empty_folder_is_left_empty_where_the_disk_fails(tmp_path: Path, number: int):
    target = tmp_path / "out"
    target.mkdir()
    disk = WatchedDisk(Failing(number, errno.ENOSPC))
    try:
        files.write_folder(target, {"a.txt": b"a", "b.txt": b"b"}, disk)
    except (StoppedRun, UserError):
        assert list(target.iterdir()) == []
    else:
        assert sorted(p.name for p in target.iterdir()) == ["a.txt", "b.txt"]


def test_a_folder_that_another_process_filled_meanwhile_stays_and_nothing_is_lost(tmp_path: Path):
    target = tmp_path / "out"
    assert files.write_folder(target, {"a.txt": b"first"}) == target
    assert files.write_folder(target, {"a.txt": b"second"}) == tmp_path / "out-2"
    assert files.write_folder(target, {"a.txt": b"third"}) == tmp_path / "out-3"
    assert [(tmp_path / name / "a.txt").read_bytes() for name in ("out", "out-2", "out-3")] == [
        b"first",
        b"second",
        b"third",
    ]
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("number", range(12))
def test_a_new_folder_is_whole_or_absent_where_the_disk_fails(tmp_path: Path, number: int):
    target = tmp_path / "out"
    try:
        files.write_folder(target, {"a.txt": b"a", "b.txt": b"b"}, WatchedDisk(Failing(number, errno.ENOSPC)))
    except (StoppedRun, UserError):
        assert list(tmp_path.iterdir()) == []
    else:
        assert sorted(p.name for p in target.iterdir()) == ["a.txt", "b.txt"]


@pytest.mark.parametrize("moment", ["before", "between"])
def test_two_that_replace_a_folder_at_once_both_succeed(tmp_path: Path, moment: str):
    """Another process puts its folder there right before this one's rename, or has just moved the old one aside."""
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").touch()

    @dataclass
    class Meddling(Watcher):
        renames: int = 0

        def before(self, call: str, path: Path) -> None:
            self.renames += call == "rename"
            if call == "rename" and self.renames == (1 if moment == "before" else 2):
                with files.staged_folder(target) as stage:
                    files.write_synced(stage / "other", b"2")

        def after(self, call: str, path: Path, content: bytes) -> None:
            pass

    with files.staged_folder(target, WatchedDisk(Meddling())) as stage:
        files.write_synced(stage / "own", b"1")
    assert [path.name for path in target.iterdir()] == ["own"]
    assert list(tmp_path.iterdir()) == [target], "and nothing is left beside it"


def test_a_folder_that_is_emptied_aside_while_it_is_listed_is_not_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").touch()
    listed = Path.iterdir

    def replaced_meanwhile(folder: Path) -> Iterator[Path]:
        if folder != target:
            return listed(folder)
        monkeypatch.setattr(Path, "iterdir", listed)
        with files.staged_folder(target) as stage:
            files.write_synced(stage / "other", b"2")
        return iter(())  # what a listing of the folder that stepped aside finds once its files are deleted

    monkeypatch.setattr(Path, "iterdir", replaced_meanwhile)
    with files.staged_folder(target) as stage:
        files.write_synced(stage / "own", b"1")
    assert [path.name for path in target.iterdir()] == ["own"]


def test_a_folder_that_came_and_went_while_another_was_put_there_is_no_failure(tmp_path: Path):
    class Raced(files.SystemDisk):
        raced = False

        def rename(self, source: Path, target: Path) -> None:
            if target.name == "target" and not self.raced:
                self.raced = True
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(target))
            super().rename(source, target)

    target = files.write_folder(tmp_path / "target", {"old": b""})
    with files.staged_folder(target, Raced()) as stage:
        files.write_synced(stage / "a", b"1")
    assert [path.name for path in target.iterdir()] == ["a"]
    assert list(tmp_path.iterdir()) == [target]


def test_many_that_replace_a_folder_at_once_never_make_one_another_fail(tmp_path: Path):
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").touch()

    def replace(number: int) -> None:
        for _ in range(25):
            with files.staged_folder(target) as stage:
                files.write_synced(stage / "a", b"%d" % number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(replace, range(4)))
    assert [path.name for path in target.iterdir()] == ["a"]
    assert list(tmp_path.iterdir()) == [target]
