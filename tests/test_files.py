import errno
import os
from pathlib import Path

import pytest

from markovae import files
from markovae.errors import StoppedRun, UserError


def test_write_file_replaces_the_old_one_and_leaves_nothing_else(tmp_path: Path):
    path = tmp_path / "a.txt"
    files.write_file(path, b"old")
    files.write_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_a_refused_write_keeps_the_old_file_and_says_what_it_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, call: str
):
    path = tmp_path / "a.txt"
    files.write_file(path, b"old")

    def refuse(*_args: object, **_kwargs: object):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(*((files.os, "fsync") if call == "fsync" else (Path, call)), refuse)
        with pytest.raises(StoppedRun, match=r"a\.txt could not be written .* needs 3 bytes and [\d,]+ are free"):
            files.write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


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
    files.require_room(tmp_path, 1)
    with pytest.raises(UserError, match=r"bytes free and the run needs 1,000,000,000,000,000,000"):
        files.require_room(tmp_path, 10**18)
    with pytest.raises(UserError, match="cannot be written"):
        files.require_room(tmp_path / "missing", 1)
    assert list(tmp_path.iterdir()) == []
