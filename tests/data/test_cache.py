import errno
import os
from pathlib import Path

import numpy as np
import pytest

from markovae.data import cache
from markovae.errors import UserError


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert cache.cache_folder() == Path(cache.os.environ["MARKOVAE_CACHE"])
    monkeypatch.delenv("MARKOVAE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "markovae"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / ".cache" / "markovae"


def test_an_entry_is_made_once(own_cache: Path):
    made = []

    def make(stage: Path) -> None:
        made.append(stage)
        (stage / "x.txt").write_text("whole")

    assert cache.entry("one", make) == cache.entry("one", make) == own_cache / "one"
    assert len(made) == 1
    assert (own_cache / "one" / "x.txt").read_text() == "whole"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_entry_leaves_nothing(own_cache: Path, error: type[BaseException]):
    def make(stage: Path) -> None:
        (stage / "x.txt").write_text("half")
        raise error

    with pytest.raises(error):
        cache.entry("one", make)
    assert list(own_cache.iterdir()) == []


def test_a_full_disk_is_one_sentence_and_leaves_nothing(own_cache: Path):
    def make(stage: Path) -> None:
        (stage / "x.txt").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError, match=r"No space left on device, [\d,]+ bytes free\): set MARKOVAE_CACHE"):
        cache.entry("one", make)
    assert list(own_cache.iterdir()) == []


def test_the_first_of_two_writers_wins(own_cache: Path):
    def make(stage: Path) -> None:
        (stage / "x.txt").write_text("second")
        (own_cache / "one").mkdir()
        (own_cache / "one" / "x.txt").write_text("first")

    assert (cache.entry("one", make) / "x.txt").read_text() == "first"
    assert [path.name for path in own_cache.iterdir()] == ["one"]


def test_keys_depend_on_content_not_on_order():
    assert cache.key_of({"a": 1, "b": [2, "ü"]}) == cache.key_of({"b": [2, "ü"], "a": 1})
    assert cache.key_of({"a": 1}) != cache.key_of({"a": 2})


def test_pickled_objects_are_refused(tmp_path: Path):
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        cache.read_array(tmp_path / "x.npy")


def test_what_a_killed_process_left_goes_after_a_week(own_cache: Path):
    old, young = (own_cache / f".tmp-folder-{name}" for name in ("old", "young"))
    for stage in (old, young):
        stage.mkdir(parents=True)
        (stage / "a.npy").write_bytes(b"half")
    os.utime(old, (0, 0))
    cache.entry("folder-abc", lambda folder: None)
    assert not old.exists()
    assert young.exists()
