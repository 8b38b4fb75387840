r"""The bound E6 of many images, by draws of the level or by all levels; unbiased either way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from markovae.diffusion.markovian_vae import evaluating
from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.likelihood.inputs import (
    Array,
    Labels,
    at_least_one,
    checked_images,
    checked_labels,
    checked_model,
    conditions,
)
from markovae.likelihood.level_sampling import LevelDistribution
from markovae.likelihood.measurement import Measurement, level_table
from markovae.likelihood.tasks import Task, full_sum, sampled, task_nats
from markovae.networks.conditioning import Conditioning
from markovae.system.processes import Rank

Levels = int | Sequence[int] | Tensor | None


@dataclass(frozen=True)
class Estimator:
    """How the sum over levels is estimated.

    Args:
        draws: levels drawn an image, evenly spread from a random start; None takes every level once.
        distribution: how likely each level is, fitted on other images; None is uniform (stratified).
        replicates: independent randomisations of each image; with 2 or more the noise's own error is known.
    """

    draws: int | None = 16
    distribution: LevelDistribution | None = None
    replicates: int = 1

    def __post_init__(self) -> None:
        at_least_one(draws=self.draws, replicates=self.replicates)

    def task(self, num_levels: int, n: int, seed: int) -> Task:
        """Every draw of n images on a grid of `num_levels`.

        Raises:
            UserError: for a law of another grid.
        """
        if self.distribution is not None and self.distribution.num_levels != num_levels:
            raise UserError(
                f"a law of {self.distribution.num_levels} levels cannot draw from a grid of {num_levels}: refit it"
            )
        if self.draws is None or num_levels == 1 or (self.distribution is None and self.draws >= num_levels - 1):
            return full_sum(num_levels, n, self.replicates)
        distribution = LevelDistribution.uniform(num_levels) if self.distribution is None else self.distribution
        return sampled(distribution, self.draws, n, seed, self.replicates)

    @property
    def name(self) -> str:
        """The estimator in a word or two, for the record."""
        return "every level" if self.draws is None else "stratified" if self.distribution is None else "importance"


def measure_with(
    model: Diffusion,
    images: Array,
    labels: Labels | None = None,
    *,
    estimator: Estimator,
    levels: Levels = None,
    limit: int | None = None,
    seed: int = 0,
    batch: int = 64,
) -> Measurement:
    """The bound on −ln P of integer images by an estimator; see `measure`.

    Args:
        levels: measure on the sub-grid of so many levels, or of these levels; None is the model's own grid.
        limit: the first so many images only.
    """
    model = on_levels(model, levels)
    drawn = list(measuring(model, images, labels, estimator=estimator, limit=limit, seed=seed, batch=batch))
    return finish(model, drawn, seed, estimator)


@dataclass(frozen=True)
class Drawn:
    """The outcome of one batch of draws.

    Args:
        task: image and level of each draw.   nats: of each draw, (B,), float64.
        prior: closed-form prior term of the images this batch opens, by place.
        total: the number of draws to come in all (for a progress bar).   begin: place of the first of these.
    """

    task: Task
    nats: Tensor
    prior: Tensor
    total: int
    begin: int = 0


def measuring(
    model: Diffusion,
    images: Array,
    labels: Labels | None = None,
    *,
    estimator: Estimator,
    limit: int | None = None,
    seed: int = 0,
    batch: int = 64,
    place: Rank | None = None,
) -> Iterator[Drawn]:
    """The work of `measure_with`, batch by batch, for those who show progress; `finish` sums it up.

    Args:
        place: of this process among several: of their batches, the same as one process makes, it takes every so many
            (see `gathering`). None takes all.
    """
    at_least_one(limit=limit, batch=batch)
    checked_model(model)
    images = checked_images(model, images, limit)
    labels = checked_labels(labels, len(images), limit)
    tasks = estimator.task(model.num_levels, len(images), seed)
    with evaluating(model):
        for begin in (Rank() if place is None else place).every(range(0, len(tasks), batch)):
            drawn = _drawn(model, images, labels, tasks.part(begin, begin + batch), seed, len(tasks))
            yield replace(drawn, begin=begin)


@torch.no_grad()
def _drawn(
    model: Diffusion,
    images: Tensor,
    labels: Conditioning | None,
    task: Task,
    seed: int,
    total: int,
) -> Drawn:
    x = model.to_x(images[task.image])
    condition = conditions(model, None if labels is None else labels[task.image])
    nats = task_nats(model, x, task, condition, seed)
    opened = x[((task.level == 1) & (task.replicate == 0)).to(x.device)]
    return Drawn(task, nats, model.prior_nats(opened).cpu(), total)


def finish(model: Diffusion, drawn: list[Drawn], seed: int, estimator: Estimator) -> Measurement:
    """Sum the draws of every image into a Measurement; model, seed and estimator as given to `measuring`."""
    image, level, replicate = (
        torch.cat([getattr(d.task, name) for d in drawn]) for name in ("image", "level", "replicate")
    )
    nats, share = torch.cat([d.nats for d in drawn]), torch.cat([d.task.share for d in drawn])
    n, times, first = int(image.max()) + 1, int(replicate.max()) + 1, level == 1
    assert torch.equal(image[first], torch.arange(n).repeat(times)), "every image exactly once"
    assert torch.bincount(image[~first], minlength=n).unique().numel() == 1, "every image as often as any other"
    sums = torch.zeros(times * n, dtype=torch.float64)
    sums.index_add_(0, (replicate * n + image)[~first], (share * nats)[~first])
    prior = torch.cat([d.prior for d in drawn])
    each, reconstruction = sums.reshape(times, n), nats[first].reshape(times, n)
    return Measurement(
        prior=prior,
        levels=each.mean(0),
        reconstruction=reconstruction.mean(0),
        per_level=level_table(image[~first], level[~first], nats[~first], model.schedule.logsnr.detach()),
        dims=model.dims,
        num_levels=model.num_levels,
        network_calls_per_example=len(image) // n,
        seed=seed,
        discrete=model.decoder.discrete,
        estimator=estimator.name,
        randomisations=(prior + each + reconstruction).T if times > 1 else None,
    )


def on_levels(model: Diffusion, levels: Levels) -> Diffusion:
    """The model on a sub-grid: of so many levels at even strides, or of these levels (increasing, L the last).

    Raises:
        UserError: for levels that the grid does not have.
    """
    if levels is None:
        return model
    if isinstance(levels, str):
        raise UserError(f"levels={levels!r} must be a whole number")
    chosen = torch.as_tensor(levels)
    if chosen.numel() and chosen.is_floating_point():
        raise UserError(f"levels={levels} must be whole numbers: they count levels, or name them")
    if chosen.ndim > 1:
        raise UserError(f"levels={levels} must be a number, or a list of them")
    if chosen.ndim == 0:
        count = int(chosen)
        if not 1 <= count <= model.num_levels:
            raise UserError(f"levels={count} must lie in 1…{model.num_levels}, the levels of this model's grid")
        return model if count == model.num_levels else model.on_grid(model.schedule.subgrid(count))
    try:
        return model.on_grid(model.schedule.only(chosen))
    except ValueError as error:
        raise UserError(str(error)) from error


def to_table(drawn: Iterable[Drawn], total: int) -> Tensor:
    """The draws of one process in their places, zeros in those of the others, (2, total), float64.

    The tables of all processes add up to the table of all draws, to the last bit.
    """
    table = torch.zeros(2, total, dtype=torch.float64)
    for one in drawn:
        inside = slice(one.begin, one.begin + len(one.task))
        table[0, inside] = one.nats
        table[1, inside][_opening(one.task)] = one.prior.double()
    return table


def from_table(table: Tensor, task: Task) -> Drawn:
    """All the draws of `task`, as if one process had made them in one batch."""
    return Drawn(task, table[0], table[1][_opening(task)], len(task))


def _opening(task: Task) -> Tensor:
    """Which draws are the first of their image, with which its closed-form terms are kept, (B,), bool."""
    return (task.level == 1) & (task.replicate == 0)
