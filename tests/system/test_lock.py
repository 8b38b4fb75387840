import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from markovae.errors import StoppedRun, UserError
from markovae.system.lock import LOCK, hold

HOLDER = """
import sys, time
from pathlib import Path
from markovae.system.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_holds_a_folder_and_the_others_are_told(tmp_path: Path):
    with hold(tmp_path):
        assert (tmp_path / LOCK).read_text() == f"{os.getpid()}\n"
        with pytest.raises(UserError, match=rf"another process \({os.getpid()}\) trains in"), hold(tmp_path):
            pass
        assert (tmp_path / LOCK).exists(), "who was refused takes nothing away"
    assert list(tmp_path.iterdir()) == []
    with hold(tmp_path):
        pass


def test_folders_made_for_the_lock_go_with_it_unless_something_is_in_them(tmp_path: Path):
    with hold(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []
    with hold(tmp_path / "a" / "b"):
        (tmp_path / "a" / "kept").touch()
    assert list(tmp_path.rglob("*")) == [tmp_path / "a", tmp_path / "a" / "kept"]


def test_a_file_or_a_place_that_cannot_be_written_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file: name a folder"), hold(tmp_path / "file"):
        pass
    with pytest.raises(UserError, match="cannot be made"), hold(tmp_path / "file" / "below"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_lock_dies_with_its_process_however_it_ends(tmp_path: Path):
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=rf"another process \({process.pid}\)"), hold(tmp_path):
            pass
        process.send_signal(number)
        process.wait(timeout=20)
        process.stdout.close()
        assert (tmp_path / LOCK).exists(), "the file stays where nobody could take it away"
        with hold(tmp_path):
            pass


def test_a_lock_file_that_lost_its_name_holds_nobody(tmp_path: Path):
    """The holder takes the file away while another one has it open: that one must not think it holds the folder."""
    code = f"""
import os, sys, time
from pathlib import Path
import markovae.system.lock as lock
real = lock._try
def slow(*given):
    print("opened", flush=True)
    sys.stdin.readline()
    lock._try = real
    return real(*given)
lock._try = slow
with lock.hold(Path({str(tmp_path)!r})):
    print("held", flush=True)
    assert os.stat({str(tmp_path / LOCK)!r}).st_size
"""
    with hold(tmp_path):
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "opened\n"
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "held\n"
    assert process.wait(timeout=20) == 0
    process.stdin.close()
    process.stdout.close()


def test_a_folder_that_was_moved_and_replaced_is_not_held_any_more(tmp_path: Path):
    with hold(tmp_path / "run") as first:
        first.require()
        (tmp_path / "run").rename(tmp_path / "moved")
        with pytest.raises(StoppedRun, match=r"run was moved or replaced while this process trained in it"):
            first.require()
        with hold(tmp_path / "run") as second:
            assert not first.held
            second.require()
        assert not (tmp_path / "run").exists()
        other = hold(tmp_path / "run")
        other.__enter__()
    assert (tmp_path / "run" / LOCK).exists(), "a lock is taken away by its holder alone"
    other.__exit__(None, None, None)


def test_where_files_cannot_be_locked_the_lock_says_so(tmp_path: Path, monkeypatch):
    def none(handle, how):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    with hold(tmp_path / "run") as lock:
        lock.require()
        assert lock.missing == "Function not implemented"
    assert not (tmp_path / "run").exists()


def test_a_lock_file_that_was_taken_away_moves_nothing_but_anothers_does(tmp_path: Path):
    with hold(tmp_path) as lock:
        (tmp_path / LOCK).unlink()
        lock.require()
        with hold(tmp_path), pytest.raises(StoppedRun, match="moved or replaced"):
            lock.require()
        lock.require()
