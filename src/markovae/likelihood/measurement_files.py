"""A measurement kept in its run: the record, one row per image, and the images with the fewest and the most bits."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from markovae.data.pictures import Images, enlarged, png, tile, viewable
from markovae.errors import UserError
from markovae.system.files import SYSTEM, make_folder, staged_folder, write_synced
from markovae.system.plain import require_plain

if TYPE_CHECKING:
    from markovae.likelihood.anomalies import AnomalyRanking
    from markovae.likelihood.comparison import Comparison
    from markovae.likelihood.measurement import Measurement

CHECKPOINTS, FOLDER, EXTREMES = "checkpoints", "measurements", 36
# What names a measurement, so that the same question's answer takes its place and no other's.
QUESTION = ("estimator", "replicates", "grid", "reverse_variance", "n", "seed", "data", "precision")


def require_csv_place(csv: Path, runs: tuple[str | None, ...]) -> None:
    """Refuse, before any work, a file that cannot be written or that would be written into a run.

    Raises:
        UserError: naming the path and the remedy.
    """
    if csv.is_dir() or not csv.parent.is_dir():
        what = "is a folder" if csv.is_dir() else f"lies in {csv.parent}, which is not a folder"
        raise UserError(f"--csv {csv} {what}: name a file in a folder that is there")
    for run in runs:
        if run is not None and Path(run).resolve() in csv.resolve().parents:
            raise UserError(f"--csv {csv} lies inside {run}, which measuring leaves as it is: take --save")


def run_folder(path: str) -> Path:
    """The run of a path that names it or one of its checkpoints.

    Raises:
        UserError: for a checkpoint that does not lie in a run.
    """
    folder = Path(path)
    if (folder / CHECKPOINTS).is_dir():
        require_plain(folder)
        return folder
    if folder.resolve().parent.name == CHECKPOINTS:
        require_plain(folder.resolve().parent.parent)
        return folder.resolve().parent.parent
    raise UserError(f"--save keeps a measurement in its run, and {path} is a checkpoint outside any: take --csv")


def save_measurement(
    found: Measurement | Comparison | AnomalyRanking, record: dict[str, Any], run: str, images: Images, bins: int
) -> Path:
    """Write RUN/measurements/NAME: record.json, images.csv and the sheets of extreme images; its path.

    Args:
        record: of `found`.
        run: path of the run.
        images: measured, (n, C, H, W), of `bins` values a channel.
    Raises:
        UserError: where it cannot be written.
    """
    folder = run_folder(run)
    target, disk = folder / FOLDER / name_of(record), SYSTEM.inside(folder)
    try:
        make_folder(target.parent, disk)
        with staged_folder(target, disk) as stage:
            text = json.dumps({**record, "saved": str(target)}, indent=1, allow_nan=False)
            write_synced(stage / "record.json", f"{text}\n".encode(), disk)
            write_synced(stage / "images.csv", found.to_csv().encode(), disk)
            for name, places in found.sheets(EXTREMES).items():
                sheet = enlarged(tile(viewable(np.asarray(images)[places.tolist()], bins)))
                write_synced(stage / f"{name}.png", png(sheet), disk)
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror}): leave --save out, or take --csv") from None
    return target


def name_of(record: dict[str, Any]) -> str:
    """part-step-digest: another question, another name."""
    question = {name: record.get(name) for name in QUESTION} | {"against": record.get("against", {}).get("checkpoint")}
    question |= {"checkpoint": record["checkpoint"]["digest"], "calls": record["network_calls_per_example"]}
    question |= {
        "levels": record.get("levels"),
        "beyond": [name for name in ("continuous", "ode", "heldout") if name in record],
    }
    digest = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:8]
    return f"{record['data']['split']}-{record['checkpoint']['step']:08d}-{digest}"
