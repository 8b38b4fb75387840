"""Students of 1, 2 and 4 evaluations beside their teacher, and how many of many students end well.

    python benchmarks/distill.py --folder OUT [--run RUN] [--calls 4 2 1] [--teacher 50 4 2 1] [--minutes 10]
    python benchmarks/distill.py --folder OUT --stability 20 --calls 2 --steps 200 --n 500

Without --run a small teacher of the 8x8 digits is trained first (75,000 weights). Every model draws n images of the
same seeds; KID against the images held out, ± its standard error, beside the floor that real images get. Chains are
measured in bits/dim on test images with variances fitted to training images, isotropic and diagonal: of K levels of the
least bound, and of the student's own K log-SNRs and level 1. With --stability each student has a seed of its own, rates
between 1/√3 and √3 times the default, and every fifth bfloat16.

OUT keeps the runs, sheets (PNG) and record.json; the same command skips what is recorded, so a long one can be done in
parts. Seconds are those of the processor, since the machine may be shared.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import torch

import markovae as mv
from machine import processor
from markovae.data.pictures import grid
from markovae.errors import StoppedRun
from markovae.sampling.grids import nearest_levels, student_grid

SMALL = (
    *("network.width=16", "network.multipliers=[1,2]", "network.patch=1", "network.blocks=1", "network.attention=[]"),
    *("network.embedding=64", "network.classes=false", "train.precision=float32"),
    *("train.evaluations=0", "train.grids=0"),
)
SAMPLERS = {True: "sde-dpmpp2m", False: "unipc3"}  # of a teacher of 20 evaluations and more, and of fewer
QUIET = ("train.evaluations=0", "train.grids=0")
SHEET = 64


def judged(model: mv.Diffusion, splits: Any, n: int, **how: Any) -> dict[str, Any]:
    """KID and its standard error, the floor, precision and recall."""
    found = mv.evaluate(model, splits, n, progress=False, **how)
    both = found.precision_recall
    return {
        "kid": found.kid.value,
        "stderr": found.kid.stderr,
        "floor": found.kid_floor.value,
        "precision": both.precision,
        "recall": both.recall,
    }


def sheet(path: Path, model: mv.Diffusion, **how: Any) -> None:
    """64 samples, as a picture."""
    grid(mv.sample(model, SHEET, **how), bins=model.pixels.bins).save(path)


def chains(model: mv.Diffusion, splits: Any, counts: list[int], limit: int, known: int) -> dict[str, Any]:
    """Bits/dim of chains of so many levels: those of the least bound, and those of a student of so many evaluations."""
    labels = {}
    if getattr(model.network, "num_classes", 0):
        labels = {"labels": splits.test.labels[:limit], "fit_labels": splits.train.labels[:known]}
    found: dict[str, Any] = {}
    for count in counts:
        for which in ("optimal", "student"):
            levels = count if which == "optimal" else own_levels(model, count)
            for variance in ("isotropic", "diagonal"):
                how = {"grid": "optimal"} if which == "optimal" else {}
                bits = mv.measure(
                    model,
                    splits.test.images[:limit],
                    levels=levels,
                    draws=None,
                    variance=variance,
                    fit=splits.train.images[:known],
                    **how,
                    **labels,
                ).bits_per_dim
                found[f"{count}, {which}, {variance}"] = {"mean": bits.value, "stderr": bits.stderr}
    return found


def own_levels(model: mv.Diffusion, calls: int) -> list[int]:
    """Level 1, and the levels nearest to the log-SNRs that a student of so many evaluations has."""
    logsnr = model.schedule.logsnr[1:].detach()
    nearest = nearest_levels(student_grid(model.schedule, calls), logsnr)[1:]
    return sorted({1, *(1 + int((logsnr - value).abs().argmin()) for value in nearest)})


def distilled(run: str | Path, out: Path, calls: int, options: argparse.Namespace, *settings: str) -> Any:
    """A student, and the seconds of the processor that it took; what is there already is loaded."""
    if (out / "seconds").exists():
        return mv.load_run(out), float((out / "seconds").read_text())
    shutil.rmtree(out, ignore_errors=True)  # of a command that was interrupted
    began = time.process_time()
    budget = {"steps": options.steps} if options.minutes is None else {"minutes": options.minutes}
    student = mv.distill(run, out, calls, settings=[*QUIET, *options.set, *settings], progress=False, **budget)
    (out / "seconds").write_text(str(time.process_time() - began))
    return student, time.process_time() - began


def losses(out: Path) -> list[tuple[int, float]]:
    """(step, loss) of the run, about a dozen."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    curve = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    return curve[:: max(1, len(curve) // 12)] + curve[-1:]


