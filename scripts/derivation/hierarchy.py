"""A hierarchical VAE with a learned encoder against the same chain with the fixed one, both trained through E1."""

from __future__ import annotations

import math
from typing import Any

import torch
from scripts.derivation.digits import DIMS, parts
from scripts.derivation.page import Figures, table
from scripts.derivation.store import Result, Unit
from torch import Tensor

from markovae.diffusion.bound import estimate_mean
from markovae.diffusion.forms import draw_form, e1
from markovae.diffusion.pixels import Pixels
from markovae.randomness import Streams, generator
from markovae.report.plots import Line, alone, plot
from markovae.theory.hierarchical import DigitStep, FixedStep, HierarchicalVAE, LearnedStep, TrainStep, train_through_e1
from markovae.theory.mixture import Mixture

KEEPS = (0.8, 0.6, 0.3)
DRAWS = 8
SETTINGS = {
    "modes": {"steps": 2000, "batch": 256, "lr": 5e-3, "width": 64},
    "digits": {"steps": 2000, "batch": 128, "lr": 2e-3, "width": 128},
}


def eight_modes() -> Mixture:
    """Eight Gaussians on a circle: no Gaussian step leads back to them from a wide step of the fixed encoder."""
    angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
    means = 1.2 * torch.stack([angle.cos(), angle.sin()], 1)
    covariances = (0.15**2 * torch.eye(2, dtype=torch.float64)).expand(8, -1, -1)
    return Mixture.full(torch.full((8,), 1 / 8, dtype=torch.float64), means, covariances)


def compute(spec: dict[str, Any]) -> Result:
    """Train one chain; its held-out bound on the way, and example by example at the end, nats."""
    train, held_out, bins = _data(spec["data"])
    model = _chain(train.shape[1], spec["width"], spec["learned"], bins)
    curve = []
    for step, _ in enumerate(train_through_e1(model, train, spec["steps"], spec["batch"], spec["lr"]), start=1):
        if step % (spec["steps"] // 8) == 0:
            nats = _bound(model, held_out)
            curve.append([step, *_figures(nats)])
    return {"curve": curve, "nats": nats.tolist()}


UNITS = {
    (data, learned): Unit("hierarchy", {"data": data, "learned": learned, "keeps": KEEPS, **settings}, compute)
    for data, settings in SETTINGS.items()
    for learned in (False, True)
}


def gains() -> dict[str, Any]:
    """Fixed less learned, example by example: nats on the modes, bits/dim on the digits."""
    found: dict[str, Any] = {"modes_entropy_nats": eight_modes().entropy()}
    for data, scale in (("modes", 1.0), ("digits", 1 / (DIMS * math.log(2)))):
        fixed, learned = (torch.tensor(UNITS[data, which].result()["nats"]) * scale for which in (False, True))
        for name, values in (("fixed", fixed), ("learned", learned), ("gain", fixed - learned)):
            estimate = estimate_mean(values)
            found[f"{data}_{name}"] = {"mean": estimate.value, "ci95": list(estimate.ci95)}
    return found


def tables(numbers: dict[str, Any]) -> dict[str, str]:
    """The Markdown of this part."""
    rows = [
        [title, *(_interval(numbers[f"{data}_{name}"], digits) for name in ("fixed", "learned", "gain"))]
        for data, title, digits in (("modes", "eight modes in the plane, nats", 3), ("digits", "digits, bits/dim", 3))
    ]
    return {"hierarchy": table(["data", "fixed encoder", "learned encoder", "gain, paired"], rows)}


def figures(numbers: dict[str, Any]) -> Figures:
    """The held-out bound while training."""
    truth = numbers["modes_entropy_nats"]
    lines = [_line(which, truth) for which in (False, True)]
    words = "The bound of the chain with the learned encoder falls below that of the fixed one and nearer to the truth."
    yield "learned-encoder.svg", alone(plot(lines, "training steps", "bound above the truth, nats", words))


def _line(learned: bool, truth: float) -> Line:
    curve = UNITS["modes", learned].result()["curve"]
    steps, mean, stderr = zip(*curve, strict=True)
    error = [1.96 * value for value in stderr]
    return Line(steps, [value - truth for value in mean], error, label=f"{'learned' if learned else 'fixed'} encoder")


def _interval(value: dict[str, Any], digits: int) -> str:
    low, high = value["ci95"]
    return f"{value['mean']:.{digits}f} ± {(high - low) / 2:.{digits}f}"


def _data(name: str) -> tuple[Tensor, Tensor, int]:
    if name == "modes":
        toy = eight_modes()
        return toy.sample(4000, generator(0, "modes to train")), toy.sample(2000, generator(0, "modes held out")), 0
    data, held_out = parts()
    pixels = Pixels(data.bins)
    train = pixels.to_x(torch.from_numpy(data.images.astype("int32")))
    return train.flatten(1), pixels.to_x(held_out.int()).flatten(1), data.bins


def _chain(dims: int, width: int, learned: bool, bins: int) -> HierarchicalVAE:
    """Both chains' learned parts start from the same weights whether the encoder learns or not."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        prior: list[TrainStep] = [LearnedStep(dims, dims, keep, width) for keep in KEEPS]
        if bins:
            prior[0] = DigitStep(dims, dims, Pixels(bins), width)
        encoder: list[TrainStep] = [LearnedStep(dims, dims, k, width) if learned else FixedStep(dims, k) for k in KEEPS]
    return HierarchicalVAE(encoder, prior)


@torch.no_grad()
def _bound(model: HierarchicalVAE, held_out: Tensor) -> Tensor:
    return draw_form(e1, model, held_out, Streams(1, "held out", range(len(held_out))), DRAWS).mean(0)


def _figures(nats: Tensor) -> list[float]:
    estimate = estimate_mean(nats)
    return [estimate.value, estimate.stderr]
