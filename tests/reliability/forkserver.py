"""Trainers in a few milliseconds: a process forked from this one, with torch loaded, forks a child for every run.

It reads one JSON object a line and answers each with one line:
{"start": [name, arguments]} -> pid; {"wait": pid} -> exit code, negative for a signal, as `subprocess` has it.
The children run functions of `tests.reliability.trainers`; what they print goes to a file.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from tests.reliability import trainers


class ForkServer:
    """The parent's side; use it as a context manager."""

    def __init__(self) -> None:
        asked, questions = os.pipe()
        answers, answered = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # forking a process with threads: the server uses none of them
            self._pid = os.fork()
        if self._pid == 0:
            try:
                os.close(questions)
                os.close(answers)
                _serve(os.fdopen(asked), os.fdopen(answered, "w"))
            finally:
                os._exit(0)
        os.close(asked)
        os.close(answered)
        self._answers, self._questions = os.fdopen(answers), os.fdopen(questions, "w")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._questions.close()
        os.waitpid(self._pid, 0)
        self._answers.close()

    def start(self, name: str, said: Path, **arguments: Any) -> int:
        """Fork a child that calls trainers.<name>(**arguments), its output in the file `said`; its process id."""
        return self._ask({"start": [name, arguments], "said": str(said)})

    def wait(self, pid: int) -> int:
        """The exit code of a child, once it has ended."""
        return self._ask({"wait": pid})

    def run(self, name: str, said: Path, **arguments: Any) -> int:
        """Start and wait."""
        return self.wait(self.start(name, said, **arguments))

    def _ask(self, question: dict[str, Any]) -> int:
        self._questions.write(json.dumps(question) + "\n")
        self._questions.flush()
        answer = self._answers.readline()
        assert answer, "the fork server is gone"
        return int(answer)


def _serve(questions: TextIO, answers: TextIO) -> None:
    """Answer questions until they end; what still runs then is killed."""
    warnings.simplefilter("ignore")  # those of a trainer are its own, and no error as in a test
    _redirect(os.devnull)
    with tempfile.TemporaryDirectory() as folder:  # a first training loads the rest: here, once, not in every child
        trainers.write_images(data := Path(folder, "images.npz"))
        assert trainers.command(trainers.words(str(data), str(Path(folder, "run")), "short")) == 0
    running: set[int] = set()
    for line in questions:
        question = json.loads(line)
        if "start" in question:
            name, arguments = question["start"]
            pid = os.fork()
            if pid == 0:
                _become(getattr(trainers, name), arguments, question["said"])
            running.add(pid)
            answer = pid
        else:
            _, status = os.waitpid(question["wait"], 0)
            running.discard(question["wait"])
            answer = os.waitstatus_to_exitcode(status)
        print(answer, file=answers, flush=True)
    for pid in running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)


def _become(function: Any, arguments: dict[str, Any], said: str) -> None:
    """The child: call the function and leave with its code; nothing of the server's is touched."""
    code = 70
    try:
        _redirect(said)
        code = int(function(**arguments))
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _redirect(said: str) -> None:
    """Read nothing, and print to the file `said`, whatever stood for the streams before."""
    for stream, name in enumerate(("stdin", "stdout", "stderr")):
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND if stream else os.O_RDONLY
        handle = os.open(said if stream else os.devnull, flags, 0o644)
        os.dup2(handle, stream)
        os.close(handle)
        setattr(sys, name, open(stream, "w" if stream else "r", buffering=1, closefd=False))  # noqa: SIM115
