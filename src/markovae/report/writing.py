"""`write_report`: from a run's folder to report.json, report.html and samples/grid.png."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from markovae.checkpoint import open_checkpoint
from markovae.files import write_file
from markovae.report.findings import SCHEMA_VERSION, find
from markovae.report.page import page
from markovae.report.pictures import grid, png, viewable
from markovae.report.subject import open_subject

PAGE, RECORD = "report.html", "report.json"


def write_report(run: str | Path, device: str | torch.device = "cpu", source: str | None = None) -> dict[str, Any]:
    """Write a run's report and return what report.json says.

    Args:
        source: of the run's images, as the person named it: a URL that the run alone names is not opened.
    Raises:
        UserError: for a path that is no run, or data that are missing or changed.
        StoppedRun: when the disk refuses.
    """
    subject = open_subject(run, torch.device(device), source)
    found = find(subject)
    sheet = png(grid(viewable(found.samples, found.bins), found.record["samples"]["columns"]))
    (subject.path / "samples").mkdir(exist_ok=True)
    write_file(subject.path / "samples" / "grid.png", sheet)
    write_file(subject.path / PAGE, page(found).encode())
    # Last, since its step says that the report is whole.
    write_file(subject.path / RECORD, (json.dumps(found.record, indent=1, allow_nan=False) + "\n").encode())
    return found.record


def current_report(run: str | Path) -> dict[str, Any] | None:
    """What report.json says, where it is of the newest checkpoint; else None.

    Raises:
        UserError: for a path that is no run.
    """
    path = Path(run)
    if not (path / PAGE).is_file() or not (path / RECORD).is_file():
        return None
    try:
        record = json.loads((path / RECORD).read_bytes())
    except ValueError:
        return None
    if not isinstance(record, dict) or record.get("schema_version") != SCHEMA_VERSION:
        return None
    same = record.get("run", {}).get("step") == open_checkpoint(path).step
    return record if same else None
