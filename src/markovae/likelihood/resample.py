"""nats[image, level], computed once and resampled: what any estimator would have said, and how often right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from markovae.diffusion import Diffusion
from markovae.likelihood.control import ControlVariate
from markovae.likelihood.estimators import Estimator, measuring
from markovae.likelihood.inputs import Array
from markovae.likelihood.law import LevelLaw
from markovae.likelihood.record import Measurement
from markovae.randomness import generator
from markovae.vae import estimate_mean


@dataclass(frozen=True)
class NatsTable:
    """Single draws of every level of every image.

    Args:
        nats: what a draw adds, less the control if there is one, (n, L−1), float64.
        rest: prior, reconstruction and the control's known sum, (n,).
    """

    nats: Tensor
    rest: Tensor

    def estimates(self, law: LevelLaw, draws: int, starts: Tensor) -> Tensor:
        """Each image's bound from `draws` levels, by systematic draws that begin at each start: (n, S)."""
        level, share = law.draw(starts, draws)
        return self.rest[:, None] + (share * self.nats[:, level - 2]).sum(2)

    def full(self) -> Tensor:
        """Each image's bound from every level, (n,)."""
        return self.rest + self.nats.sum(1)


@dataclass(frozen=True)
class CostRow:
    """What an estimator costs and how much it adds.

    Args:
        draws: levels an image.   calls: network calls an image.
        stderr: of the mean over the table's images, nats.
        added: by how much it exceeds the standard error of the full sum, as a share.
    """

    draws: int
    calls: int
    stderr: float
    added: float


def nats_table(
    model: Diffusion,
    images: Array,
    labels: Array | None = None,
    *,
    control: ControlVariate | None = None,
    seed: int = 0,
    batch: int = 64,
) -> NatsTable:
    """Draw every level of every image once: L network calls an image."""
    estimator = Estimator(None, control=control)
    drawn = list(measuring(model, images, labels, estimator=estimator, seed=seed, batch=batch))
    level = torch.cat([d.task.level for d in drawn])
    counted = torch.cat([d.counted for d in drawn])
    closed = torch.cat([d.prior for d in drawn]) + torch.cat([d.known for d in drawn])
    n = len(closed)
    # The draws stand image by image after the reconstructions: see `full_sum`.
    return NatsTable(counted[level > 1].reshape(n, -1), closed + counted[level == 1])


def cost_curve(table: NatsTable, law: LevelLaw, draws: Sequence[int], starts: int = 64) -> list[CostRow]:
    """The standard error over the table's images against the number of draws, over evenly spread starts."""
    begin = (torch.arange(starts, dtype=torch.float64) + 0.5) / starts
    full = float(table.full().std()) / math.sqrt(len(table.rest))
    rows = []
    for count in draws:
        found = table.estimates(law, count, begin)
        # The law of total variance: across images and across starts.
        variance = float(found.mean(1).var() + found.var(1, correction=0).mean())
        stderr = math.sqrt(variance / len(table.rest))
        rows.append(CostRow(count, count + 1, stderr, stderr / full - 1))
    return rows


def population_coverage(
    table: NatsTable, law: LevelLaw, draws: int, n: int, repeats: int = 2000, seed: int = 0
) -> float:
    """How often the 95 % interval of n images drawn afresh from the table holds the mean of the table."""
    source, truth, hits = generator(seed, "coverage"), float(table.full().mean()), 0
    for _ in range(repeats):
        image = torch.randint(len(table.rest), (n,), generator=source)
        level, share = law.draw(torch.rand(n, generator=source, dtype=torch.float64), draws)
        total = table.rest[image] + (share * table.nats[image[:, None], level - 2]).sum(1)
        low, high = estimate_mean(total).ci95
        hits += low <= truth <= high
    return hits / repeats


def noise_coverage(
    tables: Sequence[NatsTable], law: LevelLaw, draws: int, times: int = 2, repeats: int = 2000, seed: int = 0
) -> float:
    """How often the interval of the noise alone holds the bound of these very images, their mean over all tables.

    Args:
        tables: of the same images, each with noise of its own: each draw is taken from one of them at random.
        times: independent randomisations of each image.
    """
    nats, rest = torch.stack([t.nats for t in tables], 1), torch.stack([t.rest for t in tables], 1)
    n, depth = rest.shape
    source, truth, hits = generator(seed, "noise coverage"), float(rest.mean() + nats.mean((0, 1)).sum()), 0
    image, zero = torch.arange(n)[:, None], rest.new_zeros(n)
    for _ in range(repeats):
        level, share = law.draw(torch.rand(n, times, generator=source, dtype=torch.float64), draws)
        which = torch.randint(depth, level.shape, generator=source)
        each = (share * nats[image[..., None], which, level - 2]).sum(2)
        each = each + rest[image, torch.randint(depth, (n, times), generator=source)]
        total = each.mean(1)
        found = Measurement(zero, total, zero, (), 1, 1, 0, 0, discrete=False, randomisations=each)
        low, high = found.noise_nats.ci95
        hits += low <= truth <= high
    return hits / repeats
