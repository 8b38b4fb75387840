"""The cores that this process may use: those of its affinity mask, and no more than the quotas of its cgroups."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """How many cores this process may use, at least 1; a quota of one and a half is two.

    Args:
        root: of the file system.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *(math.ceil(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """Processors' worth of time of this process's cgroup, and of those around it, by both versions of cgroups."""
    tops = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/cpu", root / "sys/fs/cgroup/cpu,cpuacct"]
    inside = [""]
    with suppress(OSError, ValueError):
        own = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
        inside = [path.strip("/") for _, controllers, path in own if controllers in ("", "cpu", "cpu,cpuacct")]
    for top in tops:
        for group in {top, *(parent for path in inside for parent in _between(top, path))}:
            with suppress(OSError, ValueError):
                quota, period = (group / "cpu.max").read_text().split()
                if quota != "max":
                    yield int(quota) / int(period)
            with suppress(OSError, ValueError):
                quota = (group / "cpu.cfs_quota_us").read_text()
                if int(quota) > 0:
                    yield int(quota) / int((group / "cpu.cfs_period_us").read_text())


def _between(top: Path, path: str) -> Iterator[Path]:
    """The cgroups from `top` down to `path` in it."""
    for part in path.split("/"):
        top = top / part
        yield top
