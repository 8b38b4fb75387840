"""`markovae inspect`: what data hold, before any training; and what a compressed file says of itself."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from markovae.cli.options import add_data_settings, add_json, data_config
from markovae.log import counted, show, show_json

SUMMARY = "say what is in a data set, before any training"
DESCRIPTION = """\
Read images exactly as training would and say what was found: counts, modes, sizes, unreadable files with the reason,
duplicates, channel means, classes, captions and the split. Of a file of `markovae compress`: what it holds, and by
which model and machine it can be decoded.
"""
EXAMPLES = """\
examples:
  markovae inspect photos/
  markovae inspect photos/ --set data.size=64 --set data.fit=pad
  markovae inspect photos/ --set data.split=content --set data.classes=prefix
  markovae inspect photos.mvz
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `markovae inspect`."""
    parser.add_argument(
        "data",
        metavar="DATA",
        help="faces, digits, cifar10, an image folder, an .npz, .npy or idx file, CIFAR's binary files, parquet files, "
        "shards, or FILE.mvz",
    )
    add_data_settings(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Read and tell; exit code 0.

    Raises:
        UserError: for data that are missing, unreadable or too few.
    """
    if options.data.endswith(".mvz") and Path(options.data).is_file():
        return _tell_compressed(Path(options.data), options.json)
    from markovae.data.inspecting import inspect

    found = inspect(data_config(options))
    if options.json:
        show_json(found.to_dict())
    else:
        show(found.describe())
    return 0


def _tell_compressed(path: Path, as_json: bool) -> int:
    from markovae.compression.codec import describe
    from markovae.compression.mvz_format import open_mvz

    facts = describe(open_mvz(path))
    if as_json:
        show_json({"schema_version": 1, "file": str(path), **facts})
    else:
        show(compressed_in_words(facts))
    return 0


def compressed_in_words(facts: dict[str, Any]) -> str:
    """What `describe` found, in lines."""
    channels, height, width = facts["shape"]
    groups, names = facts["groups"], [name for name in facts["names"] if name]
    plain = sum(group["plain_images"] for group in groups)
    threads = "any number of threads" if facts["threads"] is None else counted(facts["threads"], "thread")
    variance = "the model's own variance" if facts["errors"] is None else "a variance fitted to other images"
    kind = "on any machine (portable)" if facts["portable"] else "on the same kind of machine"
    known = "".join(f", coded with their {what}" for what in facts["side_information"])
    lines = [
        f"{counted(facts['count'], 'image')} of {channels} x {height} x {width}, {facts['bins']} values{known}",
        f"{facts['bytes']:,} bytes, {facts['bits_per_dim']:.4f} bits/dim; header {facts['header_bytes']:,} bytes",
        f"{counted(len(groups), 'group')} of {facts['group']:,}, {counted(plain, 'image')} written plainly",
        f"{len(facts['levels']):,} levels, {variance}, batch {facts['batch']}",
        f"model SHA-256 {facts['model']}",
        f"decodes {kind}: {facts['precision']}, {threads}, probe {facts['probe']}",
    ]
    if facts["progressive"]:
        lines.append("progressive: markovae decompress --stop-after BYTES shows each image by a part of its data")
    if names:
        lines.append(f"names: {', '.join(names[:8])}{', …' if len(names) > 8 else ''}")
    return "\n".join(lines)
