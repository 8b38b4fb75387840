"""The command line: its commands, errors of one sentence that name the nearest option, and exit codes."""

from __future__ import annotations

import argparse
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
from importlib import import_module
from types import FrameType, ModuleType
from typing import NoReturn, final

from markovae import __version__
from markovae.config import SECTIONS
from markovae.errors import StoppedRun, UserError
from markovae.log import printable, tell
from markovae.synonyms import COMMANDS as COMMON
from markovae.synonyms import meant, nearest
from markovae.system.memory import memory_sentence, out_of_memory, require_address_space
from markovae.system.processes import current_rank, hangup

DESCRIPTION = "Diffusion models as Markovian VAEs: train on your own images, sample, and measure in bits/dim."
EPILOG = """\
start here:
  markovae demo                         # new faces, and their bits/dim
  markovae inspect photos/              # what a folder holds, before any training
  markovae train photos/ --out runs/a   # then: markovae sample runs/a, markovae measure runs/a

exit codes: 0 done, 1 a bug or a failed check, 2 bad input, 3 a stopped run, 130/143 stopped by a signal
"""
# In the order of the help. Each is a module beside this one, imported where it is asked for.
COMMANDS = (
    *("demo", "train", "distill", "sample", "serve", "edit", "measure", "quality", "compress", "decompress"),
    *("import", "export", "inspect", "data", "shard", "verify", "doctor"),
)

# Threads that wait at a barrier spin so often before they sleep. As fast as libgomp's default where nothing else runs;
# beside other work, longer spinning uses up the turns that the thread needs itself (docs/performance.md).
SPIN = "10000"
SPINNING = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
TOGETHER = ("train", "sample", "measure", "compress")  # what several processes do together


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: without the program's name; None is those of the process.
    """
    _open_missing_streams()
    if not SPINNING & os.environ.keys():  # before torch loads libgomp, which reads it once
        os.environ["GOMP_SPINCOUNT"] = SPIN
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
        require_address_space()
        if getattr(options, "trust", None):
            sys.path.insert(0, "")  # a network of one's own lies where one works, as it does for `python -m`
        if getattr(options, "threads", None):
            import torch

            torch.set_num_threads(options.threads)
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
        text = text if current_rank().alone else f"rank {current_rank().rank}: {text}"
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


@final
class Parser(argparse.ArgumentParser):
    """argparse with its errors raised: `error` is the method the standard library offers to be replaced."""

    @property
    def known(self) -> set[str]:
        """Every spelling of every option."""
        return set(self._option_string_actions)

    def error(self, message: str) -> NoReturn:
        """Raise the message as a sentence.

        Raises:
            UserError: always.
        """
        raise UserError(f"{_sentence(message)}; see {self.prog} --help")


def command_line(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of a command, its `run` among them.

    Raises:
        UserError: for what the command line does not offer, naming the nearest thing that it does.
    """
    if arguments:
        _check_command(arguments[0])
    parser, commands = parser_of(arguments[:1] if arguments and arguments[0] in COMMANDS else COMMANDS)
    if not arguments:
        parser.print_help()
        raise SystemExit(2)
    if arguments[0] in COMMANDS:
        _check_options(arguments[1:], commands[arguments[0]])
    options, left = parser.parse_known_args(arguments)
    if left:
        _refuse(left, commands[options.command])
    if options.command not in TOGETHER and not current_rank().alone:
        raise UserError(f"markovae {options.command} is one process: start it without torchrun")
    return options


def module_of(name: str) -> ModuleType:
    """The module of a command; `import` is no name for one, and `data` is a package's."""
    return import_module(f"markovae.cli.{name}_" if name in ("import", "data") else f"markovae.cli.{name}")


def parser_of(names: Sequence[str]) -> tuple[Parser, dict[str, Parser]]:
    """The parser of these commands, and that of each by its name."""
    parser = Parser(
        prog="markovae",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"markovae {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=Parser)
    commands = {}
    for name in names:
        module = module_of(name)
        command = subparsers.add_parser(
            name,
            help=module.SUMMARY,
            description=module.DESCRIPTION,
            epilog=module.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(command)
        command.add_argument("--version", action="version", version=f"markovae {__version__}")
        command.set_defaults(run=module.run)
        commands[name] = command
    return parser, commands


def _check_command(first: str) -> None:
    if first in COMMANDS or first in ("-h", "--help", "--version"):
        return
    if first.startswith("-"):
        raise UserError(f"name a command before {first}: one of {', '.join(COMMANDS)}")
    near = COMMON.get(first) or nearest(first, COMMANDS, 0.6)
    hint = f"; did you mean {near}?" if near else ""
    raise UserError(f"there is no command {first!r}: take one of {', '.join(COMMANDS)}{hint}")


def _check_options(words: Sequence[str], command: Parser) -> None:
    """Misspelt options are named before argparse misses those that they were meant to be."""
    own = words[: words.index("--")] if "--" in words else words
    left = [word for word in own if word.startswith("--") and word.partition("=")[0] not in command.known]
    if left:
        _refuse(left, command)


def _refuse(left: Sequence[str], command: Parser) -> NoReturn:
    for word in left:
        name = word.partition("=")[0]
        if name.startswith("-"):
            raise UserError(f"{command.prog} has no option {name}{_hint(name, command)}")
    raise UserError(f"{command.prog} does not take {left[0]!r} as well; see {command.prog} --help")


def _hint(name: str, command: Parser) -> str:
    """What an unknown option may have meant: by another library's word, by spelling, or of another command."""
    text = meant(name)
    called = _setting_called(name) if text is None else None
    near = nearest(name, [option for option in command.known if option.startswith("--")])
    if text is None and called is None and near:
        return f"; did you mean {near}?"
    text = text or called or name
    option = text.partition(" ")[0].rstrip(",")
    if option.startswith("--"):
        every = [command] if option in command.known else parser_of(COMMANDS)[1].values()
        owners = [one.prog for one in every if option in one.known]
        if option == name and owners:
            return f": it is an option of {', '.join(owners)}"
        if owners:
            return f": it is {text}" + (f" of {owners[0]}" if owners[0] != command.prog else "")
        return f"; see {command.prog} --help"
    if option.partition(".")[0] in SECTIONS:
        return f": it is a setting, --set {text}" if "--set" in command.known else f": it is set in training, {text}"
    return f": {text}"


def _setting_called(name: str) -> str | None:
    """The settings whose last word an option is called by, as in --weight-decay; None without one."""
    from markovae.config import Config
    from markovae.tables import names_of

    word = name.lstrip("-").replace("-", "_").lower()
    found = [one for one in names_of(Config) if one.rpartition(".")[2] == word]
    shortest = [one for one in found if one.count(".") == min(each.count(".") for each in found)]
    return " or ".join(shortest) or None


def _sentence(message: str) -> str:
    """argparse's own wording, in ours where it is common."""
    missing = "the following arguments are required: "
    if message.startswith(missing):
        return f"{message.removeprefix(missing)} is missing"
    return message.removeprefix("argument ")
