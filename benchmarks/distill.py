"""Students of 1, 2 and 4 evaluations beside their teacher: `python benchmarks/distill.py --steps 1500`.

    python benchmarks/distill.py [--run RUN] [--calls 1 2 4] [--teacher-steps 3000] [--steps 1500] [--out FILE]

Without --run a small teacher of the 8x8 digits is trained first (75,000 weights). Every model draws n images of the
same seeds; KID against the images held out, ± its standard error, beside the floor that real images get. The chain of K
levels of the least bound, with an isotropic variance fitted to training images, is measured in bits/dim on the test
images. Prints one JSON object, and processor seconds, since the machine may be shared.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import markovae as mv
from machine import processor

SMALL = (
    *("network.width=16", "network.multipliers=[1,2]", "network.patch=1", "network.blocks=1", "network.attention=[]"),
    *("network.embedding=64", "network.classes=false", "train.precision=float32"),
    *("train.evaluations=0", "train.grids=0"),
)
KNOWN = 512  # training images that a variance is fitted to, at most


def judged(model: mv.Diffusion, splits: Any, n: int, sampler: str, steps: int | None) -> dict[str, Any]:
    """KID and its standard error, the floor, precision and recall."""
    found = mv.evaluate(model, splits, n, sampler=sampler, steps=steps, progress=False)
    both = found.precision_recall
    return {
        "kid": found.kid.value,
        "stderr": found.kid.stderr,
        "floor": found.kid_floor.value,
        "precision": both.precision,
        "recall": both.recall,
    }


def chain(model: mv.Diffusion, splits: Any, levels: int) -> dict[str, Any]:
    """Bits/dim of the chain of so many levels, those of the least bound."""
    held, train = splits.test, splits.train
    labels = {}
    if getattr(model.network, "num_classes", 0):
        labels = {"labels": held.labels, "fit_labels": train.labels[:KNOWN]}
    found = mv.measure(
        model,
        held.images,
        levels=levels,
        draws=None,
        grid="optimal",
        variance="isotropic",
        fit=train.images[:KNOWN],
        **labels,
    ).bits_per_dim
    return {"mean": found.value, "stderr": found.stderr}


def main() -> None:
    """Train, distill, judge and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", help="the teacher; without it one of digits is trained")
    parser.add_argument("--calls", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--teacher-steps", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--levels", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--out")
    options = parser.parse_args()
    record: dict[str, Any] = {"processor": processor(), "steps": options.steps, "n": options.n, "models": {}}
    with tempfile.TemporaryDirectory() as folder:
        run, began = options.run, time.process_time()
        if run is None:
            run = Path(folder) / "teacher"
            settings = [*SMALL, f"train.steps={options.teacher_steps}"]
            mv.train("digits", run, mv.Config().with_settings(settings), progress=False)
            record["teacher_seconds"] = time.process_time() - began
        teacher = mv.load(run)
        splits = mv.load_data(mv.load_run(run).checkpoint.config.data)
        for name, sampler, steps in (
            ("teacher, 50", "sde-dpmpp2m", 50),
            *((f"teacher, {calls}", "ddim", calls) for calls in options.calls),
        ):
            record["models"][name] = judged(teacher, splits, options.n, sampler, steps)
        record["models"]["teacher, 50"]["chain"] = {str(k): chain(teacher, splits, k) for k in options.levels}
        print(json.dumps(record), flush=True)
        for calls in options.calls:
            began = time.process_time()
            out = Path(folder) / f"student-{calls}"
            student = mv.distill(run, out, calls, steps=options.steps, settings=options.set, progress=False).model
            spent = time.process_time() - began
            row = judged(student, splits, options.n, "ddim", None) | {"seconds": spent}
            row["chain"] = {str(k): chain(student, splits, k) for k in options.levels}
            record["models"][f"student, {calls}"] = row
            print(json.dumps({f"student, {calls}": row}), flush=True)
    text = json.dumps(record, indent=1) + "\n"
    if options.out:
        Path(options.out).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
