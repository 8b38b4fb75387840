"""Samples by number: sample i is a function of (seed, i) and the sampler, never of the batch it was made in."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from markovae.diffusion.markovian_vae import evaluating
from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.networks.conditioning import Condition, Conditioning, class_numbers
from markovae.randomness import Streams
from markovae.sampling.conditions import condition_for, prompt_condition, spread
from markovae.sampling.denoiser import Denoiser, MeanOnly
from markovae.sampling.guidance import TEXT_GUIDANCE, Guidance, Interval, guided
from markovae.sampling.plans import DEFAULT_SAMPLER, Plan, plan
from markovae.sampling.samplers import Ancestral, State, trajectory
from markovae.system.processes import Rank


def sample_trajectory(
    model: Diffusion,
    indices: Sequence[int],
    steps_plan: Plan,
    seed: int = 0,
    condition: Condition | None = None,
    denoiser: Denoiser | None = None,
) -> Iterator[State]:
    """The states of the samples with these numbers, from noise to data (see `trajectory`).

    Args:
        denoiser: what stands in for the model's own x̂ (guidance, a measurement); None is the model. The plan's
            threshold is put around it.
    """
    source = Streams(seed, "sample", indices)
    z = source.normal(model.shape, torch.float32).to(model.device, working_type(model))
    if denoiser is None:
        denoiser = MeanOnly(model) if ignores_head(model, steps_plan) else model
    if steps_plan.threshold is not None:
        denoiser = steps_plan.threshold(denoiser)
    return trajectory(denoiser, z, steps_plan.grid, steps_plan.stepper, source, condition, steps_plan.corrector)


def ignores_head(model: Diffusion, steps_plan: Plan) -> bool:
    """Whether the model would work out ∂x̂/∂z, d network calls, for a sampler that does not read it."""
    return model.reverse.needs_jacobian and not isinstance(steps_plan.stepper, Ancestral)


def working_type(model: Diffusion) -> torch.dtype:
    """The type of the latents: float32, or float64 where the network itself runs in it."""
    return torch.float64 if model.precision == torch.float64 else torch.float32


def batch_trajectories(
    model: Diffusion,
    n: int,
    steps_plan: Plan,
    *,
    seed: int = 0,
    batch: int = 64,
    condition: Conditioning | None = None,
    start: int = 0,
    guidance: Guidance | None = None,
    rank: Rank | None = None,
    noise_indices: Sequence[int] | None = None,
) -> Iterator[Iterator[State]]:
    """The walk of each batch of samples start…start+n−1, of as many states as the plan's grid has log-SNRs.

    Args:
        condition: of one for all, or of n, one a sample.
        rank: of this process among several: it draws every size-th of the batches that one process would draw.
        noise_indices: index of each sample's noise, (n,), where it is not start…start+n−1; two may share one.
    """
    if n < 1:
        raise UserError(f"n={n} must be at least 1: it counts the samples")
    if batch < 1:
        raise UserError(f"batch={batch} must be at least 1: it counts the images made at a time")
    condition = spread(condition, n)
    for numbers in batches_of(n, batch, rank):
        part = None if condition is None else condition[torch.tensor(numbers)].condition().to(model.device)
        denoiser = guided(model, part, guidance or Guidance())
        keys = [start + i if noise_indices is None else noise_indices[i] for i in numbers]
        yield sample_trajectory(model, keys, steps_plan, seed, part, denoiser)


def batches_of(n: int, batch: int, rank: Rank | None = None) -> list[range]:
    """The numbers of the samples in each batch that this process makes."""
    begins = (Rank() if rank is None else rank).every(range(0, n, batch))
    return [range(begin, min(begin + batch, n)) for begin in begins]


def network_evaluations(steps_plan: Plan, guidance: Guidance) -> int:
    """Calls of a network that a sample takes: guidance takes a second one wherever it acts.

    Where a sampler calls between the log-SNRs of its grid, a walk of zeros tells at which.
    """
    if guidance.weight == 1:
        return steps_plan.nfe
    interval = guidance.interval or Interval()
    visited = steps_plan.grid[1:].tolist()
    if len(visited) != steps_plan.nfe:
        visits = _Visits()
        z = torch.zeros(1, 1, dtype=torch.float64)
        source = Streams(0, "visits", [0])
        deque(trajectory(visits, z, steps_plan.grid, steps_plan.stepper, source, None, steps_plan.corrector), maxlen=0)
        visited = visits.logsnr
    return steps_plan.nfe + sum(logsnr in interval for logsnr in visited)


class _Visits:
    """Guesses zeros, and keeps the log-SNRs where it was asked."""

    def __init__(self) -> None:
        self.logsnr: list[float] = []

    def predict(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
        self.logsnr.append(float(logsnr))
        return torch.zeros_like(z), None


class NonFiniteSamples(UserError):
    """A walk ended in NaN or infinity, which would be shown as black or white."""


def final_latents(states: Iterator[State]) -> Tensor:
    """z at the end of a walk, (B, *D).

    Raises:
        NonFiniteSamples: where it holds numbers that are none.
    """
    (last,) = deque(states, maxlen=1)
    lost = int((~last.z.isfinite()).flatten(1).any(1).sum())
    if lost:
        raise NonFiniteSamples(
            f"{lost} of {len(last.z)} images came out NaN or infinite: the weights or what was given hold such "
            "numbers, or the steps are too coarse for this sampler"
        )
    return last.z


def final_samples(trajectories: Iterable[Iterator[State]]) -> Tensor:
    """z at the end of every walk, batch after batch, (n, *D), float32, on the CPU.

    Raises:
        NonFiniteSamples: as `final_latents`.
    """
    return torch.cat([final_latents(states).float().cpu() for states in trajectories])


def final_images(model: Diffusion, trajectories: Iterable[Iterator[State]]) -> np.ndarray:
    """The digits at the end of every walk, batch after batch, (n, C, H, W); a batch alone is held as numbers.

    Raises:
        NonFiniteSamples: as `final_latents`.
    """
    return np.concatenate([to_images(model, final_latents(states).float()) for states in trajectories])


def sample(
    model: Diffusion,
    n: int,
    *,
    steps: int | None = None,
    sampler: str | Plan = DEFAULT_SAMPLER,
    seed: int = 0,
    batch: int = 64,
    labels: Sequence[int] | int | None = None,
    condition: Condition | None = None,
    prompt: Sequence[str] | str | None = None,
    negative: str | None = None,
    guidance: float | Guidance | None = None,
    raw: bool = False,
) -> np.ndarray:
    """Draw n images: sample i depends on (seed, i) only.

    Args:
        steps: network calls a sample; None is 20, or all L levels for `ancestral`.
        sampler: one of SAMPLERS, or a plan (then `steps` is its own).
        batch: images made at a time; bitwise equal at one batch size, within a grey level across sizes.
        labels: a class for all, or one a sample; None is the learned null of a model of classes.
        condition: what else the model takes (labels too, instead of `labels`), of one for all or one a sample.
        prompt: a text for all, or one a sample, for a model trained with captions; an empty one asks for nothing.
        negative: a text that guidance leads away from, instead of from no text.
        guidance: a weight (classifier-free; 1 is none), or a `Guidance`; it doubles the network's work. None is
            TEXT_GUIDANCE where there is a prompt, else 1.
        raw: True returns float32 on the model's scale instead of digits.
    Returns: (n, C, H, W), uint8 (uint16 above 256 bins), or float32 with `raw`.
    Raises:
        UserError: for n, steps or batch below 1, an unknown sampler, labels the model does not take, or guidance
            without a condition.
    """
    if isinstance(sampler, Plan) and steps is not None:
        raise UserError(f"steps={steps} and a plan of {sampler.nfe} calls are both given: leave steps out")
    chosen = sampler if isinstance(sampler, Plan) else plan(model, sampler, steps)
    condition = _condition(model, n, labels, condition, prompt)
    push = _guidance(model, guidance, negative, prompted=prompt is not None and condition is not None)
    with evaluating(model, push.weaker):
        trajectories = batch_trajectories(model, n, chosen, seed=seed, batch=batch, condition=condition, guidance=push)
        return final_samples(trajectories).numpy() if raw else final_images(model, trajectories)


def _condition(
    model: Diffusion,
    n: int,
    labels: Sequence[int] | int | None,
    condition: Condition | None,
    prompt: Sequence[str] | str | None,
) -> Condition | None:
    """What was asked for, one way or another."""
    if sum(way is not None for way in (labels, condition, prompt)) > 1:
        raise UserError("labels, a condition and a prompt are given: keep one, a condition can hold all of them")
    if prompt is not None:
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        if len(texts) not in (1, n):
            raise UserError(f"{len(texts)} prompts for n={n} samples: give one for all, or one a sample")
        return prompt_condition(model, texts)
    if labels is not None:
        each = class_numbers(labels).reshape(-1)
        if len(each) not in (1, n):
            raise UserError(f"{len(each)} labels for n={n} samples: give one for all, or one a sample")
        return condition_for(model, each)
    if condition is not None:
        condition_for(model, condition.label)
    return condition


def _guidance(model: Diffusion, guidance: float | Guidance | None, negative: str | None, prompted: bool) -> Guidance:
    if guidance is None:
        guidance = TEXT_GUIDANCE if prompted and (negative is not None or model.null_trained) else 1.0
    push = guidance if isinstance(guidance, Guidance) else Guidance(guidance)
    if negative is None:
        return push
    if not prompted:
        raise UserError("a negative prompt is what a prompt is guided away from: give a prompt")
    if push.weight == 1:
        raise UserError("a negative prompt shapes guidance, and guidance=1 is none: name its weight, 2 say")
    return replace(push, negative=prompt_condition(model, [negative]))


def to_images(model: Diffusion, x: Tensor) -> np.ndarray:
    """Numbers on the model's scale to digits, uint8 up to 256 bins, uint16 above."""
    digits = model.pixels.to_pixel_values(x).cpu().numpy()
    return digits.astype(np.uint8 if model.pixels.bins <= 256 else np.uint16)
