"""Samples by number: sample i is a function of (seed, i) and the sampler, never of the batch it was made in."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from markovae.diffusion import Diffusion
from markovae.errors import UserError
from markovae.networks.condition import Condition
from markovae.randomness import Streams
from markovae.sampling.denoiser import Denoiser, Headless
from markovae.sampling.guidance import Guided, Interval, Unconditional
from markovae.sampling.loop import trajectory
from markovae.sampling.planning import DEFAULT_SAMPLER, Plan, plan
from markovae.sampling.steppers import Ancestral, State


@dataclass(frozen=True)
class Guidance:
    """How far x̂ is pushed, where, and away from what.

    Args:
        weight: 1 is none.   interval: log-SNRs where it acts; None is everywhere.
        weaker: a smaller or less trained model of the same data (autoguidance); None is the model without its
            condition (classifier-free guidance).
    """

    weight: float = 1.0
    interval: Interval | None = None
    weaker: Diffusion | None = None


def condition_for(model: Diffusion, labels: Tensor | None) -> Condition | None:
    """Class labels as a condition, or None.

    Raises:
        UserError: when the model takes no labels, or a label is not one of its classes.
    """
    if labels is None:
        return None
    classes = int(getattr(model.network, "num_classes", 0))
    if not classes:
        raise UserError("this model was trained without labels: leave the class out")
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        known = ", ".join(map(str, range(classes))) if classes <= 20 else f"0…{classes - 1}"
        raise UserError(f"class {int(wrong[0])} is unknown: this model has classes {known}")
    return Condition(label=labels)


def guided(model: Diffusion, condition: Condition | None, guidance: Guidance) -> Denoiser | None:
    """The model with guidance around it; None where the weight is 1.

    Raises:
        UserError: for classifier-free guidance without a condition, or a weaker model of another shape.
    """
    if guidance.weight == 1:
        return None
    weaker = guidance.weaker
    if weaker is None and condition is None:
        takes = int(getattr(model.network, "num_classes", 0))
        remedy = f"name a class, 0…{takes - 1}" if takes else "this model was trained without labels; leave it out"
        raise UserError(f"guidance={guidance.weight:g} needs a condition to be guided to: {remedy}")
    if weaker is not None and weaker.shape != model.shape:
        raise UserError(f"the weaker model makes {weaker.shape}, this one {model.shape}: guidance needs one shape")
    try:
        return Guided(model, Unconditional(model) if weaker is None else weaker, guidance.weight, guidance.interval)
    except ValueError as error:
        raise UserError(str(error)) from None


def walk(
    model: Diffusion,
    indices: Sequence[int],
    steps_plan: Plan,
    seed: int = 0,
    condition: Condition | None = None,
    denoiser: Denoiser | None = None,
) -> Iterator[State]:
    """The states of the samples with these numbers, from noise to data (see `trajectory`).

    Args:
        denoiser: what stands in for the model's own x̂ (guidance, thresholds, a measurement); None is the model.
    """
    source = Streams(seed, "sample", indices)
    z = source.normal(model.shape, torch.float32).to(model.device, working_type(model))
    if denoiser is None:
        denoiser = Headless(model) if ignores_head(model, steps_plan) else model
    return trajectory(denoiser, z, steps_plan.grid, steps_plan.stepper, source, condition, steps_plan.corrector)


def ignores_head(model: Diffusion, steps_plan: Plan) -> bool:
    """Whether the model would work out ∂x̂/∂z, d network calls, for a sampler that does not read it."""
    return model.reverse.needs_jacobian and not isinstance(steps_plan.stepper, Ancestral)


def working_type(model: Diffusion) -> torch.dtype:
    """The type of the latents: float32, or float64 where the network itself runs in it."""
    return torch.float64 if model.precision == torch.float64 else torch.float32


def draw_batches(
    model: Diffusion,
    n: int,
    steps_plan: Plan,
    *,
    seed: int = 0,
    batch: int = 64,
    labels: Tensor | None = None,
    start: int = 0,
    guidance: Guidance | None = None,
) -> Iterator[Tensor]:
    """z_0 of samples start…start+n−1 in batches, on the model's scale, (≤ batch, *D), float32.

    Args:
        labels: one class for all, (), or one a sample, (n,).
    """
    if n < 1:
        raise UserError(f"n={n} must be at least 1: it counts the samples")
    if batch < 1:
        raise UserError(f"batch={batch} must be at least 1: it counts the images made at a time")
    if labels is not None:
        if labels.ndim and len(labels) != n:
            raise UserError(f"{len(labels)} labels for n={n} samples: give one for all, or one a sample")
        labels = labels.expand(n)
    for begin in range(0, n, batch):
        numbers = range(start + begin, start + min(begin + batch, n))
        part = None if labels is None else labels[begin : begin + len(numbers)]
        condition = condition_for(model, part)
        denoiser = guided(model, condition, guidance or Guidance())
        condition = None if condition is None else condition.to(model.device)
        yield finished(walk(model, numbers, steps_plan, seed, condition, denoiser)).float()


def finished(states: Iterator[State]) -> Tensor:
    """z at the end of a walk, (B, *D)."""
    (last,) = deque(states, maxlen=1)
    return last.z


@contextmanager
def evaluating(*models: Diffusion | None) -> Iterator[None]:
    """The models in evaluation mode (no dropout), and back as they were."""
    training = [(model, model.training) for model in models if model is not None]
    for model, _ in training:
        model.eval()
    try:
        yield
    finally:
        for model, was in training:
            model.train(was)


def sample(
    model: Diffusion,
    n: int,
    *,
    steps: int | None = None,
    sampler: str | Plan = DEFAULT_SAMPLER,
    seed: int = 0,
    batch: int = 64,
    labels: Sequence[int] | int | None = None,
    guidance: float | Guidance = 1.0,
    raw: bool = False,
) -> np.ndarray:
    """Draw n images: sample i depends on (seed, i) only.

    Args:
        steps: network calls a sample; None is 20, or all L levels for `ancestral`.
        sampler: one of SAMPLERS, or a plan (then `steps` is its own).
        batch: images made at a time; bitwise equal at one batch size, within a grey level across sizes.
        labels: a class for all, or one a sample; None is unconditional.
        guidance: a weight (classifier-free; 1 is none), or a `Guidance`; it doubles the network's work.
        raw: True returns float32 on the model's scale instead of digits.
    Returns: (n, C, H, W), uint8 (uint16 above 256 bins), or float32 with `raw`.
    Raises:
        UserError: for n, steps or batch below 1, an unknown sampler, labels the model does not take, or guidance
            without a condition.
    """
    if isinstance(sampler, Plan) and steps is not None:
        raise UserError(f"steps={steps} and a plan of {sampler.calls} calls are both given: leave steps out")
    chosen = sampler if isinstance(sampler, Plan) else plan(model, sampler, steps)
    wanted = None if labels is None else torch.as_tensor(labels, dtype=torch.int64)
    push = guidance if isinstance(guidance, Guidance) else Guidance(guidance)
    with evaluating(model, push.weaker):
        parts = list(draw_batches(model, n, chosen, seed=seed, batch=batch, labels=wanted, guidance=push))
    x = torch.cat(parts).cpu()
    return x.numpy() if raw else to_images(model, x)


def to_images(model: Diffusion, x: Tensor) -> np.ndarray:
    """Numbers on the model's scale to digits, uint8 up to 256 bins, uint16 above."""
    digits = model.pixels.to_digits(x).cpu().numpy()
    return digits.astype(np.uint8 if model.pixels.bins <= 256 else np.uint16)
