"""Machines that are not this one, by what their systems refuse: a run is trained, resumed, sampled, measured."""

import errno
import os
import re
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.cli.conftest import refused as refused  # a fixture
from tests.cli.conftest import settings

from markovae.cli.entry import main
from markovae.data import cache
from markovae.data.data_config import DataConfig
from markovae.data.folder import read_folder
from markovae.errors import StoppedRun, UserError
from markovae.system import files, lock
from markovae.system.device import device_named

Machine = Callable[[pytest.MonkeyPatch], None]
fsync, os_open = os.fsync, os.open


def refusing_folders(code: int) -> Machine:
    """fsync of a folder is an error: SMB and FUSE (EINVAL, ENOTSUP), Windows' subsystem for Linux (EACCES)."""

    def machine(patch: pytest.MonkeyPatch) -> None:
        def refuse(handle: int) -> None:
            if stat.S_ISDIR(os.fstat(handle).st_mode):
                raise OSError(code, os.strerror(code))
            fsync(handle)

        patch.setattr("os.fsync", refuse)

    return machine


def flushing_nothing(patch: pytest.MonkeyPatch) -> None:
    """A drive that flushes neither files nor folders, and has no locks."""

    def refuse(*arguments: Any) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    patch.setattr("os.fsync", refuse)
    patch.setattr("fcntl.flock", refuse)
    patch.setattr("os.posix_fallocate", refuse)


def mac(patch: pytest.MonkeyPatch) -> None:
    """F_FULLFSYNC, which network drives have not."""

    def control(handle: int, command: int) -> None:
        assert command == 51
        raise OSError(errno.ENOTSUP, "Operation not supported")

    patch.setattr(files, "FULL_SYNC", 51)
    patch.setattr("fcntl.fcntl", control)
    patch.delattr("os.O_PATH")
    patch.delattr("os.posix_fallocate")
    patch.delattr("os.sched_getaffinity")


