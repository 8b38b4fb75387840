import errno
import os
from pathlib import Path

import numpy as np
import pytest

from markovae.data import cache
from markovae.data.data_config import DataConfig
from markovae.data.faceset import read_faces
from markovae.errors import UserError


def text(kept: cache.Entry) -> bytes:
    return kept.bytes("x.txt")


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert cache.cache_folder() == Path(cache.os.environ["MARKOVAE_CACHE"])
    monkeypatch.delenv("MARKOVAE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "markovae"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / ".cache" / "markovae"


def nobody() -> Path:
    raise RuntimeError("Could not determine home directory.")


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of temporary files of a user without a home."""
    for name in ("MARKOVAE_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cache.Path, "home", nobody)
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path))
    cache._temporary_cache.cache_clear()
    yield tmp_path
    cache._temporary_cache.cache_clear()


def test_without_a_home_the_cache_is_private_and_temporary_and_said(homeless: Path, capsys):
    folder = cache.cache_folder()
    assert folder == cache.cache_folder() == homeless / f"markovae-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"the cache is {folder}; set MARKOVAE_CACHE" in said
    assert read_faces(DataConfig("faces"), (1, 1, 1)).data.images.shape == (3, 3, 32, 32)


@pytest.mark.parametrize("home", ["unwritable", "a file", "unknown to the system"])
def test_a_home_that_cannot_be_written_is_done_without(home: str, homeless: Path, monkeypatch):
    monkeypatch.setattr(cache.Path, "home", lambda: homeless / "home")
    if home == "unwritable":
        real = os.access
        monkeypatch.setattr(cache.os, "access", lambda path, mode: path != homeless and real(path, mode))
    elif home == "a file":
        (homeless / "home").write_text("")
    else:
        monkeypatch.setattr(cache.Path, "home", nobody)
    assert cache.cache_folder() == homeless / f"markovae-{os.getuid()}"


@pytest.mark.parametrize("squatter", ["open", "link", "file", "another's"])
def test_a_temporary_cache_that_others_may_enter_is_refused(squatter: str, homeless: Path, monkeypatch):
    folder = homeless / f"markovae-{os.getuid()}"
    if squatter == "link":
        (homeless / "elsewhere").mkdir(0o700)
        folder.symlink_to(homeless / "elsewhere")
    elif squatter == "file":
        folder.touch(0o600)
    else:
        folder.mkdir()
        folder.chmod(0o755 if squatter == "open" else 0o700)
    if squatter == "another's":
        folder.rename(homeless / "markovae-1")
        monkeypatch.setattr(cache.os, "getuid", lambda: 1)
    with pytest.raises(UserError, match=r"is not a private folder of this user: set MARKOVAE_CACHE"):
        cache.cache_folder()


def test_a_cache_in_the_home_of_nobody_is_a_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MARKOVAE_CACHE", "~no_such_user_anywhere/cache")
    with pytest.raises(UserError, match=r"MARKOVAE_CACHE=~no_such_user_anywhere/cache has an unknown user in its path"):
        cache.cache_folder()


def test_an_entry_is_made_once(own_cache: Path):
    made = []

    def make(stage: Path) -> None:
        made.append(stage)
        (stage / "x.txt").write_text("whole")

    assert cache.entry("one", make, text) == cache.entry("one", make, text) == b"whole"
    assert len(made) == 1
    assert (own_cache / "one" / "x.txt").read_text() == "whole"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_entry_leaves_nothing(own_cache: Path, error: type[BaseException]):
    def make(stage: Path) -> None:
        (stage / "x.txt").write_text("half")
        raise error

    with pytest.raises(error):
        cache.entry("one", make, text)
    assert list(own_cache.iterdir()) == []


def test_a_full_disk_is_one_sentence_and_leaves_nothing(own_cache: Path):
    def make(stage: Path) -> None:
        (stage / "x.txt").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError, match=r"No space left on device, [\d,]+ bytes free\): set MARKOVAE_CACHE"):
        cache.entry("one", make, text)
    assert list(own_cache.iterdir()) == []


def test_the_first_of_two_writers_wins(own_cache: Path):
    def make(stage: Path) -> None:
        (stage / "x.txt").write_text("second")
        (own_cache / "one").mkdir()
        (own_cache / "one" / "x.txt").write_text("first")

    assert cache.entry("one", make, text) == b"second", "what a process made is its own"
    assert (own_cache / "one" / "x.txt").read_text() == "first"
    assert [path.name for path in own_cache.iterdir()] == ["one"]


def test_keys_depend_on_content_not_on_order():
    assert cache.key_of({"a": 1, "b": [2, "ü"]}) == cache.key_of({"b": [2, "ü"], "a": 1})
    assert cache.key_of({"a": 1}) != cache.key_of({"a": 2})


def test_pickled_objects_are_refused(own_cache: Path):
    def make(stage: Path) -> None:
        np.save(stage / "x.npy", np.array([{}], dtype=object))

    with pytest.raises(ValueError, match="allow_pickle"):
        cache.entry("one", make, lambda kept: kept.array("x.npy"))


def test_what_a_killed_process_left_goes_after_a_week(own_cache: Path):
    old, young = (own_cache / f".tmp-folder-{name}" for name in ("old", "young"))
    for stage in (old, young):
        stage.mkdir(parents=True)
        (stage / "a.npy").write_bytes(b"half")
    os.utime(old, (0, 0))
    cache.entry("folder-abc", lambda folder: None, lambda kept: None)
    assert not old.exists()
    assert young.exists()
