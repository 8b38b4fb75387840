"""From arguments to an exit code: 0 done, 1 a bug or a failed check, 2 bad input, 3 a stopped run, 130/143 a signal."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from markovae.cli.parsing import command_line
from markovae.errors import StoppedRun, UserError
from markovae.log import printable, tell
from markovae.system.memory import memory_sentence, out_of_memory
from markovae.system.processes import hangup, place


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: without the program's name; None is those of the process.
    """
    _open_missing_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that has no Greek still gets its figures
    with _terminable(), _printable_warnings():
        try:
            code = _run(sys.argv[1:] if arguments is None else arguments)
            if sys.stdout is not None:
                sys.stdout.flush()
        except BrokenPipeError:
            # The reader has what it wanted; Python's own flush at exit must not complain either.
            _hush()
            return 0
        except OSError as error:
            _hush()
            return _report_error(f"the output could not be written ({error.strerror}): send it elsewhere", 3)
    return code


def _open_missing_streams() -> None:
    """Lead 0, 1 and 2, where the shell closed them, to the null device: no file may get their number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, which is this one
            if getattr(sys, name) is None:
                setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115


def _hush() -> None:
    """Let go of what could not be written."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: Sequence[str]) -> int:
    try:
        options = command_line(arguments)
        return int(options.run(options))
    except UserError as error:
        return _report_error(error, 2)
    except StoppedRun as error:
        return _report_error(error, 3)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BrokenPipeError:
        raise
    except Exception as error:
        if out_of_memory(error):
            return _report_error(memory_sentence(error), 2)
        if isinstance(error, OSError) and error.filename is not None:
            named = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else error.filename
            return _report_error(
                f"{named} cannot be used ({error.strerror}): check its name, its rights and its disk", 2
            )
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EIO):
            raise
        tell(traceback.format_exc().rstrip("\n"))
        return _report_error(
            "this is a bug in markovae: please report it with the lines above, the command, and what "
            "`markovae doctor` says",
            1,
        )


def _report_error(what: object, code: int) -> int:
    text = " ".join(str(what).split())
    with suppress(UserError):
        text = text if place().alone else f"rank {place().rank}: {text}"
    tell(f"markovae: {text}")
    return code


@contextmanager
def _printable_warnings() -> Iterator[None]:
    """What libraries warn of may quote a file."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda *what, **more: printable(before(*what, **more).rstrip("\n")) + "\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM, or a closed terminal, ends the command like an exception does, so that staged files are removed; then
    the exit code is 143, or 129."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, *hangup())}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
