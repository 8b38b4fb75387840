"""The end of every run: its report, and where it lies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from markovae.log import log

if TYPE_CHECKING:
    import torch


def finished(path: Path, device: torch.device, source: str | None = None) -> dict[str, Any]:
    """Write the report of a run that has just ended, unless the one there tells of the same step; its record.

    Args:
        source: of the run's images, as the command named it.
    Raises:
        KeyboardInterrupt: after saying how to get the report later.
    """
    from markovae.report.report_writing import current_report, write_report

    record = current_report(path)
    if record is None:
        try:
            record = write_report(path, device, source)
        except KeyboardInterrupt:
            log(f"no report written; for one:  markovae train --resume --out {path}")
            raise
    log(f"report: {path / 'report.html'}")
    return record
