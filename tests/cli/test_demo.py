"""`markovae demo`: where it runs, and the whole path on digits."""

from pathlib import Path

import pytest

from markovae.cli import demo
from markovae.cli.entry import command_line, main

from .conftest import settings


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_whole_path_and_a_second_time(capsys):
    words = ["demo", *settings(cascade__stages="2"), "--set", "data.source=digits", "--set", "train.steps=3"]
    assert main(words) == 0
    out = capsys.readouterr().out
    for name in (Path("runs/demo/samples/grid.png"), Path("runs/demo/report.html")):
        assert name.is_file()
        assert str(name) in out
    assert "bits/dim (95 % interval" in out
    assert "as PNG:" in out
    assert main(words) == 0, "shown again, not trained again"
    again = capsys.readouterr()
    assert again.out == out
    assert "step 1" not in again.err
    other = demo.configuration(command_line([*words, "--set", "train.steps=2"]))
    assert demo.run_folder(None, other) == Path("runs/demo-2"), "other settings, another folder"


def test_faces_for_less_than_five_minutes_by_default():
    config = demo.configuration(command_line(["demo"]))
    assert (config.data.source, config.data.size, config.train.minutes) == ("faces", 128, 4.8)
    changed = demo.configuration(command_line(["demo", "--minutes", "2", "--batch", "32", "--precision", "float32"]))
    assert (changed.train.minutes, changed.train.batch, changed.train.precision) == (2.0, 32, "float32")


def test_a_folder_that_is_taken_is_passed_over_unless_it_was_named(refused):
    config = demo.configuration(command_line(["demo"]))
    assert demo.run_folder(None, config) == Path("runs/demo")
    Path("runs/demo").mkdir(parents=True)
    assert demo.run_folder(None, config) == Path("runs/demo"), "an empty folder is free"
    Path("runs/demo/notes.txt").touch()
    assert demo.run_folder(None, config) == Path("runs/demo-2")
    assert "is not empty" in refused("demo", "--out", "runs/demo", "--set", "data.source=digits")
