"""Samples by number: sample i is a function of (seed, i) and the sampler, never of the batch it was made in."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from markovae.diffusion.cascade import Cascade, Model
from markovae.diffusion.markovian_vae import evaluating
from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.log import track_inside
from markovae.networks.conditioning import Condition, Conditioning, RepeatedConditioning
from markovae.randomness import Streams
from markovae.sampling.conditions import Labels, Prompts, Where, check_condition, make_condition, num_classes
from markovae.sampling.denoiser import Denoiser, MeanOnly
from markovae.sampling.guidance import Guidance, Interval, guided, make_guidance
from markovae.sampling.plans import Plan, plan
from markovae.sampling.sampler_table import DEFAULT_SAMPLER, TUNED_FOR
from markovae.sampling.samplers import Ancestral, State, trajectory
from markovae.system.distributed import Ranks
from markovae.system.processes import Rank


def sample_trajectory(
    model: Diffusion,
    indices: Sequence[int],
    steps_plan: Plan,
    seed: int = 0,
    condition: Condition | None = None,
    denoiser: Denoiser | None = None,
    stage: int = 0,
    size: Sequence[int] | None = None,
) -> Iterator[State]:
    """The states of the samples with these numbers, from noise to data (see `trajectory`).

    Args:
        stage: of a cascade, that the model is; each has noise of its own.
        size: height and width of the latents, where they are not the model's.
        denoiser: what stands in for the model's own x̂ (guidance, a measurement); None is the model. The plan's
            threshold is put around it.
    Raises:
        UserError: see `check_condition`.
    """
    check_condition(model, condition)
    source = Streams(seed, "sample", indices, *((stage,) if stage else ()))
    shape = model.shape if size is None else (model.shape[0], *size)
    z = source.normal(shape, torch.float32).to(model.device, working_type(model))
    if denoiser is None:
        denoiser = MeanOnly(model) if ignores_head(model, steps_plan) else model
    if steps_plan.threshold is not None:
        denoiser = steps_plan.threshold(denoiser)
    return trajectory(denoiser, z, steps_plan.grid, steps_plan.stepper, source, condition, steps_plan.corrector)


def ignores_head(model: Diffusion, steps_plan: Plan) -> bool:
    """Whether the model would compute ∂x̂/∂z, d backward passes, for a sampler that does not read it."""
    return model.reverse.needs_jacobian and not isinstance(steps_plan.stepper, Ancestral)


def working_type(model: Model) -> torch.dtype:
    """The type of the latents: float32, or float64 where the network itself runs in it."""
    return torch.float64 if model.precision == torch.float64 else torch.float32


SAMPLE_LOGSNR = 8.0
"""log-SNR of the coarse image that a detail stage is given: noise of two grey levels hides what a base gets wrong."""


def cascade_trajectory(
    model: Cascade,
    indices: Sequence[int],
    steps_plan: Plan,
    seed: int = 0,
    condition: Condition | None = None,
    guidance: Guidance | None = None,
    coarse: Tensor | None = None,
) -> Iterator[State]:
    """The states of the stages one after the other, and at the end the image: z of the last state.

    Args:
        steps_plan: with one for each detail stage that is run; fewer end at a smaller image.
        coarse: a mean image to begin from, (B, C, h, w), as many stages below the full size as the plan has details;
            None draws the base first.
    """
    guidance = guidance or Guidance()
    first = 1 if coarse is None else model.octaves - len(steps_plan.details) + 1
    image = coarse
    if image is None:
        denoiser = guided(model.base, condition, guidance)
        for state in sample_trajectory(model.base, indices, steps_plan, seed, condition, denoiser):
            image = state.z
            yield state
    assert image is not None, "a trajectory has a state"
    for b, each in enumerate(steps_plan.details, first):
        stage, known = model.stage(b), coarse_condition(model, b, image, seed, indices, condition)
        details, denoiser = image, guided(stage, known, guidance)
        for state in sample_trajectory(stage, indices, each, seed, known, denoiser, b, image.shape[2:]):
            details = state.z
            yield state
        image = model.refined(image, details, b)
    if steps_plan.details:
        yield State(steps_plan.grid[0], image, image)


def coarse_condition(
    model: Cascade, b: int, image: Tensor, seed: int, indices: Sequence[int], condition: Condition | None
) -> Condition:
    """What stage b is given: the condition, and the coarser mean image with noise of its own, as it is sampled with."""
    noise = Streams(seed, "coarse sample", indices, b).normal(image.shape[1:], image.dtype).to(image.device)
    return model.refining(condition, image, model.coarse_logsnr(b).clamp(max=SAMPLE_LOGSNR), noise)


def batch_trajectories(
    model: Model,
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
    """The trajectory of each batch of samples start…start+n−1, of as many states as the plan's grid has log-SNRs.

    Args:
        condition: of one for all, or of n, one a sample.
        rank: of this process among several: it draws every size-th of the batches that one process would draw.
        noise_indices: index of each sample's noise, (n,), where it is not start…start+n−1; two may share one.
    """
    _require_counts(n, batch)
    if condition is None or not len(condition):
        condition = None
    elif len(condition) == 1:
        condition = RepeatedConditioning(condition, torch.zeros(n, dtype=torch.int64))
    elif len(condition) != n:
        raise UserError(f"{len(condition)} conditions for n={n} samples: give one for all, or one a sample")
    for numbers in batches_of(n, batch, rank):
        part = None if condition is None else condition[torch.tensor(numbers)].condition().to(model.device)
        keys = [start + i if noise_indices is None else noise_indices[i] for i in numbers]
        if isinstance(model, Cascade):
            yield cascade_trajectory(model, keys, steps_plan, seed, part, guidance)
        else:
            denoiser = guided(model, part, guidance or Guidance())
            yield sample_trajectory(model, keys, steps_plan, seed, part, denoiser)


def batches_of(n: int, batch: int, rank: Rank | None = None) -> list[range]:
    """The numbers of the samples in each batch that this process makes."""
    begins = (Rank() if rank is None else rank).every(range(0, n, batch))
    return [range(begin, min(begin + batch, n)) for begin in begins]


def network_evaluations(steps_plan: Plan, guidance: Guidance) -> int:
    """Network evaluations of a sample: guidance takes a second one wherever it acts.

    Where a sampler evaluates between the log-SNRs of its grid, a trajectory of zeros shows at which.
    """
    if guidance.weight == 1:
        return steps_plan.nfe
    if steps_plan.details:
        return sum(
            network_evaluations(each, guidance) for each in (replace(steps_plan, details=()), *steps_plan.details)
        )
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
    """Predicts zeros, and keeps the log-SNRs where it was evaluated."""

    def __init__(self) -> None:
        self.logsnr: list[float] = []

    def predict(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
        self.logsnr.append(float(logsnr))
        return torch.zeros_like(z), None


class NonFiniteSamples(UserError):
    """A trajectory ended in NaN or Inf, which would be shown as black or white."""


def final_latents(states: Iterator[State]) -> Tensor:
    """z at the end of a trajectory, (B, *D).

    Raises:
        NonFiniteSamples: where it holds NaN or Inf.
    """
    (last,) = deque(states, maxlen=1)
    lost = int((~last.z.isfinite()).flatten(1).any(1).sum())
    if lost:
        raise NonFiniteSamples(
            f"{lost} of {len(last.z)} images came out NaN or Inf: the weights or the condition hold such numbers, or "
            "the steps are too coarse for this sampler"
        )
    return last.z


def final_samples(trajectories: Iterable[Iterator[State]], shape: Sequence[int]) -> Tensor:
    """z at the end of every trajectory, batch after batch, (n, *shape), float32, on the CPU.

    Raises:
        NonFiniteSamples: as `final_latents`.
    """
    return torch.cat([torch.empty(0, *shape), *(final_latents(states).float().cpu() for states in trajectories)])


def final_images(
    model: Model, trajectories: Iterable[Iterator[State]], shape: Sequence[int] | None = None
) -> np.ndarray:
    """The pixel values at the end of every trajectory, (n, *shape); only one batch is held in floating point.

    Args:
        shape: of an image; None is the model's.

    Raises:
        NonFiniteSamples: as `final_latents`.
    """
    made = [to_images(model, final_latents(states).float()) for states in trajectories]
    return np.concatenate([to_images(model, torch.empty(0, *(shape or model.shape))), *made])


def sample(
    model: Model,
    n: int,
    *,
    steps: int | None = None,
    sampler: str | Plan = DEFAULT_SAMPLER,
    spacing: str | None = None,
    threshold: str | None = None,
    seed: int = 0,
    batch: int = 64,
    labels: Labels = None,
    prompt: Prompts = None,
    condition: Conditioning | None = None,
    where: Where = None,
    guidance: float | Guidance | None = None,
    negative: str | None = None,
    interval: Interval | Sequence[float] | None = None,
    autoguide: Model | None = None,
    noise_indices: Sequence[int] | None = None,
    shard: tuple[int, int] | None = None,
    ranks: Ranks | None = None,
    raw: bool = False,
    progress: bool = False,
    stage: int | None = None,
) -> np.ndarray:
    """Draw n images: sample i depends on (seed, i) only.

        images = mv.sample(model, 16, steps=20, seed=0)
        mv.grid(images).save("samples.png")

    Args:
        steps: network evaluations a sample; None is 20, or all L levels for `ancestral`.
        sampler: one of SAMPLERS, or a plan, which has steps, a spacing and a threshold of its own.
        spacing: one of SPACINGS; None is the sampler's own.
        threshold: static or dynamic.
        batch: images made at a time; bitwise equal at one batch size, within a grey level across sizes.
        labels: a class for all, or one a sample; "all", the default of a model of classes: each in turn; "none": the
            learned null.
        prompt: a text for all, or one a sample, for a model trained with captions; a blank one is the learned null.
        condition: what else the model takes (labels too, instead of `labels`), of one for all or one a sample.
        where: values of the columns that the model takes, {"age": 30, "smiling": "yes"}: one for all, or a list of one
            a sample; those left out are left open.
        guidance: a weight (classifier-free; 1 is none), or a `Guidance`; it doubles the network's work. None is
            TEXT_GUIDANCE where there is a prompt, for classes what the model's run chose (`model.guidance`), else 1.
        negative: a prompt that guidance leads away from, instead of from no prompt.
        interval: the log-SNRs where guidance acts, (low, high).
        autoguide: a weaker model that it leads away from.
        noise_indices: index of each sample's noise, (n,), where it is not 0…n−1; two may share one.
        shard: (i, N) draws every N-th batch from the i-th on, i = 1…N; `shard_indices` says which samples those are.
        ranks: processes that draw together; each returns all n images.
        raw: True returns float32 on the model's scale instead of pixel values.
        progress: whether to show progress on stderr.
        stage: of a cascade, the last one that is run, from 0, the base; None is all, an image in full size.
    Returns: (n, C, H, W), uint8 (uint16 above 256 bins), or float32 with `raw`.
    Raises:
        UserError: for n, steps or batch below 1, an unknown word, a condition that the model does not take, a null
            that it was never trained on, or guidance without a condition.
    """
    _require_counts(n, batch)
    ranks = ranks or Ranks()
    conditioned = partial(make_condition, model, labels=labels, prompt=prompt, condition=condition, where=where)
    known = conditioned(n)
    chosen_guidance = make_guidance(
        model,
        guidance,
        prompt=prompt,
        negative=negative,
        interval=interval,
        autoguide=autoguide,
        classes=num_classes(model) > 0 and known is not None,
    )
    if isinstance(sampler, Plan):
        for name, value in (("steps", steps), ("spacing", spacing), ("threshold", threshold)):
            if value is not None:
                raise UserError(f"{name}={value} and a plan are both given: leave {name} out")
        chosen = sampler
    else:
        few = conditioned(TUNED_FOR, cycle=True) if spacing == "tuned" else None
        chosen = ranks.in_turn(
            lambda: plan(model, sampler, steps, spacing, threshold=threshold, condition=few, guidance=chosen_guidance)
        )
    chosen, shape = up_to_stage(model, chosen, stage)
    rank = ranks.here
    if shard is not None:
        if not ranks.alone:
            raise UserError("shard is for processes on their own: leave it out where several draw together")
        shard_indices(n, batch, shard)  # refuses a shard without any
        rank = Rank(shard[0] - 1, shard[1])
    trajectories: Iterable[Iterator[State]] = batch_trajectories(
        model,
        n,
        chosen,
        seed=seed,
        batch=batch,
        condition=known,
        guidance=chosen_guidance,
        rank=rank,
        noise_indices=noise_indices,
    )
    if progress:
        total = len(batches_of(n, batch, rank)) * chosen.num_states
        trajectories = track_inside(trajectories, "sampling, step by step", total)
    with evaluating(model, chosen_guidance.weaker):
        images = final_samples(trajectories, shape).numpy() if raw else final_images(model, trajectories, shape)
    if ranks.alone:
        return images
    # Each rank adds its own images to zeros.
    rows = [number for numbers in batches_of(n, batch, rank) for number in numbers]
    table = torch.zeros(n, *shape, dtype=torch.float32 if raw else torch.int32)
    table[rows] = torch.from_numpy(images.astype(np.float32 if raw else np.int32))
    gathered: np.ndarray = ranks.sum(table).numpy().astype(images.dtype)
    return gathered


def up_to_stage(model: Model, steps_plan: Plan, stage: int | None) -> tuple[Plan, tuple[int, ...]]:
    """The plan of a cascade up to a stage, and the shape of what it draws."""
    if not isinstance(model, Cascade):
        if stage is not None:
            raise UserError(f"stage={stage} is for a cascade, and this model has one stage: leave it out")
        return steps_plan, model.shape
    if len(steps_plan.details) != model.octaves:
        raise UserError("this plan is of another number of stages: make it with the model itself")
    if stage is None:
        return steps_plan, model.shape
    if not 0 <= stage <= model.octaves:
        raise UserError(f"stage={stage} must lie in 0…{model.octaves}: the stages of this cascade, the base first")
    channels, height, width = model.shape
    below = model.octaves - stage
    return replace(steps_plan, details=steps_plan.details[:stage]), (channels, height >> below, width >> below)


def shard_indices(n: int, batch: int, shard: tuple[int, int] | None = None) -> list[int]:
    """The numbers of the samples that `sample` draws for this shard; all n without one.

    Raises:
        UserError: for a shard outside 1…N, or one without any.
    """
    if shard is None:
        return list(range(n))
    part, count = shard
    if not 1 <= part <= count:
        raise UserError(f"shard {part}/{count} must be i/N with i from 1 to N")
    rows = [number for numbers in batches_of(n, batch, Rank(part - 1, count)) for number in numbers]
    if not rows:
        raise UserError(
            f"shard {part}/{count} has nothing to draw: {n} images in batches of {batch} are {-(-n // batch)} batches; "
            "lower the batch, or make fewer shards"
        )
    return rows


def _require_counts(n: int, batch: int) -> None:
    if n < 1:
        raise UserError(f"n={n} must be at least 1: it counts the samples")
    if batch < 1:
        raise UserError(f"batch={batch} must be at least 1: it counts the images made at a time")


def to_images(model: Model, x: Tensor) -> np.ndarray:
    """Numbers on the model's scale to pixel values, uint8 up to 256 bins, uint16 above."""
    digits = model.pixels.to_pixel_values(x).cpu().numpy()
    return digits.astype(np.uint8 if model.pixels.bins <= 256 else np.uint16)
