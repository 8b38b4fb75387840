import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from markovae.checkpoints.writing import prune
from markovae.errors import StoppedRun, UserError
from markovae.run.run_folder import RunFolder
from markovae.system import files as disk_module
from markovae.system.files import (
    SYSTEM,
    append,
    clear_stages,
    remove,
    replace_file,
    staged_folder,
    write_folder,
    write_synced,
)
from markovae.system.lock import LOCK, hold
from markovae.system.plain import FILES, FOLDERS, open_plain, require_plain

NAMES = [
    *FILES,
    *FOLDERS,
    ".tmp-0123abcd",
    ".tmp-old-config.toml-0123abcd",
    "checkpoints/step-00000001",
    "samples/a.png",
]


@pytest.fixture(params=[True, False], ids=["handles", "names"])
def handles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """Whether the system has handles of folders."""
    monkeypatch.setattr(disk_module, "HANDLES", request.param)
    return request.param


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A folder outside the run that must be the same afterwards."""
    folder = tmp_path / "victim"
    (folder / ".tmp-mine").mkdir(parents=True)
    (folder / ".tmp-mine" / "a").write_text("kept")
    (folder / "file").write_text("kept")
    before = contents(folder)
    yield folder
    assert contents(folder) == before


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contents(folder: Path) -> dict[str, str]:
    return {str(path): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", NAMES)
def test_a_link_a_pipe_or_a_device_is_refused_before_anything_is_touched(tmp_path: Path, victim: Path, name: str):
    run = tmp_path / "run"
    path = run / name
    path.parent.mkdir(parents=True)
    for target in (victim, victim / "file", victim / "missing", Path(os.devnull)):
        path.symlink_to(target)
        for refuse in (lambda: require_plain(run), lambda: hold(run).__enter__()):
            with pytest.raises(UserError, match=rf"{re.escape(str(path))} is a link: a run holds none"):
                refuse()
        assert [inside for inside in run.rglob("*") if inside != path] == ([path.parent] if path.parent != run else [])
        path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="is no file but"):
        require_plain(run)


def test_other_names_are_the_persons_own_and_the_run_may_be_a_link(tmp_path: Path, victim: Path):
    (tmp_path / "disk").mkdir()
    run = tmp_path / "run"
    run.symlink_to(tmp_path / "disk")
    (run / "latest").symlink_to(victim)
    require_plain(run)
    with hold(run):
        folder = RunFolder(run)
        folder.append({"step": 1})
        assert folder.last("train") is None
    assert run.is_symlink()
    assert names(tmp_path / "disk") == ["latest", "metrics.jsonl"]


def test_below_a_root_no_link_is_followed_by_any_change(tmp_path: Path, victim: Path, handles: bool):
    """As where a link is made after all was looked at."""
    run = tmp_path / "run"
    run.mkdir()
    inside = SYSTEM.inside(run)
    (run / "samples").symlink_to(victim)
    (run / "metrics.jsonl").symlink_to(victim / "file")
    (run / "mine").write_text("mine")
    with pytest.raises(StoppedRun, match="put what the link leads to in its place"):
        append(run / "metrics.jsonl", b"row", inside)
    for change in (
        lambda: inside.mkdir(run / "samples" / "new"),
        lambda: inside.unlink(run / "samples" / "file"),
        lambda: inside.rmdir(run / "samples" / ".tmp-mine"),
        lambda: inside.rename(run / "mine", run / "samples" / "file"),
        lambda: inside.rename(run / "samples" / "file", run / "mine"),
        lambda: inside.open(run / "samples" / "file", os.O_RDONLY),
        lambda: inside.open(run / "samples", os.O_RDONLY),
    ):
        with pytest.raises(OSError, match=r"Too many levels|Not a directory"):
            change()
    with pytest.raises(StoppedRun, match="could not be written"):
        replace_file(run / "samples" / "file", b"new", inside)
    with pytest.raises(UserError, match="cannot be written"):
        write_folder(run / "samples" / "new", {"a": b"a"}, inside)
    clear_stages(run / "samples", inside)
    replace_file(run / "metrics.jsonl", b"row", inside)
    assert not (run / "metrics.jsonl").is_symlink()
    assert (run / "mine").read_text() == "mine"


def test_a_root_below_a_root_is_the_same(tmp_path: Path, victim: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "samples").symlink_to(victim)
    inside = SYSTEM.inside(tmp_path / "run")
    assert inside.inside(tmp_path / "run" / "samples") is inside
    assert inside.inside(tmp_path) is not inside


def test_a_root_named_relatively_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handles: bool):
    monkeypatch.chdir(tmp_path)
    inside = SYSTEM.inside(Path("run"))
    inside_itself = SYSTEM.inside(Path())
    inside_itself.mkdir(Path("run"))
    replace_file(Path("run/a/b"), b"1", inside)
    with staged_folder(Path("run/new"), inside) as stage:
        write_synced(stage / "c", b"2", inside)
    assert contents(tmp_path) == {str(tmp_path / "run/a/b"): "1", str(tmp_path / "run/new/c"): "2"}


def test_what_is_cleared_or_deleted_is_deleted_without_following(tmp_path: Path, victim: Path, handles: bool):
    stage = tmp_path / ".tmp-stage"
    stage.mkdir()
    (stage / "link").symlink_to(victim)
    (stage / "file").symlink_to(victim / "file")
    (tmp_path / ".tmp-link").symlink_to(victim)
    (tmp_path / ".tmp-old-config.toml-0123abcd").symlink_to(victim / "file")
    clear_stages(tmp_path)
    assert names(tmp_path) == ["victim"], "and no link steps back into a name"
    (tmp_path / "link").symlink_to(victim)
    remove(tmp_path / "link")
    (tmp_path / "step-00000001").symlink_to(victim)
    prune(tmp_path, 0)
    assert names(tmp_path) == ["victim"]


def test_a_folder_that_becomes_a_link_while_it_is_deleted_is_not_followed(tmp_path: Path, victim: Path, monkeypatch):
    doomed = tmp_path / "doomed"
    doomed.mkdir()
    real = Path.iterdir

    def swapped(path: Path):
        if path == doomed:
            doomed.rmdir()
            doomed.symlink_to(victim)
        return real(path)

    monkeypatch.setattr(Path, "iterdir", swapped)
    remove(doomed)


def test_a_lock_with_a_second_name_empties_nothing(tmp_path: Path, victim: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).hardlink_to(victim / "file")
    with pytest.raises(UserError, match="is no lock but another file"), hold(tmp_path / "run"):
        pass


def test_metrics_with_a_second_name_are_left_to_it(tmp_path: Path):
    folder = RunFolder(tmp_path / "run")
    (tmp_path / "run").mkdir()
    folder.append({"step": 1})
    (tmp_path / "copy").hardlink_to(folder.metrics)
    folder.forget_after(1)
    folder.append({"step": 2})
    assert (tmp_path / "copy").read_text() == '{"step": 1}\n'
    assert folder.metrics.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_what_is_read_is_a_file(tmp_path: Path):
    (tmp_path / "a").write_text("text")
    with open_plain(tmp_path / "a") as file:
        assert file.read() == b"text"
    with pytest.raises(FileNotFoundError):
        open_plain(tmp_path / "missing")
