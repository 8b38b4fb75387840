"""Exit codes, signals, streams, and how fast the command line starts."""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from markovae.cli import entry
from markovae.cli.entry import main
from markovae.errors import StoppedRun, UserError

from .conftest import settings

QUICK = "import sys; from markovae.cli import main; main({}); sys.exit(repr(sorted({} & set(sys.modules))) or 0)"
HEAVY = {"torch", "numpy", "rich", "PIL", "safetensors", "tomli_w"}


def run_as(monkeypatch, action):
    """Exit code of a command that does `action`."""
    monkeypatch.setattr(entry, "command_line", lambda arguments: argparse.Namespace(run=lambda options: action()))
    return main(["something"])


def raising(error):
    def action():
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("delta=2 is\n too large"), 2, "markovae: delta=2 is too large"),
        (StoppedRun("the loss is NaN"), 3, "markovae: the loss is NaN"),
        (KeyboardInterrupt(), 130, ""),
        (SystemExit(143), 143, ""),
        (MemoryError(), 2, "lower --batch"),
        (RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory"), 2, "lower --batch"),
        (PermissionError(13, "Permission denied", "photos"), 2, "photos cannot be used (Permission denied)"),
        (OSError(36, "File name too long", "a" * 300), 2, "cannot be used (File name too long)"),
    ],
)
def test_what_ends_a_command_is_told_without_a_traceback(monkeypatch, capsys, error, code, words):
    assert run_as(monkeypatch, raising(error)) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert "Traceback" not in err
    assert err.count("\n") == bool(words)


def test_a_bug_shows_its_traceback_and_how_to_report_it(monkeypatch, capsys):
    assert run_as(monkeypatch, raising(ZeroDivisionError("seven"))) == 1
    err = capsys.readouterr().err
    assert "ZeroDivisionError: seven" in err
    assert "report" in err.splitlines()[-1]


def test_a_device_out_of_memory_names_the_batch(monkeypatch, capsys):
    class OutOfMemoryError(RuntimeError):
        """As torch's own is called."""

    assert run_as(monkeypatch, raising(OutOfMemoryError("CUDA out of memory"))) == 2
    assert "--batch" in capsys.readouterr().err


def test_sigterm_unwinds_and_gives_143(monkeypatch):
    cleaned = []

    def action():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            cleaned.append(True)

    before = signal.getsignal(signal.SIGTERM)
    assert run_as(monkeypatch, action) == 143
    assert cleaned
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["train", "--help"]])
def test_help_loads_nothing_heavy(words):
    done = subprocess.run([sys.executable, "-c", QUICK.format(words, HEAVY)], capture_output=True, text=True)
    assert done.stderr == "[]\n"
    assert done.stdout


def test_the_module_is_the_command_and_a_reader_that_leaves_is_no_error():
    command = [sys.executable, "-m", "markovae", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


def test_of_several_processes_each_says_who_it_is_and_only_some_commands_are_for_them(monkeypatch, capsys):
    told = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert main(["inspect", "digits"]) == 2
    assert capsys.readouterr().err == "markovae: rank 1: markovae inspect is one process: start it without torchrun\n"
    monkeypatch.delenv("RANK")
    assert main(["train", "digits", "--out", "x"]) == 2
    assert "WORLD_SIZE=2 processes were announced without RANK" in capsys.readouterr().err


def test_a_closed_or_full_output_is_no_bug():
    def run(words: str) -> tuple[int, str]:
        command = ["sh", "-c", f'"{sys.executable}" -m markovae {words}']
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr

    assert run("--version >&-")[0] == 0
    code, said = run("inspect digits > /dev/full")
    assert (code, said.count("\n")) == (3, 1)
    assert "the output could not be written (No space left on device)" in said
    assert run("inspect nothing-here 2> /dev/full")[0] == 2
    assert run("inspect nothing-here 2>&-")[0] == 2


def test_letters_that_the_terminal_has_not_are_spelt():
    spelt = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-m", "markovae", "edit", "--help"], capture_output=True, env=spelt)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()


def test_a_missing_stream_leads_to_the_null_device_and_no_file_gets_its_number():
    """All three are closed before anything runs; what is opened next must not be 0, 1 or 2."""
    code = """
import os, sys
from markovae.cli import entry
os.closerange(0, 3)
sys.stdin = sys.stdout = sys.stderr = None
def run(arguments):
    assert os.open(os.devnull, os.O_RDONLY) > 2
    assert all(os.path.samestat(os.fstat(number), os.stat(os.devnull)) for number in range(3))
    assert all(os.get_inheritable(number) for number in range(3))
    print("out"), print("err", file=sys.stderr)
    assert sys.stdin.read() == ""
    return 7
entry._run = run
os._exit(entry.main([]))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 7


def test_a_run_trains_without_streams(together, tmp_path: Path):
    words = ["train", "digits", *settings(), "--steps", "3", "--no-report", "--out", str(tmp_path / "run")]

    def silent() -> int:
        os.closerange(0, 3)
        sys.stdin = sys.stdout = sys.stderr = None
        return main(words)

    (ended,) = together(silent, size=1)
    assert (ended.code, ended.value) == (0, 0), ended.said
    assert (tmp_path / "run" / "checkpoints" / "step-00000003").is_dir()


def test_a_limit_of_memory_that_torch_does_not_load_under_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("markovae.system.memory._limit", lambda: 700 * 2**20)
    assert run_as(monkeypatch, lambda: 0) == 2
    assert capsys.readouterr().err == (
        "markovae: this process may use 700 MiB of memory (ulimit -v), and needs at least 1,024 MiB: raise the limit\n"
    )
    monkeypatch.setattr("markovae.system.memory._limit", lambda: 2**30)
    assert run_as(monkeypatch, lambda: 0) == 0
