r"""The bound E6 of many images, by draws of the level or by all levels; unbiased either way.

An `Estimator` says which levels each image is evaluated at: the list of single evaluations, one network evaluation
each. They are made in batches, by one process or several, and summed up image by image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from markovae.diffusion.cascade import Cascade, Model
from markovae.diffusion.markovian_vae import evaluating
from markovae.errors import UserError
from markovae.likelihood.inputs import (
    Array,
    Labels,
    checked_images,
    checked_labels,
    checked_model,
    conditions,
    require_finite,
)
from markovae.likelihood.measurement import Measurement, level_table
from markovae.networks.conditioning import Condition
from markovae.randomness import Streams
from markovae.system.processes import Rank
from markovae.tables import at_least_one

Levels = int | Sequence[int] | Tensor | None


@dataclass(frozen=True)
class LevelDistribution:
    """p_ℓ > 0 for the levels ℓ = 2…L.

    Args:
        probability: (L−1,), float64, summing to 1.
    Raises:
        ValueError: for probabilities that do not sum to 1, or that leave a level out: its nats would never be counted.
    """

    probability: Tensor

    def __post_init__(self) -> None:
        total = float(self.probability.double().sum())
        if not abs(total - 1) < 1e-9:
            raise ValueError(f"the levels' probabilities sum to {total:.12g}: they must sum to 1")
        if not bool((self.probability > 0).all()):
            raise ValueError("every level needs a probability above 0: its nats would never be counted")

    @classmethod
    def uniform(cls, num_levels: int) -> Self:
        """Every level 2…L alike: stratified sampling."""
        return cls(torch.full((num_levels - 1,), 1 / (num_levels - 1), dtype=torch.float64))

    @classmethod
    def importance(cls, second_moment: Tensor, even: float = 0.05) -> Self:
        r"""p_ℓ ∝ √E[nats_ℓ²], of least variance for one independent draw, mixed with a share of the uniform.

        Args:
            second_moment: E[nats²] of levels 2…L on other images than those measured, (L−1,), ≥ 0.
            even: share of the uniform distribution, so that a level that looked free is still visited.
        Source: Nichol & Dhariwal 2021, section 3.3 (with a history there, fitted once and frozen here).
        """
        root = second_moment.double().sqrt()
        total = root.sum()
        if not (bool(total > 0) and bool(total.isfinite())):
            raise ValueError(
                f"the levels' nats have a root second moment of {float(total):g} in all: no distribution follows"
            )
        return cls((1 - even) * root / total + even / len(root))

    @property
    def num_levels(self) -> int:
        """L."""
        return len(self.probability) + 1

    def draw(self, start: Tensor, draws: int) -> tuple[Tensor, Tensor]:
        """Levels at the quantiles (m + start)/M, m = 0…M−1, and the share 1/(M p_ℓ) of each in the sum over levels.

        Each quantile is uniform when `start` is, so Σ_m share·nats is unbiased; together they are evenly spread.

        Args:
            start: in [0, 1), (*S).
            draws: M.
        Returns: levels 2…L, (*S, M), int64; shares, (*S, M), float64.
        """
        quantile = (torch.arange(draws, dtype=torch.float64) + start.double()[..., None]) / draws
        probability = self.probability.double()
        edges = probability.cumsum(0)
        place = torch.searchsorted(edges, quantile * edges[-1], right=True).clamp(max=len(edges) - 1)
        return 2 + place, 1 / (draws * probability[place])


def level_starts(images: Tensor, seed: int, replicate: int = 0) -> Tensor:
    """A uniform start an image, keyed by (seed, image, replicate), (n,): images are independent of each other."""
    key = (replicate,) if replicate else ()
    return Streams(seed, "measure levels", images.tolist(), *key).uniform(())


@dataclass(frozen=True)
class Evaluations:
    """Single evaluations: of which image, at which level, for which of the independent randomizations.

    Args:
        image: place of the image in the data, (B,).
        level: 2…L, (B,); 1 stands for the reconstruction.
        weight: of the nats in their image's sum, (B,), float64.
        replicate: number of the randomization, (B,).
        repeat: how often this image was at this level before, (B,): a repetition takes other noise.
    """

    image: Tensor
    level: Tensor
    weight: Tensor
    replicate: Tensor
    repeat: Tensor

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, which: Tensor | slice) -> Evaluations:
        """Some of them."""
        return Evaluations(*(field[which] for field in vars(self).values()))

    @property
    def first(self) -> Tensor:
        """Which are the first of their image, with which its closed-form prior term is kept, (B,), bool."""
        return (self.level == 1) & (self.replicate == 0)

    def noise(self, seed: int) -> Streams:
        """The noise of each, keyed by (seed, image, level) and the repetition."""
        # One integer names the evaluation: a schedule has at most a million levels, which is below 2^20.
        columns = (field.tolist() for field in (self.repeat, self.image, self.level))
        names = [((repeat << 40) + image) * 2**20 + level for repeat, image, level in zip(*columns, strict=True)]
        return Streams(seed, "measure noise", names)

    @classmethod
    def of(cls, levels: Tensor, weights: Tensor) -> Self:
        """At levels (R, n, M) with their weights, after the R reconstructions of each image."""
        replicates, n, draws = levels.shape
        image = torch.arange(n).expand(replicates, n)
        number = torch.arange(replicates)[:, None].expand(replicates, n)
        image, number = (
            torch.cat([v.flatten(), v[..., None].expand(-1, -1, draws).flatten()]) for v in (image, number)
        )
        level = torch.cat([torch.ones(replicates * n, dtype=torch.int64), levels.flatten()])
        weight = torch.cat([torch.ones(replicates * n, dtype=torch.float64), weights.flatten()])
        return cls(image, level, weight, number, _repeats(image * 2**20 + level))


def _repeats(name: Tensor) -> Tensor:
    """How many equal names stand before each, (B,)."""
    ordered, order = name.sort(stable=True)
    place = torch.arange(len(name))
    changed = torch.cat([torch.ones(1, dtype=torch.bool), ordered[1:] != ordered[:-1]])
    first = torch.cummax(torch.where(changed, place, torch.zeros_like(place)), 0).values
    return torch.empty_like(place).index_copy_(0, order, place - first)


@dataclass(frozen=True)
class Estimator:
    """How the sum over levels is estimated.

    Args:
        draws: levels drawn per image, evenly spread from a random start; None takes every level once.
        distribution: how likely each level is, fitted on other images; None is uniform (stratified).
        replicates: independent randomizations of each image; with 2 or more the noise's own error is known.
    """

    draws: int | None = 16
    distribution: LevelDistribution | None = None
    replicates: int = 1

    def __post_init__(self) -> None:
        at_least_one(draws=self.draws, replicates=self.replicates)

    def evaluations(self, num_levels: int, n: int, seed: int) -> Evaluations:
        """Every evaluation of n images on a grid of `num_levels`; reconstructions first, then image by image.

        Raises:
            UserError: for a distribution over another grid's levels.
        """
        if self.distribution is not None and self.distribution.num_levels != num_levels:
            raise UserError(
                f"a distribution over {self.distribution.num_levels} levels cannot draw from a grid of {num_levels}: "
                "refit it"
            )
        if self.draws is None or num_levels == 1 or (self.distribution is None and self.draws >= num_levels - 1):
            every = torch.arange(2, num_levels + 1).expand(self.replicates, n, -1)
            return Evaluations.of(every, torch.ones(every.shape, dtype=torch.float64))
        distribution = LevelDistribution.uniform(num_levels) if self.distribution is None else self.distribution
        images = torch.arange(n)
        pairs = [distribution.draw(level_starts(images, seed, r), self.draws) for r in range(self.replicates)]
        return Evaluations.of(torch.stack([p[0] for p in pairs]), torch.stack([p[1] for p in pairs]))

    @property
    def name(self) -> str:
        """The estimator in a word or two, for the record."""
        return "every level" if self.draws is None else "stratified" if self.distribution is None else "importance"


def evaluate_nats(model: Model, x: Tensor, evaluations: Evaluations, condition: Condition | None, seed: int) -> Tensor:
    """Nats of each evaluation, (B,), float64, on the CPU.

    Args:
        x: data of the evaluations on the model's scale, (B, *D).
        condition: theirs.
    Raises:
        UserError: where nats are NaN or Inf.
    """
    nats = torch.zeros(len(evaluations), dtype=torch.float64)
    for first in (True, False):
        chosen = ((evaluations.level == 1) == first).nonzero().flatten()
        if not len(chosen):
            continue
        part, noise = x[chosen.to(x.device)], evaluations[chosen].noise(seed)
        at = None if condition is None else condition.take(chosen)
        if first:
            nats[chosen] = model.reconstruction_nats(part, noise, at).cpu()
        else:
            nats[chosen] = model.level_nats(part, evaluations.level[chosen], noise, at).cpu()
    require_finite(nats, evaluations.image, evaluations.level)
    return nats


@dataclass(frozen=True)
class EvaluatedBatch:
    """The nats of one batch of evaluations.

    Args:
        evaluations: image and level of each.
        nats: of each, (B,), float64.
        prior: closed-form prior term of the images whose first evaluation is here.
        begin: place of the first.
    """

    evaluations: Evaluations
    nats: Tensor
    prior: Tensor
    begin: int = 0


def evaluate_batches(
    model: Model,
    images: Array,
    labels: Labels | None = None,
    *,
    estimator: Estimator,
    limit: int | None = None,
    seed: int = 0,
    batch: int = 64,
    rank: Rank | None = None,
) -> Iterator[EvaluatedBatch]:
    """The nats of every evaluation, batch by batch; `summarize` makes a Measurement of them.

    Args:
        images, labels, limit, seed, batch: as for `measure`.
        rank: of this process among several: of the batches that one process makes it takes every size-th.
    """
    at_least_one(limit=limit, batch=batch)
    checked_model(model)
    images = checked_images(model, images, limit)
    known = checked_labels(labels, len(images), limit)
    every = estimator.evaluations(model.num_levels, len(images), seed)
    with evaluating(model):
        for begin in (Rank() if rank is None else rank).every(range(0, len(every), batch)):
            part = every[begin : begin + batch]
            with torch.no_grad():
                x = model.to_x(images[part.image])
                condition = conditions(model, None if known is None else known[part.image])
                nats = evaluate_nats(model, x, part, condition, seed)
                prior = model.prior_nats(x[part.first.to(x.device)]).cpu()
            yield EvaluatedBatch(part, nats, prior, begin)


def summarize(model: Model, batches: Sequence[EvaluatedBatch], seed: int, estimator: Estimator) -> Measurement:
    """Sum the nats of every image; model, seed and estimator as for `evaluate_batches`."""
    image, level, replicate = (
        torch.cat([getattr(b.evaluations, name) for b in batches]) for name in ("image", "level", "replicate")
    )
    nats, weight = torch.cat([b.nats for b in batches]), torch.cat([b.evaluations.weight for b in batches])
    n, times, first = int(image.max()) + 1, int(replicate.max()) + 1, level == 1
    assert torch.equal(image[first], torch.arange(n).repeat(times)), "every image exactly once"
    assert torch.bincount(image[~first], minlength=n).unique().numel() == 1, "every image as often as any other"
    sums = torch.zeros(times * n, dtype=torch.float64)
    sums.index_add_(0, (replicate * n + image)[~first], (weight * nats)[~first])
    prior = torch.cat([b.prior for b in batches])
    each, reconstruction = sums.reshape(times, n), nats[first].reshape(times, n)
    return Measurement(
        prior=prior,
        levels=each.mean(0),
        reconstruction=reconstruction.mean(0),
        per_level=level_table(image[~first], level[~first], nats[~first], model.level_logsnr),
        dims=model.dims,
        num_levels=model.num_levels,
        network_calls_per_example=len(image) // n,
        seed=seed,
        discrete=model.decoder.discrete,
        estimator=estimator.name,
        randomizations=(prior + each + reconstruction).T if times > 1 else None,
        band_levels=_band_levels(model, image[~first], level[~first], (weight * nats)[~first] / times, n),
    )


def _band_levels(model: Model, image: Tensor, level: Tensor, nats: Tensor, n: int) -> Tensor | None:
    """The levels' nats of each image by the bands of a cascade, coarse first, (n, K+1)."""
    if not isinstance(model, Cascade):
        return None
    stage = model.locate(level)[0]
    sums = torch.zeros(n * (model.octaves + 1), dtype=torch.float64)
    return sums.index_add(0, image * (model.octaves + 1) + stage, nats).reshape(n, -1)


