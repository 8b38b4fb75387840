"""The commands and their options; every complaint is one sentence that names the nearest thing that exists."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn, final

from markovae import __version__
from markovae.errors import UserError

COMMANDS = {
    "demo": "train on the embedded faces, sample, measure and report, in minutes",
    "train": "train on faces, digits, a folder of images or an array file",
    "sample": "draw images from a run",
    # "edit": "inpaint, restore or vary an image with a run",
    "measure": "measure what images cost under a run, in bits per dimension",
    "inspect": "say what a folder or file of images holds, before any training",
    # "verify": "check every equation of the derivation numerically",
    "doctor": "say what this machine offers, and whether its device agrees with the CPU",
}


@final
class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are UserErrors."""

    def error(self, message: str) -> NoReturn:
        """Raise the complaint instead of printing usage."""
        raise UserError(f"{message}; `{self.prog} --help` lists what is understood")


def build_parser() -> Parser:
    """The parser of `markovae`; each command's own module adds its options."""
    parser = Parser(
        prog="markovae",
        description="Diffusion models as Markovian VAEs: train on your images, sample in seconds, measure in bits.",
        epilog="Start with `markovae demo`, or `markovae train FOLDER --out runs/mine`.",
    )
    parser.add_argument("--version", action="version", version=f"markovae {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        module = import_module(f"markovae.cli.{name}")
        module.add_options(command)
        command.add_argument("--version", action="version", version=f"markovae {__version__}")
        command.set_defaults(run=module.run, parser=command)
    return parser


def parse(parser: Parser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse, and name the nearest command or option for one that does not exist.

    Raises:
        UserError: for anything that is not understood.
    """
    words = [word for word in arguments if not word.startswith("-")]
    if words and arguments[0] == words[0] and words[0] not in COMMANDS:
        raise UserError(f"{words[0]!r} is no command: did you mean {nearest(words[0], COMMANDS)}?")
    options, unknown = parser.parse_known_args(arguments)
    if not unknown:
        return options
    flag = unknown[0].partition("=")[0]
    if not flag.startswith("-"):
        raise UserError(f"{flag!r} is one argument too many; `{options.parser.prog} --help` lists what is understood")
    known = [name for action in options.parser._actions for name in action.option_strings if name.startswith("--")]
    raise UserError(f"{flag} is no option of `{options.parser.prog}`: did you mean {nearest(flag, known)}?")


def nearest(word: str, known: Sequence[str] | dict[str, str]) -> str:
    """The known word most like this one."""
    return max(known, key=lambda candidate: difflib.SequenceMatcher(None, word, candidate).ratio())


def whole(least: int) -> type:
    """An argparse type: a whole number of at least `least`."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least {least}") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} must be at least {least}")
        return value

    return convert  # type: ignore[return-value]


def positive(text: str) -> float:
    """An argparse type: a number above 0."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number above 0") from None
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be a number above 0")
    return value


def add_device(command: argparse.ArgumentParser, batch: int | None = 64) -> None:
    """The options that every command with a network shares."""
    group = command.add_argument_group("machine")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps …")
    group.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "float32", "bfloat16", "float64"),
        help="of the network; schedules and nats are float64 always",
    )
    if batch is not None:
        group.add_argument("--batch", type=whole(1), default=batch, help="images a network call")


def add_json(command: argparse.ArgumentParser) -> None:
    """`--json`: one JSON object on stdout and nothing else there."""
    command.add_argument("--json", action="store_true", help="print one JSON object instead of text")
