"""nats[image, level], computed once and resampled: what any estimator would have said, and how often right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from markovae.diffusion.bound import Estimate, estimate_mean
from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.likelihood.estimators import Estimator, Levels, measuring
from markovae.likelihood.inputs import Array, Labels
from markovae.likelihood.level_sampling import LevelDistribution
from markovae.likelihood.measurement import Measurement, csv_of, finite, html_table
from markovae.likelihood.measuring import Method, measure_alike
from markovae.networks.conditioning import same_text_encoder
from markovae.randomness import generator
from markovae.system.distributed import Ranks


@dataclass(frozen=True)
class NatsTable:
    """Single draws of every level of every image.

    Args:
        nats: what a draw adds, (n, L−1), float64.
        rest: prior and reconstruction, (n,).
    """

    nats: Tensor
    rest: Tensor

    def estimates(self, distribution: LevelDistribution, draws: int, starts: Tensor) -> Tensor:
        """Each image's bound from `draws` levels, by systematic draws that begin at each start: (n, S)."""
        level, share = distribution.draw(starts, draws)
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
    seed: int = 0,
    batch: int = 64,
) -> NatsTable:
    """Draw every level of every image once: L network calls an image."""
    estimator = Estimator(None)
    drawn = list(measuring(model, images, labels, estimator=estimator, seed=seed, batch=batch))
    level = torch.cat([d.task.level for d in drawn])
    nats, prior = torch.cat([d.nats for d in drawn]), torch.cat([d.prior for d in drawn])
    n = len(prior)
    # The draws stand image by image after the reconstructions: see `full_sum`.
    return NatsTable(nats[level > 1].reshape(n, -1), prior + nats[level == 1])


def cost_curve(
    table: NatsTable, distribution: LevelDistribution, draws: Sequence[int], starts: int = 64
) -> list[CostRow]:
    """The standard error over the table's images against the number of draws, over evenly spread starts."""
    begin = (torch.arange(starts, dtype=torch.float64) + 0.5) / starts
    full = float(table.full().std()) / math.sqrt(len(table.rest))
    rows = []
    for count in draws:
        found = table.estimates(distribution, count, begin)
        # The law of total variance: across images and across starts.
        variance = float(found.mean(1).var() + found.var(1, correction=0).mean())
        stderr = math.sqrt(variance / len(table.rest))
        rows.append(CostRow(count, count + 1, stderr, stderr / full - 1))
    return rows


def population_coverage(
    table: NatsTable, distribution: LevelDistribution, draws: int, n: int, repeats: int = 2000, seed: int = 0
) -> float:
    """How often the 95 % interval of n images drawn afresh from the table holds the mean of the table."""
    source, truth, hits = generator(seed, "coverage"), float(table.full().mean()), 0
    for _ in range(repeats):
        image = torch.randint(len(table.rest), (n,), generator=source)
        level, share = distribution.draw(torch.rand(n, generator=source, dtype=torch.float64), draws)
        total = table.rest[image] + (share * table.nats[image[:, None], level - 2]).sum(1)
        low, high = estimate_mean(total).ci95
        hits += low <= truth <= high
    return hits / repeats


