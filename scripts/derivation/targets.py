"""The six targets trained alike on digits at a small L: the bounds they reach."""

from __future__ import annotations

from typing import Any

import torch
from scripts.derivation.digits import bits_of, config, model, parts
from scripts.derivation.page import Figures, table
from scripts.derivation.store import Result, Unit

import markovae as mv
from markovae.diffusion.bound import estimate_mean
from markovae.diffusion.target import DATA, MEAN, NOISE, SCORE, STEP_NOISE, VELOCITY

TARGETS = (NOISE, DATA, VELOCITY, SCORE, STEP_NOISE, MEAN)  # the literature's on one grid; flow is velocity, rescaled
LEVELS = 6
SCHEDULE = (f"schedule.num_levels={LEVELS}", "schedule.start=4.0", "schedule.end=-4.0")
STEPS = {"nats": 4000, "own": 1500}
WEIGHTINGS = {"nats": "the bound's nats", "own": "its own squared error"}
LIMIT = 0.02  # bits/dim between the best and the worst


def compute(spec: dict[str, Any]) -> Result:
    """Train one target; the held-out bound over every level, image by image, bits/dim."""
    settings = [f"target.name={spec['target']}", f"train.weighting={spec['weighting']}", f"train.steps={spec['steps']}"]
    made = config([*spec["schedule"], *settings, f"train.seed={spec['seed']}"])
    trained, (train, held_out) = model(made), parts()
    for _ in mv.fit(trained, train, made.train):
        pass
    return {"bits": bits_of(mv.measure(trained, held_out, draws=None, replicates=2))}


UNITS = {
    (target.name, weighting): Unit(
        "targets",
        {"target": target.name, "weighting": weighting, "steps": STEPS[weighting], "schedule": SCHEDULE, "seed": 0},
        compute,
    )
    for weighting in WEIGHTINGS
    for target in TARGETS
}


def gains() -> dict[str, Any]:
    """The bound of each target, and its distance from the targets' mean, paired image by image."""
    found: dict[str, Any] = {}
    for weighting in WEIGHTINGS:
        bits = {
            target.name: torch.tensor(UNITS[target.name, weighting].result()["bits"], dtype=torch.float64)
            for target in TARGETS
        }
        centre = torch.stack(list(bits.values())).mean(0)
        rows = {}
        for name, values in bits.items():
            apart = estimate_mean(values - centre)
            rows[name] = {"bits": float(values.mean()), "apart": apart.value, "stderr": apart.stderr}
        figures = [row["bits"] for row in rows.values()]
        found[weighting] = {"targets": rows, "spread": max(figures) - min(figures)}
    return found


def tables(numbers: dict[str, Any]) -> dict[str, str]:
    """The Markdown of this part."""
    rows = []
    for target in TARGETS:
        row = [target.name]
        for weighting in WEIGHTINGS:
            one = numbers[weighting]["targets"][target.name]
            row += [f"{one['bits']:.3f}", f"{one['apart']:+.3f} ± {1.96 * one['stderr']:.3f}".replace("-", "−")]
        rows.append(row)
    rows.append(["largest difference", *(v for w in WEIGHTINGS for v in (f"{numbers[w]['spread']:.3f}", ""))])
    heads = []
    for name, title in WEIGHTINGS.items():
        heads += [f"minimizing {title}, {STEPS[name]:,} steps", "from the six's mean"]
    return {"targets": table(["target", *heads], rows)}


def figures(numbers: dict[str, Any]) -> Figures:
    """None: a table says it all."""
    yield from ()
