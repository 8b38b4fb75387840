"""The command line. Starting it loads neither torch nor numpy; a command loads what it needs when it runs."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from markovae.cli.parser import build_parser, parse
from markovae.errors import StoppedRun, UserError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 success; 1 a bug or a failed check; 2 bad usage or bad input; 3 a stopped run; 130, 143 after a signal.
    """
    _terminate_as_exit()
    try:
        options = parse(build_parser(), sys.argv[1:] if arguments is None else arguments)
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except UserError as error:
        return _tell(error, 2)
    except StoppedRun as error:
        return _tell(error, 3)
    except KeyboardInterrupt:
        return _tell("stopped", 130)
    except BrokenPipeError:
        # The reader went away (`| head`): nothing is left to say, and nobody to hear it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:
        traceback.print_exc()
        return _tell("this is a bug: please report the lines above with the command that caused them", 1)


def _tell(what: object, code: int) -> int:
    print(f"markovae: {what}", file=sys.stderr)
    return code


def _terminate_as_exit() -> None:
    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    if hasattr(signal, "SIGTERM") and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        # Only the main thread of a process may set handlers; elsewhere the default stays.
        try:
            signal.signal(signal.SIGTERM, leave)
        except ValueError:
            return
