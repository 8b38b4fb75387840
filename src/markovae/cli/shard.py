"""`markovae shard`: images to tar shards, for data larger than memory or read from afar."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from markovae.cli.options import add_data_settings, add_json, data_config, whole
from markovae.data.data_config import ANY_SOURCE
from markovae.errors import UserError
from markovae.log import show, show_json
from markovae.system.files import require_new_folder

SUMMARY = "write images as tar shards, for data larger than memory"
DESCRIPTION = """\
Read images exactly as training would and write them as tar files of PNGs at their final size (the WebDataset layout),
shuffled and split once, with an index. Training on the folder then reads what it needs, when it needs it.
"""
EXAMPLES = """\
examples:
  markovae shard photos/ --out shards --set data.size=64
  markovae train shards --out runs/photos
  markovae train s3://bucket/shards --out runs/photos        # a URL: needs markovae[remote]
"""
PER_SHARD = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `markovae shard`."""
    parser.add_argument("data", metavar="DATA", help=ANY_SOURCE)
    parser.add_argument("--out", metavar="DIR", required=True, help="a new or empty folder")
    parser.add_argument(
        "--per-shard", metavar="N", type=whole(1), default=PER_SHARD, help="images per shard (default: 10,000)"
    )
    add_data_settings(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Write and tell; exit code 0.

    Raises:
        UserError: for data that are missing, unreadable or too few, or an --out that is not empty.
        StoppedRun: when the disk refuses.
    """
    from markovae.data.loading import read_source, require_asked, require_readable
    from markovae.data.shard_format import write_shards
    from markovae.data.source import log_left_out

    out = Path(options.out)
    require_new_folder(out, "--out")
    if not out.parent.is_dir():
        raise UserError(f"--out {out} cannot be made: {out.parent} is not a folder")
    data = data_config(options)
    reading = read_source(data)
    require_readable(reading, data)
    require_asked(reading, data)
    if reading.split.refusal:
        raise UserError(reading.split.refusal)
    log_left_out(reading.data.name, reading.summary.unreadable, reading.summary.notes)
    record = write_shards(reading, out, options.per_shard)
    if options.json:
        show_json({"schema_version": 1, "out": str(out), **record})
    else:
        show(describe(record, out))
    return 0


def describe(record: dict[str, Any], out: Path) -> str:
    """The shards in words."""
    counts = {
        part: sum(s["count"] for s in record["shards"] if s["part"] == part) for part in ("train", "validation", "test")
    }
    size = sum(shard["bytes"] for shard in record["shards"])
    channels, height, width = record["shape"]
    images = ", ".join(f"{count:,} {part}" for part, count in counts.items())
    return (
        f"{record['count']:,} images of {channels} x {height} x {width} in {len(record['shards'])} shards, "
        f"{size / 1e6:,.1f} MB ({images})\ntrain on them:  markovae train {out} --out RUN"
    )
