"""Two models on the same images, levels and noise: the difference is known far better than either figure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from markovae.diffusion import Diffusion
from markovae.errors import UserError
from markovae.likelihood.estimators import measure_with
from markovae.likelihood.inputs import Array, Labels, checked_images, labels_taken, refuse_shared
from markovae.likelihood.method import Method, prepare_pair, same_levels
from markovae.likelihood.record import Measurement, csv_of, finite
from markovae.networks.given import read_alike
from markovae.vae import Estimate, estimate_mean


@dataclass(frozen=True)
class Comparison:
    """A's and B's measurements, image by image in the same order.

    Args:
        a, b: the measurements.   same_grid: True where levels and noise were common draw by draw; on different
            grids only the images and the quantiles of the levels are.
    """

    a: Measurement
    b: Measurement
    same_grid: bool

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
        difference = self.difference_bits_per_dim if self.a.discrete else self.difference_nats
        return {
            **self.a.to_dict(),
            "against": self.b.to_dict(),
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
    method: Method | None = None,
    fit: Array | None = None,
    fit_labels: Labels | None = None,
    limit: int | None = None,
    seed: int = 0,
    batch: int = 64,
) -> Comparison:
    """Measure two models of the same data on common images, levels and noise.

    Args:
        method: for both alike; None is `Method()`, 16 levels an image.
        fit, fit_labels: other images, where the method fits something.
        labels: classes, for those of the two that take them.   limit, seed, batch: as for `measure`.
    Raises:
        UserError: as `measure`; or for models of data of other shapes or digits.
    """
    refuse_other_data(a, b)
    method = Method() if method is None else method
    pair = prepare_pair(a, b, method, fit, fit_labels, seed=seed, batch=batch)
    if fit is not None and method.needs_fit:
        refuse_shared(checked_images(a, images, limit), checked_images(a, fit))
    first, second = (
        measure_with(
            p.model,
            images,
            labels_taken(p.model, labels),
            estimator=p.estimator,
            limit=limit,
            seed=seed,
            batch=batch,
        )
        for p in pair
    )
    return Comparison(first, second, same_levels(pair[0].model, pair[1].model))


def refuse_other_data(a: Diffusion, b: Diffusion) -> None:
    """Refuse two models that cannot be measured on one set of images, or not in one unit.

    Raises:
        UserError: for other shapes, digits, kinds of decoder, or text encoders.
    """
    if a.shape != b.shape:
        raise UserError(f"models of data {a.shape} and {b.shape} cannot be compared: they need the same images")
    if a.decoder.discrete != b.decoder.discrete:
        raise UserError("a probability of digits and a density cannot be compared: give both the same kind of decoder")
    if not read_alike(a.reader, b.reader):
        raise UserError("models that read captions by different text encoders cannot be compared: measure each alone")
    if a.decoder.discrete and a.pixels.bins != b.pixels.bins:
        raise UserError(f"models of {a.pixels.bins} and {b.pixels.bins} bins a pixel cannot be compared")
