"""One step's noise, raw against Rao–Blackwellised, at the lecture's L = 1000: how many steps each needs."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import torch
from scripts.derivation.digits import ScaledByRho, config, model, noise_error, parts
from scripts.derivation.page import Figures, table
from scripts.derivation.store import Result, Unit

import markovae as mv
from markovae.diffusion.bound import estimate_mean
from markovae.report.plots import Line, alone, plot

LENGTHS = {"raw": (250, 1000, 4000), "rao_blackwell": (25, 50, 100, 200, 400)}
RATES = {"raw": (1e-3, 3e-3, 1e-2), "rao_blackwell": (1e-3, 3e-3, 1e-2)}
WEIGHTINGS = ("own", "noise")
NAMES = {"raw": "raw sample ε", "rao_blackwell": "its mean ρ ε̄"}
LOSSES = {"own": "of one step's noise", "noise": "of the cumulative noise"}


def compute(spec: dict[str, Any]) -> Result:
    """Train one net of one step's noise; its held-out error of the cumulative noise, image by image."""
    made = config(
        [
            "schedule.kind=constant",
            "schedule.num_levels=1000",
            "schedule.delta=0.01",
            "target.name=step_noise",
            "train.optimizer=adamw",
            f"train.draw={spec['draw']}",
            f"train.weighting={spec['weighting']}",
            f"train.adamw_lr={spec['rate']}",
            f"train.steps={spec['steps']}",
        ]
    )
    trained, (train, held_out) = model(made), parts()
    trained.network = ScaledByRho(trained.network, trained.schedule)
    for _ in mv.fit(trained, train, made.train):
        pass
    return {"error": noise_error(trained, held_out)}


UNITS = {
    (draw, weighting, steps, rate): Unit(
        "draws", {"draw": draw, "weighting": weighting, "steps": steps, "rate": rate}, compute
    )
    for draw, weighting in product(LENGTHS, WEIGHTINGS)
    for steps, rate in product(LENGTHS[draw], RATES[draw])
}


def best(draw: str, steps: int, weightings: tuple[str, ...] = WEIGHTINGS) -> dict[str, Any]:
    """The least error at a length of training over rates and weightings, with what gave it."""
    found = []
    for weighting, rate in product(weightings, RATES[draw]):
        error = torch.tensor(UNITS[draw, weighting, steps, rate].result()["error"], dtype=torch.float64)
        estimate = estimate_mean(error)
        if math.isfinite(estimate.value):
            found.append({"error": estimate.value, "stderr": estimate.stderr, "weighting": weighting, "rate": rate})
    return min(found, key=lambda one: one["error"])


def steps_needed(errors: dict[str, dict[str, Any]], limit: float) -> int | None:
    """The shortest training whose error is at most `limit`."""
    reached = [int(steps) for steps, one in errors.items() if one["error"] <= limit]
    return min(reached) if reached else None


def gains() -> dict[str, Any]:
    """Errors at every length, and how many steps the mean needs for the raw sample's final error."""
    found: dict[str, Any] = {}
    for name, weightings in (("own", ("own",)), ("noise", ("noise",)), ("best", WEIGHTINGS)):
        curves = {
            draw: {str(steps): best(draw, steps, weightings) for steps in lengths} for draw, lengths in LENGTHS.items()
        }
        last = str(LENGTHS["raw"][-1])
        limit = curves["raw"][last]["error"]
        needed = steps_needed(curves["rao_blackwell"], limit)
        ratio = None if needed is None else int(last) / needed
        found[name] = {**curves, "raw_error": limit, "steps_needed": needed, "ratio": ratio}
    return found


def tables(numbers: dict[str, Any]) -> dict[str, str]:
    """The Markdown of this part."""
    last = LENGTHS["raw"][-1]
    rows = []
    for name, title in (*LOSSES.items(), ("best", "each draw at its better one")):
        one = numbers[name]
        needed = one["steps_needed"]
        ratio = "not reached" if needed is None else f"1/{one['ratio']:.0f}"
        rows.append([title, f"{one['raw_error']:.4f}", str(needed or f"over {LENGTHS['rao_blackwell'][-1]}"), ratio])
    return {"draws": table(["weights of the loss", f"raw, {last:,} steps", "steps the mean needs", "ratio"], rows)}


def figures(numbers: dict[str, Any]) -> Figures:
    """The held-out error against the length of training."""
    lines = []
    for draw, name in NAMES.items():
        curve = numbers["best"][draw]
        lengths = sorted(int(steps) for steps in curve)
        lines.append(Line(lengths, [curve[str(steps)]["error"] for steps in lengths], label=name))
    words = "At every length of training the mean's error is far below the raw sample's."
    picture = plot(lines, "steps of training", "error of ε̄ per dim", words, log_x=True, log_y=True)
    yield "draws.svg", alone(picture)
