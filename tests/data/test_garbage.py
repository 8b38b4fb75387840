"""Folders of garbage: every file gives an image or a reason, nothing hangs, and training goes on or says why not."""

import os
import random
import re
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from markovae.data.data_config import DataConfig
from markovae.data.image_reader import open_image
from markovae.data.inspecting import inspect
from markovae.data.loading import load_data, read_source
from markovae.errors import UserError
from markovae.log import printable

from .garbage import FILES, READ, mutated, sound


@pytest.fixture(autouse=True)
def never_hangs():
    """A minute of waiting is a hang."""

    def ring(number: int, frame: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(600)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def filled(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"good-{number:04}.png")
    return folder


def test_sixty_curated_files(tmp_path: Path):
    assert len(FILES) == 60
    folder = filled(tmp_path / "folder", 5)
    for name, content, _ in FILES:
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "pipe.png")
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "self.png").symlink_to("self.png")
    (folder / "folder.png").mkdir()
    wild = os.fsencode(folder) + b"/not-\xff-utf8.png"
    Path(os.fsdecode(wild)).write_bytes(FILES[17][1])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    reading = read_source(DataConfig(str(folder), size=8, enlarge=True))
    assert time.monotonic() - started < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600 * 1024, "bombs are refused by their header"
    reasons = dict(reading.summary.unreadable)
    for name, _, reason in FILES:
        assert (printable(name) in reasons) == (reason != READ), (name, reasons.get(printable(name)))
        if reason != READ:
            assert re.search(reason, reasons[printable(name)]), (name, reasons[printable(name)])
    good = sum(reason == READ for _, _, reason in FILES)
    assert len(reading.data) == 5 + good + 1, "and the one whose name is no UTF-8"
    assert {"pipe.png", "self.png"} <= set(reasons)
    assert not any("\n" in name for name in reasons)
    text = inspect(DataConfig(str(folder), size=8, enlarge=True)).describe()
    text.encode("utf-8")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_files_and_folders_without_permission_are_listed(tmp_path: Path):
    folder = filled(tmp_path / "folder", 5)
    (folder / "good-0000.png").chmod(0)
    filled(folder / "closed", 2).chmod(0)
    reasons = dict(read_source(DataConfig(str(folder))).summary.unreadable)
    assert reasons["good-0000.png"] == reasons["closed"] == "Permission denied"


def test_a_file_that_the_system_will_not_open_is_listed(tmp_path: Path, monkeypatch):
    """As `chmod 000` does to everyone but root."""
    folder = filled(tmp_path / "folder", 5)
    plain = os.open

    def refusing(path, flags, *more, **options):
        if str(path).endswith("good-0002.png"):
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path, flags, *more, **options)

    monkeypatch.setattr("markovae.system.regular.os.open", refusing)
    assert read_source(DataConfig(str(folder))).summary.unreadable == (("good-0002.png", "Permission denied"),)


def test_a_file_that_becomes_a_pipe_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(OSError, match="not a regular file"), open_image(tmp_path / "pipe.png"):
        pass


def test_mutated_images_give_pixels_or_a_reason(tmp_path: Path):
    count = 500
    folder, source, images = filled(tmp_path / "folder", 20), random.Random(count), sound()
    for number in range(count):
        (folder / f"bad-{number:05}.png").write_bytes(mutated(source, images))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    config = DataConfig(str(folder), size=8, bad_fraction=1, enlarge=True)
    reading = read_source(config)
    assert len(reading.data) + len(reading.summary.unreadable) == count + 20
    assert count // 5 < len(reading.summary.unreadable) < count
    assert all(reason and "\n" not in reason for _, reason in reading.summary.unreadable)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024 * 1024, "memory is bounded"
    assert len(load_data(config).unreadable) == len(reading.summary.unreadable)
    with pytest.raises(UserError, match=r"of 520 files are unreadable \(bad-\d+\.png: .*data\.bad_fraction=1"):
        load_data(DataConfig(str(folder), size=8, enlarge=True))


@pytest.mark.parametrize(
    ("good", "bad", "goes_on"), [(20, 10, True), (20, 11, False), (1100, 11, True), (1050, 11, False)]
)
def test_more_than_ten_and_more_than_one_per_cent_stop(tmp_path: Path, good: int, bad: int, goes_on: bool):
    folder = filled(tmp_path / "folder", good)
    for number in range(bad):
        (folder / f"bad-{number:03}.png").write_bytes(b"no image")
    config = DataConfig(str(folder))
    if goes_on:
        assert len(load_data(config).unreadable) == bad
    else:
        with pytest.raises(
            UserError, match=rf"{bad} of {good + bad:,} files are unreadable \(bad-000.png: not an image"
        ):
            load_data(config)
        assert len(load_data(DataConfig(str(folder), bad_fraction=0.5)).unreadable) == bad


def test_an_empty_class_is_explained(tmp_path: Path):
    folder = tmp_path / "folder"
    for name in ("cats", "dogs"):
        filled(folder / name, 6)
        for number, path in enumerate(sorted((folder / name).iterdir())):
            Image.fromarray(np.full((8, 8, 3), 20 * number + len(name) + (name == "dogs"), np.uint8)).save(path)
    (folder / "birds").mkdir()
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").touch()
    splits = load_data(DataConfig(str(folder)))
    assert splits.train.class_names == ("cats", "dogs")
    said = [note for note in splits.notes if "classes" in note]
    assert said == ["2 sub-folders hold no readable image and are not classes (birds, notes)"]


def test_a_class_without_an_image_to_train_on_is_explained(tmp_path: Path):
    folder = tmp_path / "folder"
    for number in range(12):
        place = folder / ("rare" if number == 0 else "common")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 20 * number, np.uint8)).save(place / f"{number}.png")
    for seed in range(40):
        splits = load_data(DataConfig(str(folder), split_seed=seed))
        absent = not (splits.train.labels == 1).any()
        assert any("1 classes have no training image (rare)" in note for note in splits.notes) == absent
        if absent:
            return
    raise AssertionError("no seed held the rare image out")
