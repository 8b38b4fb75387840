"""What each column of a table says about images, in nats: differences of bounds on the same levels and noise.

    alone       E[nats(x) − nats(x | this column)]
    beyond      E[nats(x | all others) − nats(x | all)]: what it adds to the other columns

Classes and captions, where the model takes them, are given throughout. As of captions, a difference is the information
plus a difference of gaps; the lower bound of all columns together is one whatever the model (`caption_information`).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from markovae.data.images import ImageData
from markovae.diffusion.bound import Estimate, estimate_mean, html_table
from markovae.diffusion.cascade import Model, one_stage
from markovae.errors import UserError
from markovae.likelihood.caption_information import block_partners, information_bound, information_dict, shared_nats
from markovae.likelihood.estimators import Estimator
from markovae.likelihood.inputs import require_condition
from markovae.likelihood.measurement import estimate_dict
from markovae.log import track
from markovae.networks.conditioning import ColumnConditioning
from markovae.tables import at_least_one
from markovae.text.conditioner import attach_conditioning

NO_ERROR = Estimate(math.nan, math.nan)


@dataclass(frozen=True)
class ColumnNats:
    """A column on the n images that have a cell of it.

    Args:
        name: of the column.
        alone, beyond: nats of each image, (n,).
    """

    name: str
    alone: Tensor
    beyond: Tensor


@dataclass(frozen=True, repr=False)
class ColumnInformation:
    """The columns weighed on n images, all with one noise an image.

    Args:
        columns: each by itself.
        given, without: each image's bound with all columns and with none, (n,), nats.
        candidates: nats of image i with the columns of image `block_partners(n, k)[j, i]`, (k, m).
        dims: of an image.
        draws, seed: of each bound.
        seconds: in all.
    """

    columns: tuple[ColumnNats, ...]
    given: Tensor
    without: Tensor
    candidates: Tensor
    dims: int
    draws: int
    seed: int
    seconds: float

    @property
    def difference(self) -> Estimate:
        """What all columns together say, a bound difference, nats."""
        return estimate_mean(self.without - self.given)

    @property
    def information(self) -> Estimate:
        """The estimated lower bound on the information between image and columns, nats; below 0 it says nothing."""
        k, m = self.candidates.shape
        return information_bound(self.candidates) if m > k else NO_ERROR

    def __repr__(self) -> str:
        each = ", ".join(f"{one.name} {estimate_mean(one.alone)}" for one in self.columns)
        return f"ColumnInformation({each}; all {self.difference} nats, {len(self.given):,} images)"

    def _repr_html_(self) -> str:
        """The figures as a table, for notebooks."""
        rows: list[tuple[str, Any]] = [(one.name, estimate_mean(one.alone)) for one in self.columns]
        return html_table([*rows, ("all", self.difference), ("images", f"{len(self.given):,}")])

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of `markovae measure --columns --json`, nats per example."""
        return {
            "schema_version": 1,
            "n": len(self.given),
            "dims": self.dims,
            "draws": self.draws,
            "seed": self.seed,
            "seconds": self.seconds,
            "columns": [
                {
                    "column": one.name,
                    "n": len(one.alone),
                    "alone_nats": estimate_dict(estimate_mean(one.alone)) if len(one.alone) else None,
                    "beyond_nats": estimate_dict(estimate_mean(one.beyond)) if len(one.beyond) else None,
                }
                for one in self.columns
            ],
            "bound_difference": {
                "nats": estimate_dict(self.difference),
                "bits_per_dim": estimate_dict(self.difference.scaled(1 / (self.dims * math.log(2)))),
            },
            "information_lower_bound": information_dict(self.candidates),
        }


def column_information(
    model: Model,
    data: ImageData,
    *,
    candidates: int = 16,
    draws: int = 8,
    limit: int | None = 300,
    seed: int = 0,
    batch: int = 64,
) -> ColumnInformation:
    """Weigh the columns that a model takes on images that have them.

        found = mv.column_information(model, data.test)
        print(found)

    Args:
        data: images with columns.
        candidates: k of the lower bound.
        draws: levels per bound, stratified.
        limit: the first so many images only; None is all.
        seed: of levels and noise.
        batch: network evaluations at a time.
    Raises:
        UserError: for a model without columns or that never trained without, too few images, or data that do not fit.
    """
    model = one_stage(model, "column information")
    if model.columns is None:
        raise UserError("this model was trained without columns: there is nothing to weigh")
    at_least_one(limit=limit, draws=draws)
    require_condition(model, None)
    began = time.monotonic()
    data = data if limit is None else data.take(slice(0, limit))
    known = attach_conditioning(model, data, held_out=True).conditioning
    assert isinstance(known, ColumnConditioning), "a model of columns"
    partner = block_partners(len(data), candidates)
    images, names = np.asarray(data.images), model.columns.names
    steps = iter(track(range(2 * len(names) + candidates + 1), "weighing columns", 2 * len(names) + candidates + 1))

    def nats(given: ColumnConditioning, rows: Tensor | None = None) -> Tensor:
        next(steps)
        return shared_nats(model, images, given, rows, estimator=Estimator(draws), seed=seed, batch=batch)

    given, without = nats(known), nats(known.without())
    each = []
    for place, name in enumerate(names):
        rows = known.known(place)
        if not len(rows):
            each.append(ColumnNats(name, rows.double(), rows.double()))
            continue
        alone = without[rows] - nats(known.without(only=place)[rows], rows)
        each.append(ColumnNats(name, alone, nats(known.without(place)[rows], rows) - given[rows]))
    rows = torch.arange(partner.shape[1])
    tried = [given[rows], *(nats(known.swapped(partner[turn]), rows) for turn in range(1, candidates))]
    return ColumnInformation(
        tuple(each), given, without, torch.stack(tried), model.dims, draws, seed, time.monotonic() - began
    )
