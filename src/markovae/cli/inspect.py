"""`markovae inspect`."""

from __future__ import annotations

import argparse
import json

from markovae.cli.parser import add_json


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of this command."""
    command.add_argument("data", metavar="DATA", help="faces, digits, a folder of images or an array file")
    command.add_argument(
        "--set", action="append", default=[], metavar="data.b=c", dest="settings", help="as of `markovae train`"
    )
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """Read the data whole and say what they hold."""
    from markovae.config import Config
    from markovae.data import inspect_data

    config = Config().with_settings([f"data.source={options.data}", *options.settings])
    found = inspect_data(config.data)
    print(json.dumps(found.to_dict(), allow_nan=False) if options.json else found.describe())
    return 0
