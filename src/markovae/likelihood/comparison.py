"""`compare`: two models measured on common images, levels and noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from markovae.diffusion.bound import Estimate, estimate_mean, html_table
from markovae.diffusion.cascade import Model
from markovae.errors import UserError
from markovae.likelihood.inputs import Array, Labels
from markovae.likelihood.measurement import Measurement, csv_of, estimate_dict
from markovae.likelihood.measuring import measure_alike
from markovae.likelihood.method import Method
from markovae.networks.conditioning import same_text_encoder
from markovae.system.distributed import Ranks


@dataclass(frozen=True, repr=False)
class Comparison:
    """A's and B's measurements, image by image in the same order.

        found = mv.compare(model, model, images[:4])
        found.difference_bits_per_dim

    Args:
        a, b: the measurements.
        same_grid: True where levels and noise were common draw by draw; on different
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

    def sheets(self, count: int) -> dict[str, Tensor]:
        """As for `Measurement`, of A."""
        return self.a.sheets(count)

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
            f"difference_{unit}": estimate_dict(difference) | {"same_levels_and_noise": self.same_grid},
        }


def compare(
    a: Model,
    b: Model,
    images: Array,
    labels: Labels | None = None,
    *,
    fit: Array | None = None,
    fit_labels: Labels | None = None,
    progress: bool = False,
    ranks: Ranks | None = None,
    **method: Any,
) -> Comparison:
    """Measure two models of the same data on common images, levels and noise.

        mv.compare(mv.load("runs/a"), mv.load("runs/b"), images).difference_bits_per_dim

    Args:
        labels: classes or conditioning, for those of the two that take them.
        fit, fit_labels, progress, ranks: as for `measure`.
        method: draws, levels, limit, seed, batch, estimator, replicates, grid, variance, as for `measure`.
    Raises:
        UserError: as `measure`; or for models of data of other shapes or bins.
    """
    how = Method(**method)
    refuse_other_data(a, b)
    (first, second), same = measure_alike([a, b], images, labels, how, fit, fit_labels, progress, ranks)
    return Comparison(first, second, same)


def refuse_other_data(a: Model, b: Model) -> None:
    """Refuse two models that cannot be measured on one set of images, or not in one unit.

    Raises:
        UserError: for other shapes, bins, kinds of decoder, or text encoders.
    """
    if a.shape != b.shape:
        raise UserError(f"models of data {a.shape} and {b.shape} cannot be compared: they need the same images")
    if a.decoder.discrete != b.decoder.discrete:
        raise UserError(
            "a probability of pixel values and a density cannot be compared: give both the same kind of decoder"
        )
    if not same_text_encoder(a.text_conditioner, b.text_conditioner):
        raise UserError("models that read captions by different text encoders cannot be compared: measure each alone")
    if a.decoder.discrete and a.pixels.bins != b.pixels.bins:
        raise UserError(f"models of {a.pixels.bins} and {b.pixels.bins} bins a pixel cannot be compared")