def on_levels(model: Model, levels: Levels) -> Model:
    """The model on a sub-grid: of so many levels at even strides, or of these levels (increasing, L the last).

    Raises:
        UserError: for levels that the grid does not have.
    """
    if levels is None:
        return model
    if isinstance(model, Cascade):
        return model.on_levels(_number_of_levels(model, levels))
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


def _number_of_levels(model: Cascade, levels: Levels) -> int:
    """K of a cascade's sub-grid.

    Raises:
        UserError: for levels by their numbers, or too few or too many.
    """
    if not isinstance(levels, int):
        raise UserError("a cascade is measured on so many of its levels, and not on levels by name: give a number")
    least = model.octaves + 2
    if not least <= levels <= model.num_levels:
        raise UserError(
            f"levels={levels} must lie in {least}…{model.num_levels}: a cascade of {model.octaves + 1} stages has those"
        )
    return levels


def to_table(batches: Sequence[EvaluatedBatch], total: int) -> Tensor:
    """The nats of one process in their places, zeros in those of the others, (2, total), float64.

    The tables of all processes add up to the table of all evaluations, to the last bit.
    """
    table = torch.zeros(2, total, dtype=torch.float64)
    for one in batches:
        inside = slice(one.begin, one.begin + len(one.evaluations))
        table[0, inside] = one.nats
        table[1, inside][one.evaluations.first] = one.prior.double()
    return table


def from_table(table: Tensor, evaluations: Evaluations) -> EvaluatedBatch:
    """All the evaluations, as if one process had made them in one batch."""
    return EvaluatedBatch(evaluations, table[0], table[1][evaluations.first])