def windows(patch: pytest.MonkeyPatch) -> None:
    """No fcntl, no folders that open, no handles of folders; what is open or mapped is neither renamed nor deleted."""

    def opened(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        assert dir_fd is None
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return os_open(path, flags, mode)

    def flush(handle: int) -> None:
        with Path(f"/proc/self/fdinfo/{handle}").open() as told:
            flags = int(re.search(r"flags:\s+(\d+)", told.read())[1], 8)
        if flags & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        fsync(handle)

    def unless_open(call: Callable[..., None]) -> Callable[..., None]:
        def made(*paths: Any, **others: Any) -> None:
            assert all(value is None for value in others.values())
            for path in map(os.path.abspath, paths):
                if any(name == path or name.startswith(f"{path}/") for name in in_use()):
                    raise PermissionError(errno.EACCES, "Permission denied", path)
            call(*paths)

        return made

    patch.setattr("os.open", opened)
    patch.setattr("os.fsync", flush)
    for name in ("rename", "replace", "unlink", "rmdir"):
        patch.setattr(os, name, unless_open(getattr(os, name)))
    patch.setitem(sys.modules, "fcntl", None)
    patch.setattr(files, "WINDOWS", True)
    patch.setattr(files, "HANDLES", False)
    patch.setattr(files, "NO_LINK", 0)
    patch.setattr(lock, "NO_LINK", 0)
    for name in ("O_NOFOLLOW", "O_PATH", "O_DIRECTORY", "O_NONBLOCK", "pread", "fork", "posix_fallocate"):
        patch.delattr(os, name)
    patch.delattr("os.sched_getaffinity")
    patch.delattr("signal.SIGHUP")


def in_use() -> set[str]:
    """Files that this process has open, or mapped."""
    names = set()
    for handle in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # its own, by which the folder was listed
            names.add(str(handle.readlink()))
    with Path("/proc/self/maps").open() as maps:
        names |= {line.split(maxsplit=5)[5].rstrip("\n") for line in maps if "/" in line}
    return names


MACHINES: dict[str, Machine] = {"a drive that flushes nothing": flushing_nothing, "mac": mac, "windows": windows}


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EACCES, errno.ENOTSUP, errno.EPERM, errno.EBADF, errno.ENOSYS])
def test_folders_that_cannot_be_flushed_are_written_to(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    refusing_folders(code)(monkeypatch)
    files.replace_file(tmp_path / "a" / "b" / "file", b"content")
    files.write_folder(tmp_path / "folder", {"one": b"1", "two": b"2"})
    with files.staged_folder(tmp_path / "staged") as stage:
        files.write_synced(stage / "file", b"content")
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "a",
        "b",
        "file",
        "file",
        "folder",
        "one",
        "staged",
        "two",
    ]


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_what_a_disk_loses_is_an_error_still(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    refusing_folders(code)(monkeypatch)
    with pytest.raises(StoppedRun, match="could not be written"):
        files.replace_file(tmp_path / "a" / "file", b"content")


def test_a_folder_that_may_be_written_to_and_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As another user's that opens with -wx: here root would list it."""

    def opened(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & (os.O_ACCMODE | os.O_PATH) == os.O_RDONLY and Path(path).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return os_open(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr("os.open", opened)
    files.replace_file(tmp_path / "a" / "file", b"content")
    assert (tmp_path / "a" / "file").read_bytes() == b"content"


def test_a_lock_that_another_process_has_is_named_where_what_is_locked_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(handle: int, size: int) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied")

    with lock.hold(tmp_path):
        monkeypatch.setattr("os.read", refuse)
        with pytest.raises(UserError, match=r"another process \(unknown\) trains in"), lock.hold(tmp_path):
            pass
        monkeypatch.undo()


@pytest.mark.parametrize("name", MACHINES)
def test_a_life_of_a_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    photos, run = tmp_path / "photos", tmp_path / "runs" / "run"
    photos.mkdir()
    for number in range(20):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{number:02}.png")
    (photos / "cut.png").write_bytes((photos / "00.png").read_bytes()[:-30])
    (photos / "captions.csv").write_text("file_name,text\n00.png,one\n")
    monkeypatch.setenv("MARKOVAE_CACHE", str(tmp_path / "cache"))
    MACHINES[name](monkeypatch)
    train = ["train", str(photos), "--out", str(run), *settings(data__bad_fraction="0.2")]
    assert main([*train, "--steps", "2", "--no-report"]) == 0
    assert main(["train", "--resume", "--out", str(run), "--steps", "3", "--no-report"]) == 0
    for _ in range(2):
        assert main(["sample", str(run), "--n", "2", "--steps", "1"]) == 0
    assert main(["measure", str(run), "--limit", "2", "--save"]) == 0
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert {path.name for path in run.iterdir()} >= {"checkpoints", "metrics.jsonl", "config.toml"}
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.name.startswith(files.STAGE)] == []
    assert "is not kept for the next time" not in said


def test_a_device_without_float64_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch, refused, tmp_path: Path):
    """A Mac's GPU (mps), whose error this is."""
    zeros = torch.zeros

    def without(*size: Any, dtype: torch.dtype | None = None, device: Any = None, **others: Any) -> torch.Tensor:
        if dtype == torch.float64 and str(device) == "meta":
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
            )
        return zeros(*size, dtype=dtype, device="cpu", **others)

    monkeypatch.setattr("torch.zeros", without)
    with pytest.raises(
        UserError, match="device meta has no float64, which log-SNRs and the bound are computed in: take"
    ):
        device_named("meta")
    assert "has no float64" in refused("train", "digits", "--out", tmp_path / "run", "--device", "meta")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("told", [True, False], ids=["the system says so", "only the write fails"])
def test_a_home_that_is_read_only(told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """Where the system says so the cache is a temporary one; a drive that says it can be written is named."""
    home, mkdir, access = tmp_path / "home", os.mkdir, os.access
    home.mkdir()
    (tmp_path / "photos").mkdir()
    for number in range(4):
        Image.new("L", (8, 8), number).save(tmp_path / "photos" / f"{number}.png")

    def refuse(path: Any, *arguments: Any, **others: Any) -> None:
        if str(path).startswith(str(home)):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        mkdir(path, *arguments, **others)

    monkeypatch.setattr("os.mkdir", refuse)
    monkeypatch.setattr("os.access", lambda path, mode: (not told or path != home) and access(path, mode))
    monkeypatch.delenv("MARKOVAE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    cache._temporary_cache.cache_clear()
    if told:
        assert len(read_folder(DataConfig(str(tmp_path / "photos"))).data) == 4
        assert "no home folder that can be written: the cache is" in capsys.readouterr().err
    else:
        with pytest.raises(UserError, match=r"cannot be written \(Read-only file system, .*: set MARKOVAE_CACHE"):
            read_folder(DataConfig(str(tmp_path / "photos")))
    cache._temporary_cache.cache_clear()
