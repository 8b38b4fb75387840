"""Two models on the same images, levels and noise: the difference is known far better than either figure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from markovae.diffusion import Diffusion
from markovae.errors import UserError
from markovae.likelihood.estimators import Levels, measure
from markovae.likelihood.inputs import Array
from markovae.likelihood.record import Measurement, finite
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

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of `markovae measure A --against B --json`: A's record, with B's under `against`."""
        difference = self.difference_bits_per_dim
        return {
            **self.a.to_dict(),
            "against": self.b.to_dict(),
            "difference_bits_per_dim": {
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
    labels: Array | None = None,
    *,
    levels: Levels = None,
    **options: Any,
) -> Comparison:
    """Measure two models of the same data on common images, levels and noise.

    Args:
        levels, options: as for `measure`, for both models alike.
    Raises:
        UserError: as `measure`; or for models of data of other shapes or digits.
    """
    if a.shape != b.shape:
        raise UserError(f"models of data {a.shape} and {b.shape} cannot be compared: they need the same images")
    if a.decoder.discrete != b.decoder.discrete:
        raise UserError("a probability of digits and a density cannot be compared: give both the same kind of decoder")
    if a.decoder.discrete and a.pixels.bins != b.pixels.bins:
        raise UserError(f"models of {a.pixels.bins} and {b.pixels.bins} bins a pixel cannot be compared")
    first = measure(a, images, labels, levels=levels, **options)
    second = measure(b, images, labels, levels=levels, **options)
    same = [p.logsnr for p in first.per_level] == [p.logsnr for p in second.per_level]
    return Comparison(first, second, same and first.num_levels == second.num_levels)
