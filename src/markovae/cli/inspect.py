"""`markovae inspect`: what data hold, before any training."""

from __future__ import annotations

import argparse

from markovae.cli.options import add_json
from markovae.log import show, show_json

SUMMARY = "say what is in a data set, before any training"
DESCRIPTION = """\
Read images exactly as training would and say what was found: counts, modes, sizes, unreadable files with the reason,
duplicates, channel means, classes, captions and the split.
"""
EXAMPLES = """\
examples:
  markovae inspect photos/
  markovae inspect photos/ --set data.size=64 --set data.fit=pad
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `markovae inspect`."""
    parser.add_argument(
        "data", metavar="DATA", help="faces, digits, cifar10, an image folder, an .npz, .npy or idx file, or shards"
    )
    parser.add_argument("--config", metavar="F.toml", help="settings; only [data] is read")
    parser.add_argument(
        "--set", metavar="A.B=C", action="append", default=[], help="one setting, such as data.size=64; repeatable"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Read and tell; exit code 0.

    Raises:
        UserError: for data that are missing, unreadable or too few.
    """
    from dataclasses import replace

    from markovae.config import Config
    from markovae.data.inspecting import inspect

    config = Config() if options.config is None else Config.from_toml(options.config)
    data = replace(config, data=replace(config.data, source=options.data)).with_settings(options.set).data
    found = inspect(data)
    if options.json:
        show_json(found.to_dict())
    else:
        show(found.describe())
    return 0
