"""The parser: its commands, the flags they share, and errors of one sentence that name the nearest option."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from typing import NoReturn, final

from markovae import __version__
from markovae.cli import demo, doctor, edit, export, import_, inspect, measure, quality, sample, shard, train, verify
from markovae.errors import UserError
from markovae.system.processes import place

DESCRIPTION = "Diffusion models as Markovian VAEs: train on your own images, sample, and measure in bits/dim."
EPILOG = """\
start here:
  markovae demo                         faces that did not exist, and what they cost in bits
  markovae inspect photos/              what is in a folder, before any training
  markovae train photos/ --out runs/a   then: markovae sample runs/a, markovae measure runs/a

exit codes: 0 done, 1 a bug or a failed check, 2 bad input, 3 a stopped run, 130/143 stopped by a signal
"""
COMMANDS = (demo, train, sample, edit, measure, quality, import_, export, inspect, shard, verify, doctor)

TOGETHER = ("train", "sample", "measure")  # what several processes do together


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
    parser, commands = _parser()
    if not arguments:
        parser.print_help()
        raise SystemExit(2)
    _check_command(arguments, commands)
    if arguments[0] in commands:
        _check_options(arguments[1:], commands[arguments[0]])
    options, left = parser.parse_known_args(arguments)
    if left:
        _refuse(left, commands[options.command])
    if options.command not in TOGETHER and not place().alone:
        raise UserError(f"markovae {options.command} is one process: start it without torchrun")
    return options


def _parser() -> tuple[Parser, dict[str, Parser]]:
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
    for module in COMMANDS:
        name = module.__name__.rpartition(".")[2].removesuffix("_")  # `import` is no name for a module
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


def _check_command(arguments: Sequence[str], commands: dict[str, Parser]) -> None:
    first = arguments[0]
    if first in commands or first in ("-h", "--help", "--version"):
        return
    if first.startswith("-"):
        raise UserError(f"name a command before {first}: one of {', '.join(commands)}")
    raise UserError(f"there is no command {first!r}: take one of {', '.join(commands)}{_hint(first, commands)}")


def _check_options(words: Sequence[str], command: Parser) -> None:
    """Misspelt options are named before argparse misses those that they were meant to be."""
    own = words[: words.index("--")] if "--" in words else words
    left = [word for word in own if word.startswith("--") and word.partition("=")[0] not in command.known]
    if left:
        _refuse(left, command)


def _refuse(left: Sequence[str], command: Parser) -> NoReturn:
    known = [name for name in command._option_string_actions if name.startswith("--")]
    for word in left:
        name = word.partition("=")[0]
        if name.startswith("-"):
            hint = _hint(name, known) or f"; see {command.prog} --help"
            raise UserError(f"{command.prog} has no option {name}{hint}")
    raise UserError(f"{command.prog} does not take {left[0]!r} as well; see {command.prog} --help")


def _hint(word: str, known: Sequence[str] | dict[str, Parser]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def _sentence(message: str) -> str:
    """argparse's own wording, in ours where it is common."""
    missing = "the following arguments are required: "
    if message.startswith(missing):
        return f"{message.removeprefix(missing)} is missing"
    return message.removeprefix("argument ")
