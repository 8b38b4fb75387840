"""What a run came to: equal if and only if every number of it is, bit by bit."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from markovae.checkpoints.reading import Checkpoint, newest_checkpoint
from markovae.system.jsonlines import read_rows

TIMED = ("seconds", "images_per_second")


def outcome(run: Path) -> dict[str, str]:
    """SHA-256 of each file of tensors, of the state and of the figures of a finished run, times left out."""
    checkpoint = newest_checkpoint(run)
    return {**parts(checkpoint), "heldout": _sha(json.dumps(_heldout(run)).encode())}


def parts(checkpoint: Checkpoint) -> dict[str, str]:
    """SHA-256 of each file of tensors and of the state, times left out."""
    found = {name: _sha(content) for name, content in checkpoint.contents.items() if name.endswith(".safetensors")}
    state = {key: value for key, value in checkpoint.state.items() if key not in TIMED}
    return {**found, "state": _sha(json.dumps(state, sort_keys=True).encode())}


def leftovers(run: Path) -> list[str]:
    """What an interrupted write or a lock left in a run's folder."""
    return sorted(str(path) for path in run.rglob(".*"))


def _heldout(run: Path) -> list[dict[str, Any]]:
    rows = [row for row in read_rows(run / "metrics.jsonl").rows if row["kind"] == "heldout"]
    return [{key: value for key, value in row.items() if key not in TIMED} for row in rows]


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
