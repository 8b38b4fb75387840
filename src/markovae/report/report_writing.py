"""`write_report`: from a run's folder to report.json, report.html and samples/grid.png."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from markovae.checkpoints.reading import open_checkpoint
from markovae.data.pictures import png, readable, tile, viewable
from markovae.report.page import page
from markovae.report.report_data import SCHEMA_VERSION, collect_report_data
from markovae.report.reported_run import load_reported_run
from markovae.system.files import SYSTEM, replace_file
from markovae.system.jsonlines import is_count, is_figure
from markovae.system.plain import open_plain, require_plain

PAGE, RECORD = "report.html", "report.json"
LONGEST = 1 << 26  # bytes of a report.json
DEEPEST = 16  # of what is nested in it
PARTS = {
    *("schema_version", "markovae", "run", "rows", "data", "measurement", "codecs", "samples", "captions", "prompts"),
    *("neighbours", "channels", "curves", "outlook", "extremes", "meanings"),
}


def write_report(
    run: str | Path,
    device: str | torch.device = "cpu",
    source: str | None = None,
    trust: Sequence[str] = (),
    minutes: float = 1.0,
) -> dict[str, Any]:
    """Write a run's report and return what report.json says.

    Rows of metrics.jsonl that cannot be read are left out, which the report says.

    Args:
        source: of the run's images, as the person named it: a URL that the run alone names is not opened.
        trust: networks of the caller's own that may be imported, each "package.module:Class".
        minutes: that it may take, about; where that is short, less is looked at, and the report says how much.
    Raises:
        UserError: for a path that is not a run, links in it, or data that are missing or changed.
        StoppedRun: when the disk refuses.
    """
    require_plain(Path(run))
    opened = load_reported_run(run, torch.device(device), source, trust)
    disk = SYSTEM.inside(opened.path)
    data = collect_report_data(opened, minutes)
    pictures = viewable(data.samples, data.bins)
    sheet = png(readable(tile(pictures, data.record["samples"]["columns"]), pictures))
    replace_file(opened.path / "samples" / "grid.png", sheet, disk)
    replace_file(opened.path / PAGE, page(data).encode(), disk)
    # Last, since its step says that the report is whole.
    replace_file(opened.path / RECORD, (json.dumps(data.record, indent=1, allow_nan=False) + "\n").encode(), disk)
    return data.record


def current_report(run: str | Path, trust: Sequence[str] = ()) -> dict[str, Any] | None:
    """What report.json says, where it is whole and of the newest checkpoint; else None.

    Args:
        trust: as for `write_report`.
    Raises:
        UserError: for a path that is not a run, or where the report is a link.
    """
    path = Path(run)
    require_plain(path)
    if not (path / PAGE).is_file() or not (path / RECORD).is_file():
        return None
    with open_plain(path / RECORD) as file:
        content = file.read(LONGEST)
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get("schema_version") != SCHEMA_VERSION or not _whole(record):
        return None
    return record if record["run"].get("step") == open_checkpoint(path, trust).step else None


def _whole(record: dict[str, Any]) -> bool:
    """Whether all parts are there, those that are read of it can be, and it can be printed."""
    if not set(record) >= PARTS or not _printable(record, DEEPEST):
        return False
    measured, codecs = record["measurement"], record["codecs"]
    data = record["data"]
    if not all(isinstance(part, dict) for part in (record["run"], measured, data)) or not isinstance(codecs, list):
        return False
    if not isinstance(data.get("shape"), list) or len(data["shape"]) != 3 or not all(map(is_count, data["shape"])):
        return False
    return is_count(measured.get("n")) and _is_estimate(measured.get("bits_per_dim")) and all(map(_is_codec, codecs))


def _is_estimate(bits: Any) -> bool:
    if not isinstance(bits, dict) or not is_figure(bits.get("mean")):
        return False
    if bits.get("stderr") is None:
        return True
    ends = bits.get("ci95")
    return is_figure(bits["stderr"]) and isinstance(ends, list) and len(ends) == 2 and all(map(is_figure, ends))


def _is_codec(row: Any) -> bool:
    if not isinstance(row, dict) or not isinstance(row.get("name"), str) or not row["name"].isprintable():
        return False
    figure = row.get("per_image_bits_per_dim", math.nan)
    return figure is None or is_figure(figure)


def _printable(value: Any, depth: int) -> bool:
    """Whether JSON takes it: finite, and not nested deeply."""
    if isinstance(value, dict | list):
        inside = value.values() if isinstance(value, dict) else value
        return depth > 0 and all(_printable(one, depth - 1) for one in inside)
    return not isinstance(value, float) or math.isfinite(value)