def noise_coverage(
    tables: Sequence[NatsTable],
    distribution: LevelDistribution,
    draws: int,
    times: int = 2,
    repeats: int = 2000,
    seed: int = 0,
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
        level, share = distribution.draw(torch.rand(n, times, generator=source, dtype=torch.float64), draws)
        which = torch.randint(depth, level.shape, generator=source)
        each = (share * nats[image[..., None], which, level - 2]).sum(2)
        each = each + rest[image, torch.randint(depth, (n, times), generator=source)]
        total = each.mean(1)
        found = Measurement(zero, total, zero, (), 1, 1, 0, 0, discrete=False, randomisations=each)
        low, high = found.noise_nats.ci95
        hits += low <= truth <= high
    return hits / repeats


@dataclass(frozen=True, repr=False)
class Comparison:
    """A's and B's measurements, image by image in the same order.

    Args:
        a, b: the measurements.   same_grid: True where levels and noise were common draw by draw; on different
            grids only the images and the quantiles of the levels are.
    """

    a: Measurement
    b: Measurement
    same_grid: bool

    def __repr__(self) -> str:
        return f"Comparison(difference {self._difference}, {len(self.a.total):,} images)"

    def _repr_html_(self) -> str:
        """The figures as a table, for notebooks."""
        return html_table([("a", repr(self.a)), ("b", repr(self.b)), ("difference a − b", self._difference)])

    @property
    def _difference(self) -> str:
        return f"{self.difference_bits_per_dim} bits/dim" if self.a.discrete else f"{self.difference_nats} nats"

    @property
    def difference_nats(self) -> Estimate:
        """Mean of A − B over images, nats ± the standard error of the paired differences; below 0, A is better."""
        return estimate_mean(self.a.total - self.b.total)

    @property
    def difference_bits_per_dim(self) -> Estimate:
        """Mean of A − B in bits/dim ± the standard error of the paired differences.

        Raises:
            UserError: for densities.
        """
        if not self.a.discrete:
            raise UserError("bits per dimension of a density depend on a bin width: compare the nats")
        return self.difference_nats.scaled(1 / (self.a.dims * math.log(2)))

    def to_csv(self) -> str:
        """A's rows with B's total and the difference beside them, nats: a header and a line an image."""
        rows = [
            row | {"against_nats": other, "difference_nats": row["total_nats"] - other}
            for row, other in zip(self.a.rows(), self.b.total.tolist(), strict=True)
        ]
        return csv_of(rows)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of `markovae measure A --against B --json`: A's record, with B's under `against`."""
        unit = "bits_per_dim" if self.a.discrete else "nats"
        against = self.b.figures()
        if self.b.checkpoint is not None:
            against["checkpoint"] = dict(self.b.checkpoint)
        difference = self.difference_bits_per_dim if self.a.discrete else self.difference_nats
        return {
            **self.a.to_dict(),
            "against": against,
            f"difference_{unit}": {
                "mean": finite(difference.value),
                "stderr": finite(difference.stderr),
                "ci95": [finite(end) for end in difference.ci95],
                "same_levels_and_noise": self.same_grid,
            },
        }


def compare(
    a: Diffusion,
    b: Diffusion,
    images: Array,
    labels: Labels | None = None,
    *,
    draws: int | str | None = "auto",
    levels: Levels = None,
    limit: int | None = None,
    seed: int = 0,
    batch: int = 64,
    estimator: str = "stratified",
    replicates: int = 1,
    grid: str = "even",
    variance: str = "own",
    fit: Array | None = None,
    fit_labels: Labels | None = None,
    progress: bool = False,
    ranks: Ranks | None = None,
) -> Comparison:
    """Measure two models of the same data on common images, levels and noise.

        mv.compare(mv.load("runs/a"), mv.load("runs/b"), images).difference_bits_per_dim

    Args:
        labels: classes or conditioning, for those of the two that take them.   Others as for `measure`.
    Raises:
        UserError: as `measure`; or for models of data of other shapes or bins.
    """
    method = Method(estimator, draws, replicates, levels, grid, variance)
    refuse_other_data(a, b)
    how: dict[str, Any] = {"limit": limit, "seed": seed, "batch": batch, "progress": progress, "ranks": ranks}
    (first, second), same = measure_alike([a, b], images, labels, method, fit, fit_labels, **how)
    return Comparison(first, second, same)


def refuse_other_data(a: Diffusion, b: Diffusion) -> None:
    """Refuse two models that cannot be measured on one set of images, or not in one unit.

    Raises:
        UserError: for other shapes, digits, kinds of decoder, or text encoders.
    """
    if a.shape != b.shape:
        raise UserError(f"models of data {a.shape} and {b.shape} cannot be compared: they need the same images")
    if a.decoder.discrete != b.decoder.discrete:
        raise UserError("a probability of digits and a density cannot be compared: give both the same kind of decoder")
    if not same_text_encoder(a.text_conditioner, b.text_conditioner):
        raise UserError("models that read captions by different text encoders cannot be compared: measure each alone")
    if a.decoder.discrete and a.pixels.bins != b.pixels.bins:
        raise UserError(f"models of {a.pixels.bins} and {b.pixels.bins} bins a pixel cannot be compared")
