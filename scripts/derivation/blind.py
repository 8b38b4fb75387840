"""μ against ε with a network without the level as input, and the scale of their gradients level by level."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from scripts.derivation.digits import LevelBlind, bits_of, config, model, parts
from scripts.derivation.page import Figures, table
from scripts.derivation.store import Result, Unit
from torch import Tensor

import markovae as mv
from markovae.diffusion.bound import estimate_mean
from markovae.diffusion.forward import noised, step_variance
from markovae.randomness import Streams
from markovae.report.plots import Line, alone, plot

SCHEDULES = {
    "constant-1000": ("schedule.kind=constant", "schedule.num_levels=1000", "schedule.delta=0.01"),
    "constant-100": ("schedule.kind=constant", "schedule.num_levels=100", "schedule.delta=0.01"),
    "logsnr-100": ("schedule.num_levels=100",),
}
TITLES = {
    "constant-1000": "constant σ, L = 1000",
    "constant-100": "constant σ, L = 100",
    "logsnr-100": "even in log-SNR, L = 100",
}
TARGETS = {"mean": "μ", "step_noise": "ε"}
CURVES = {"raw": "one step's sample", "mean": "its mean"}
STEPS = 1000
RATE = 3e-3
PLACES = 20  # levels at which gradients are measured
EXAMPLES = 48


def compute(spec: dict[str, Any]) -> Result:
    """Train on the bound's nats; the held-out bound, and the gradients' second moments at the parameters."""
    settings = [
        f"target.name={spec['target']}",
        "train.weighting=nats",
        "train.optimizer=adamw",
        f"train.adamw_lr={spec['rate']}",
        f"train.steps={spec['steps']}",
    ]
    made = config([*spec["schedule"], *settings])
    trained, (train, held_out) = model(made), parts()
    if spec["blind"]:
        trained.network = LevelBlind(trained.network)
    for _ in mv.fit(trained, train, made.train):
        pass
    measured = mv.measure(trained, held_out, draws=spec["draws"])
    found = {"bits": bits_of(measured)}
    return found if spec["blind"] else {**found, "gradients": gradients(trained, held_out[:EXAMPLES])}


UNITS = {
    (schedule, target, blind): Unit(
        "blind",
        {
            "schedule": SCHEDULES[schedule],
            "target": target,
            "blind": blind,
            "steps": STEPS,
            "rate": RATE,
            "draws": 100,
        },
        compute,
    )
    for schedule, target, blind in product(SCHEDULES, TARGETS, (False, True))
}


def gains() -> dict[str, Any]:
    """Bounds with and without the level, what not knowing it costs, and how far gradients range over the levels."""
    found: dict[str, Any] = {}
    for schedule in SCHEDULES:
        found[schedule] = {}
        for target in TARGETS:
            results = [UNITS[schedule, target, blind].result() for blind in (False, True)]
            aware, blind = (torch.tensor(one["bits"], dtype=torch.float64) for one in results)
            penalty, curves = estimate_mean(blind - aware), results[0]["gradients"]
            found[schedule][target] = {
                "aware": float(aware.mean()),
                "blind": float(blind.mean()),
                "penalty": penalty.value,
                "ci95": list(penalty.ci95),
                "range": {kind: max(curves[kind]) / min(curves[kind]) for kind in CURVES},
            }
    return found


def tables(numbers: dict[str, Any]) -> dict[str, str]:
    """The Markdown of this part."""
    rows, ranges = [], []
    for schedule, title in TITLES.items():
        for target, letter in TARGETS.items():
            one = numbers[schedule][target]
            half = (one["ci95"][1] - one["ci95"][0]) / 2
            rows.append(
                [title, letter, f"{one['aware']:.2f}", f"{one['blind']:.2f}", f"{one['penalty']:.2f} ± {half:.2f}"]
            )
            ranges.append([title, letter, *(f"{one['range'][kind]:,.0f}" for kind in CURVES)])
    return {
        "blind": table(["schedule", "network", "with the level", "without", "cost of leaving it out"], rows),
        "gradients": table(["schedule", "net", *(f"onto {name}" for name in CURVES.values())], ranges),
    }


def figures(numbers: dict[str, Any]) -> Figures:
    """Second moments of the gradient at the parameters over that of the last level."""
    for schedule in ("constant-1000", "logsnr-100"):
        lines = []
        for target, letter in TARGETS.items():
            curves = UNITS[schedule, target, False].result()["gradients"]
            for kind, name in CURVES.items():
                shares = [value / curves[kind][-1] for value in curves[kind]]
                lines.append(Line(curves["level"], shares, label=f"{letter} loss, {name}"))
        words = f"Second moments of the parameters' gradient over that of the last level, {TITLES[schedule]}."
        title = f"level ℓ ({TITLES[schedule]})"
        picture = plot(lines, title, "over the last level's", words, log_x=True, log_y=True)
        yield f"gradients-trained-{schedule}.svg", alone(picture)


def gradients(trained: mv.Diffusion, images: Tensor) -> dict[str, list[float]]:
    """E‖∂loss/∂θ‖² of single examples at some levels: the lecture's loss onto one step's sample, and onto its mean.

    The loss is ‖μ − z_{ℓ−1}‖²/2σ² for the target mean and ‖ε − ε_pri‖² for the step's noise.
    """
    grid, found = trained.schedule.logsnr, {"level": [], "raw": [], "mean": []}
    for level in _places(trained.num_levels):
        now, before = grid[level], grid[level - 1]
        weight = 0.5 / float(step_variance(before, now)) if trained.target.name == "mean" else 1.0
        x = trained.to_x(images).float()
        noise, fresh = (
            Streams(0, purpose, range(len(x)), level).normal(x.shape[1:], torch.float32) for purpose in ("ε̄", "ξ")
        )
        lambdas = [v.expand(len(x)) for v in (now, before)]
        wanted = {
            "raw": trained.target.of_sample(x, noise, fresh, *lambdas),
            "mean": trained.target.of(x, noise, *lambdas),
        }
        z = noised(x, noise, now)
        found["level"].append(float(level))
        for name, target in wanted.items():
            found[name].append(weight**2 * _squares(trained.network, z, lambdas[0], target))
    return found


def _squares(network: torch.nn.Module, z: Tensor, logsnr: Tensor, wanted: Tensor) -> float:
    """Mean over the examples of ‖∂‖wanted − out‖²/∂θ‖²."""
    weights, total = [w for w in network.parameters() if w.requires_grad], 0.0
    for one in range(len(z)):
        part = slice(one, one + 1)
        error = ((network(z[part], logsnr[part], None) - wanted[part]) ** 2).sum()
        found = torch.autograd.grad(error, weights, allow_unused=True)
        total += sum(float((g.double() ** 2).sum()) for g in found if g is not None)
    return total / len(z)


def _places(levels: int) -> list[int]:
    """Levels 2…L, evenly in their logarithm."""
    spread = torch.logspace(torch.tensor(2.0).log10(), torch.tensor(float(levels)).log10(), PLACES)
    return sorted({int(level) for level in spread.round()})
