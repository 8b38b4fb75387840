"""Trainers in a few milliseconds: one process has torch loaded and forks a child for every run that is asked for.

As a script it reads one JSON object a line from stdin and answers each with one line:
{"start": [name, arguments]} -> pid; {"wait": pid} -> exit code, negative for a signal, as `subprocess` has it.
The children run functions of `tests.reliability.trainers`; what they print goes to a file.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[2]


class ForkServer:
    """The parent's side; use it as a context manager."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.forkserver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def __enter__(self) -> Self:
        assert self._ask({"start": ["nothing", {}], "said": os.devnull}) > 0  # torch is loaded by now
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()

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
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the fork server is gone"
        return int(answer)


def serve() -> None:
    """Answer questions until stdin ends; what still runs then is killed."""
    import torch
    import torch._dynamo  # a first step loads half of it: here, once, and not in every child
    from tests.reliability import trainers

    torch.set_num_threads(1)
    running: set[int] = set()
    for line in sys.stdin:
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
        print(answer, flush=True)
    for pid in running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)


def _become(function: Any, arguments: dict[str, Any], said: str) -> None:
    """The child: call the function and leave with its code; nothing of the server's is touched."""
    code = 70
    try:
        for stream, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
            path = os.devnull if stream == 0 else said
            handle = os.open(path, flags | (os.O_CREAT | os.O_APPEND if stream else 0), 0o644)
            os.dup2(handle, stream)
            os.close(handle)
        sys.stdin = open(os.devnull)  # noqa: SIM115, PTH123
        code = int(function(**arguments))
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
