"""The values of options, and the options that several commands share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from markovae.synonyms import suggestion
from markovae.training.train_config import PRECISIONS

if TYPE_CHECKING:
    from markovae.data.data_config import DataConfig

FLOAT32_FIRST = "auto (float32, the default), float32, bfloat16 or float64"
AS_TRAINED = "auto (as trained where the device has it, the default), float32, bfloat16 or float64"


def whole(minimum: int) -> Callable[[str], int]:
    """A whole number of at least `minimum`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least {minimum}") from None
        if value < minimum:
            raise argparse.ArgumentTypeError(f"{value} must be at least {minimum}")
        return value

    return parse


def positive(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number above 0")
    return value


def one_of(*known: str) -> Callable[[str], str]:
    """One of a few words; another one is told the nearest."""

    def parse(text: str) -> str:
        if text in known:
            return text
        raise argparse.ArgumentTypeError(f"{text!r} must be one of {', '.join(known)}{suggestion(text, known)}")

    return parse


def part_of(text: str) -> str:
    """--shard: I/N with 1 ≤ I ≤ N."""
    part, slash, count = text.partition("/")
    if not (slash and part.isdecimal() and count.isdecimal() and 1 <= int(part) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} must be I/N with I from 1 to N, for instance 2/4")
    return text


def add_run(parser: argparse.ArgumentParser, what: str = "") -> None:
    """RUN, as `run_path`.

    Args:
        what: it is to the command, where that needs saying.
    """
    parser.add_argument("run_path", metavar="RUN", help=f"{what}a run's folder, or one of its checkpoints")


def add_seed(parser: argparse.ArgumentParser, of: str) -> None:
    """--seed."""
    parser.add_argument("--seed", metavar="N", type=int, default=0, help=f"{of} (default: 0)")


def add_budget(parser: argparse.ArgumentParser, default: int) -> None:
    """--minutes or --steps.

    Args:
        default: minutes, where neither is given.
    """
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--minutes", metavar="M", type=positive, help=f"train for M minutes (default: {default})")
    group.add_argument("--steps", metavar="N", type=whole(1), help="train for N steps")


def add_set(parser: argparse.ArgumentParser, example: str) -> None:
    """--set."""
    parser.add_argument(
        "--set", metavar="A.B=C", action="append", default=[], help=f"change one setting, such as {example}; repeatable"
    )


def add_data_settings(parser: argparse.ArgumentParser) -> None:
    """--config and --set, of a command that reads data alone."""
    parser.add_argument("--config", metavar="F.toml", help="settings; only [data] is read")
    add_set(parser, "data.size=64")


def data_config(options: argparse.Namespace) -> DataConfig:
    """The section [data] of --config and --set, its source the argument DATA."""
    from dataclasses import replace

    from markovae.config import Config

    config = Config() if options.config is None else Config.from_toml(options.config)
    return replace(config, data=replace(config.data, source=options.data)).with_settings(options.set).data


def add_machine(parser: argparse.ArgumentParser, batch: str | None, precision: str, *, float64: bool = True) -> None:
    """--device, --precision, --threads and --batch, with what the command does where they are left out.

    Args:
        batch: help of --batch; None leaves it out.
        float64: whether the command also works in float64, which is for checking figures, not for speed.
    """
    known = (*PRECISIONS, "float64") if float64 else PRECISIONS
    group = parser.add_argument_group("machine")
    group.add_argument(
        "--device",
        metavar="NAME",
        default="auto",
        help="auto (the default: a CUDA device per process, else the CPU), cpu, cuda:1",
    )
    group.add_argument("--precision", metavar="NAME", type=one_of(*known), help=precision)
    if batch is not None:
        group.add_argument("--batch", metavar="N", type=whole(1), help=batch)
    group.add_argument("--threads", metavar="N", type=whole(1), help="use at most N threads (default: torch's choice)")


def add_json(parser: argparse.ArgumentParser) -> None:
    """--json."""
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else there")


def add_trust(parser: argparse.ArgumentParser) -> None:
    """--trust."""
    parser.add_argument(
        "--trust",
        metavar="CLASS",
        action="append",
        default=[],
        help="allow a network of your own to be imported: package.module:Class; repeatable",
    )