def compare(run: str | Path, splits: Any, record: dict[str, Any], options: argparse.Namespace, keep: Any) -> None:
    """The teacher at some numbers of evaluations, then each student."""
    teacher, models = mv.load(run), record.setdefault("models", {})
    for steps in options.teacher:
        name, sampler = f"teacher, {steps}", SAMPLERS[steps >= 20]
        if name in models:
            continue
        models[name] = judged(teacher, splits, options.n, sampler=sampler, steps=steps) | {"sampler": sampler}
        sheet(options.folder / f"teacher-{steps}.png", teacher, sampler=sampler, steps=steps)
        keep()
    if options.levels and "teacher" not in record.setdefault("chains", {}):
        record["chains"]["teacher"] = chains(teacher, splits, options.levels, options.images, options.known)
        keep()
    for calls in options.calls:
        name = f"student, {calls}"
        if name not in models:
            out = options.folder / f"student-{calls}"
            student, seconds = distilled(run, out, calls, options)
            row = judged(student.model, splits, options.n) | {"seconds": seconds, "steps": student.checkpoint.step}
            models[name] = row | {"loss": losses(out)}
            sheet(options.folder / f"{out.name}.png", student.model)
            keep()
        if options.levels and name not in record["chains"]:
            model = mv.load(options.folder / f"student-{calls}")
            record["chains"][name] = chains(model, splits, options.levels, options.images, options.known)
            keep()


def stability(run: str | Path, splits: Any, record: dict[str, Any], options: argparse.Namespace, keep: Any) -> None:
    """Students that differ in seed, rates and precision; how far each is from the best."""
    rows = record.setdefault("students", [])
    rates = mv.load_run(run).checkpoint.config.train
    for number in range(len(rows), options.stability):
        factor = 3 ** (number / max(1, options.stability - 1) - 0.5)
        precision = "bfloat16" if number % 5 == 4 else "float32"
        settings = [f"train.{name}={getattr(rates, name) * factor:.6g}" for name in ("lr", "adamw_lr")]
        settings += [f"train.seed={number}", f"train.precision={precision}"]
        out = options.folder / f"stable-{number}"
        row = {"seed": number, "rates": factor, "computed_in": precision}
        try:
            student, row["seconds"] = distilled(run, out, options.calls[0], options, *settings)
            row["finite"] = all(bool(weight.isfinite().all()) for weight in student.model.parameters())
            row |= judged(student.model, splits, options.n)
        except StoppedRun as stopped:
            row |= {"finite": False, "kid": math.inf, "stderr": 0.0, "stopped": str(stopped)}
        rows.append(row)
        keep()
    best = min(row["kid"] for row in rows)
    record["finite"] = sum(row["finite"] for row in rows)
    record["within_1.5_of_the_best"] = sum(row["kid"] <= 1.5 * best for row in rows)
    # What chance alone explains: the best of many is below its own mean.
    record["not_beyond_1.5_by_two_errors"] = sum(row["kid"] - 2 * row["stderr"] <= 1.5 * best for row in rows)


def main() -> None:
    """Train, distill, judge and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--run", help="the teacher; without it one of digits is trained")
    parser.add_argument("--calls", type=int, nargs="+", default=[4, 2, 1])
    parser.add_argument("--teacher", type=int, nargs="*", default=[50, 4, 2, 1], help="evaluations it is judged at")
    parser.add_argument("--teacher-steps", type=int, default=3000)
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--steps", type=int, default=1500)
    budget.add_argument("--minutes", type=float)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--levels", type=int, nargs="*", default=[4, 8])
    parser.add_argument("--images", type=int, default=256, help="test images that chains are measured on")
    parser.add_argument("--known", type=int, default=512, help="training images that variances are fitted to")
    parser.add_argument("--stability", type=int, help="so many students of the first of --calls instead")
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.folder / "record.json"
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"processor": processor()}
    budget_said = {"minutes": options.minutes} if options.minutes is not None else {"steps": options.steps}
    record |= {**budget_said, "n": options.n, "settings": options.set}
    run = options.run or options.folder / "teacher"
    if options.run is None and not run.exists():
        began = time.process_time()
        settings = [*SMALL, f"train.steps={options.teacher_steps}"]
        mv.train("digits", run, mv.Config().with_settings(settings), progress=False)
        record["teacher_seconds"] = time.process_time() - began
    splits = mv.load_data(mv.load_run(run).checkpoint.config.data)

    def keep() -> None:
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    (stability if options.stability else compare)(run, splits, record, options, keep)
    keep()
    print(path.read_text())


if __name__ == "__main__":
    main()
