"""Samples by number: sample i is a function of (seed, i) and the sampler, never of the batch it was made in."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from markovae.diffusion import Diffusion
from markovae.errors import UserError
from markovae.networks.condition import Condition
from markovae.randomness import Streams
from markovae.sampling.grid import rho_grid, sampling_grid
from markovae.sampling.loop import trajectory
from markovae.sampling.steppers import DDIM, Ancestral, DPMSolverPP2M, State, Stepper

SAMPLERS = ("dpmpp2m", "ddim", "ancestral")


@dataclass(frozen=True)
class Plan:
    """A sampler and the log-SNRs it visits.

    Args:
        stepper: one step of the sampler.   grid: λ = ∞ first, then decreasing, (K+1,), float64.
    """

    stepper: Stepper
    grid: Tensor


def plan(model: Diffusion, sampler: str, steps: int | None) -> Plan:
    """The plan for a sampler's name and a number of steps (None: 20, or all L levels for `ancestral`).

    `ancestral` takes its levels at even strides of the schedule; the two solvers take ρ = 7 spacing.
    Raises:
        UserError: for an unknown sampler, steps < 1, or more ancestral steps than levels.
    """
    if sampler not in SAMPLERS:
        raise UserError(f"sampler {sampler!r} is unknown: take one of {', '.join(SAMPLERS)}")
    levels = model.num_levels
    steps = (levels if sampler == "ancestral" else min(20, levels)) if steps is None else steps
    if steps < 1:
        raise UserError(f"steps={steps} must be at least 1: each step is one network call")
    if sampler == "ancestral":
        if steps > levels:
            raise UserError(
                f"steps={steps} exceeds the model's {levels} levels: ancestral sampling takes at most those"
            )
        return Plan(Ancestral(model.reverse), sampling_grid(model.schedule, steps))
    logsnr = model.schedule.logsnr
    first = min(float(logsnr[1]), 13.3)
    grid = rho_grid(first, float(logsnr[-1]), steps)
    return Plan(DDIM() if sampler == "ddim" else DPMSolverPP2M(), grid)


def condition_for(model: Diffusion, labels: Tensor | None) -> Condition | None:
    """Class labels as a condition, or None.

    Raises:
        UserError: when the model takes no labels, or a label is not one of its classes.
    """
    if labels is None:
        return None
    classes = int(getattr(getattr(model.network, "config", model.network), "num_classes", 0))
    if not classes:
        raise UserError("this model was trained without labels: leave the class out")
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise UserError(f"class {int(labels.max())} is unknown: this model has classes 0…{classes - 1}")
    return Condition(label=labels)


def walk(
    model: Diffusion,
    indices: Sequence[int],
    steps_plan: Plan,
    seed: int = 0,
    condition: Condition | None = None,
) -> Iterator[State]:
    """The states of the samples with these numbers, from noise to data (see `trajectory`)."""
    source = Streams(seed, "sample", indices)
    z = source.normal(model.shape, torch.float32).to(model.device)
    grid = steps_plan.grid
    return trajectory(model, z, grid.to(model.device), steps_plan.stepper, source, condition)


def draw_batches(
    model: Diffusion,
    n: int,
    steps_plan: Plan,
    *,
    seed: int = 0,
    batch: int = 64,
    labels: Tensor | None = None,
    start: int = 0,
) -> Iterator[Tensor]:
    """z_0 of samples start…start+n−1 in batches, on the model's scale, (≤ batch, *D), float32."""
    if n < 1:
        raise UserError(f"n={n} must be at least 1: it counts the samples")
    if batch < 1:
        raise UserError(f"batch={batch} must be at least 1")
    if labels is not None and labels.ndim == 0:
        labels = labels.expand(n)
    for begin in range(0, n, batch):
        numbers = range(start + begin, start + min(begin + batch, n))
        part = None if labels is None else labels[begin : begin + len(numbers)].to(model.device)
        (last,) = deque(walk(model, numbers, steps_plan, seed, condition_for(model, part)), maxlen=1)
        yield last.z


def sample(
    model: Diffusion,
    n: int,
    *,
    steps: int | None = None,
    sampler: str = "dpmpp2m",
    seed: int = 0,
    batch: int = 64,
    labels: Sequence[int] | int | None = None,
    raw: bool = False,
) -> np.ndarray:
    """Draw n images: sample i depends on (seed, i) only.

    Args:
        steps: network calls a sample; None is 20, or all L levels for `ancestral`.
        sampler: "dpmpp2m", "ddim" or "ancestral".
        batch: images made at a time; bitwise equal at one batch size, within a grey level across sizes.
        labels: a class for all, or one a sample; None is unconditional.
        raw: True returns float32 on the model's scale instead of digits.
    Returns: (n, C, H, W), uint8 (uint16 above 256 bins), or float32 with `raw`.
    Raises:
        UserError: for n, steps or batch below 1, an unknown sampler, or labels the model does not take.
    """
    chosen = plan(model, sampler, steps)
    wanted = None if labels is None else torch.as_tensor(labels, dtype=torch.int64)
    training = model.training
    model.eval()
    parts = list(draw_batches(model, n, chosen, seed=seed, batch=batch, labels=wanted))
    model.train(training)
    x = torch.cat(parts).cpu()
    return x.numpy() if raw else to_images(model, x)


def to_images(model: Diffusion, x: Tensor) -> np.ndarray:
    """Numbers on the model's scale to digits, uint8 up to 256 bins, uint16 above."""
    digits = model.pixels.to_digits(x).cpu().numpy()
    return digits.astype(np.uint8 if model.pixels.bins <= 256 else np.uint16)
