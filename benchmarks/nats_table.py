"""nats[image, level] of a model: every level of every image, kept by content so that it is drawn once only."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from markovae.diffusion.bound import estimate_mean
from markovae.diffusion.model import Diffusion
from markovae.likelihood.estimators import Estimator, LevelDistribution, evaluate_batches
from markovae.likelihood.measurement import Measurement
from markovae.likelihood.statistics import LevelStatistics, collect_level_statistics
from markovae.log import log, track
from markovae.randomness import generator
from markovae.system.files import make_folder, write_file

FORMAT, SURVEY_FORMAT = 2, 3
PART = 20  # images a file: what an interruption costs at most


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
        draws: levels per image.   calls: NFE per image.
        stderr: of the mean over the table's images, nats.
        added: by how much it exceeds the standard error of the full sum, as a share.
    """

    draws: int
    calls: int
    stderr: float
    added: float


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
        times: independent randomizations of each image.
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
        found = Measurement(zero, total, zero, (), 1, 1, 0, 0, discrete=False, randomizations=each)
        low, high = found.noise_nats.ci95
        hits += low <= truth <= high
    return hits / repeats


@dataclass(frozen=True)
class Table:
    """R draws of every level of every image, each with noise of its own.

    Args:
        nats: of levels 2…L, (R, n, L−1).   first: of the reconstruction, (R, n).   prior: closed form, (n,).
    """

    nats: Tensor
    first: Tensor
    prior: Tensor

    def draw(self, number: int = 0) -> NatsTable:
        """One of the R."""
        return NatsTable(self.nats[number], self.prior + self.first[number])


def table_of(
    model: Diffusion,
    name: str,
    images: Any,
    cache: Path,
    *,
    labels: Any = None,
    depth: int = 1,
    batch: int = 64,
) -> Table:
    """The table of these images, from the cache as far as it lies there; R L network calls for each that does not.

    Args:
        name: what tells this model from others: its checkpoint's digest.   cache: a folder.   depth: R.
    """
    make_folder(cache)
    parts, missing = [], 0
    starts = range(0, len(images), PART)
    for begin in track(starts, f"levels 1 to {model.num_levels} of {len(images)} images, {PART} at a time"):
        some = np.asarray(images[begin : begin + PART])
        given = None if labels is None else labels[begin : begin + len(some)]
        # Each part has a seed of its own: images of two parts share no noise.
        path = cache / f"nats-{_key(model, f'{name} {begin} {depth}', some)}.safetensors"
        if not path.exists():
            missing += 1
            write_file(path, save(_drawn(model, some, given, depth, seed=begin, batch=batch)))
        parts.append(load_file(path))
    log(f"{missing} of {len(starts)} parts were drawn now")
    columns = {name: torch.cat([part[name] for part in parts], 0 if name == "prior" else 1) for name in parts[0]}
    return Table(**columns)


def survey_of(
    model: Diffusion,
    name: str,
    images: Any,
    cache: Path,
    *,
    labels: Any = None,
    knots: int = 129,
    batch: int = 64,
) -> LevelStatistics:
    """One pass over other images, from the cache where it lies there; 16 network calls per image."""
    make_folder(cache)
    path = cache / f"survey-{_key(model, f'{name} {knots} {SURVEY_FORMAT}', images)}.safetensors"
    if not path.exists():
        found = vars(collect_level_statistics(model, images, labels, knots=knots, batch=batch))
        tensors = {part: torch.as_tensor(value).contiguous() for part, value in found.items()}
        write_file(path, save(tensors))
    stored = load_file(path)
    return LevelStatistics(**{part: float(value) if part == "prior" else value for part, value in stored.items()})


def _drawn(model: Diffusion, images: Any, labels: Any, depth: int, *, seed: int, batch: int) -> dict[str, Tensor]:
    estimator = Estimator(None, replicates=depth)
    drawn = list(evaluate_batches(model, images, labels, estimator=estimator, seed=seed, batch=batch))
    level, nats = torch.cat([d.evaluations.level for d in drawn]), torch.cat([d.nats for d in drawn])
    return {
        "nats": nats[level > 1].reshape(depth, len(images), -1),  # the order of the evaluations
        "first": nats[level == 1].reshape(depth, -1),
        "prior": torch.cat([d.prior for d in drawn]),
    }


def _key(model: Diffusion, name: str, images: Any) -> str:
    made = hashlib.sha256(f"{FORMAT} {name} {model.precision} {type(model.reverse).__name__}".encode())
    made.update(model.schedule.logsnr.detach().numpy().tobytes())
    for buffer in model.reverse.buffers():
        made.update(buffer.numpy().tobytes())
    made.update(np.ascontiguousarray(images).tobytes())
    return made.hexdigest()[:24]
