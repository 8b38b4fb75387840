"""What a measurement says: the record behind `markovae measure --json`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from markovae.vae import Estimate, estimate_mean

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class LevelNats:
    """The KL of one level, averaged over the draws that fell on it.

    Args:
        level: ℓ.   logsnr: λ_ℓ.   nats: per example; stderr is nan for a single draw.   draws: how many.
    """

    level: int
    logsnr: float
    nats: float
    stderr: float
    draws: int


@dataclass(frozen=True)
class Measurement:
    """An upper bound on the code length of images, in its terms.

    Args:
        prior, levels, reconstruction: estimates of the three terms of each image, (n,), nats, float64.
        per_level: the levels' own figures.
        dims: dimensions of one image.   num_levels: L of the grid measured on.
        network_calls_per_example: network calls spent on an image.   seed: of every draw.
    """

    prior: Tensor
    levels: Tensor
    reconstruction: Tensor
    per_level: tuple[LevelNats, ...]
    dims: int
    num_levels: int
    network_calls_per_example: int
    seed: int

    @property
    def total(self) -> Tensor:
        """Each image's bound, (n,), nats."""
        return self.prior + self.levels + self.reconstruction

    @property
    def nats(self) -> Estimate:
        """Mean nats an image ± standard error over images (their draws are independent)."""
        return estimate_mean(self.total)

    @property
    def bits_per_dim(self) -> Estimate:
        """Mean bits per dimension ± standard error."""
        return self._per_dim(self.total)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of `markovae measure --json`; numbers that do not exist are None."""
        terms = {"prior": self.prior, "levels": self.levels, "reconstruction": self.reconstruction}
        bits, nats = self.bits_per_dim, self.nats
        return {
            "schema_version": SCHEMA_VERSION,
            "n": len(self.total),
            "dims": self.dims,
            "levels": self.num_levels,
            "network_calls_per_example": self.network_calls_per_example,
            "seed": self.seed,
            "bits_per_dim": {
                "mean": finite(bits.value),
                "stderr": finite(bits.stderr),
                "ci95": [finite(end) for end in bits.ci95],
            },
            "nats": {"mean": finite(nats.value), "stderr": finite(nats.stderr)},
            "terms_bits_per_dim": {name: finite(self._per_dim(value).value) for name, value in terms.items()},
            "per_level": [
                {"level": p.level, "logsnr": finite(p.logsnr), "nats": finite(p.nats), "stderr": finite(p.stderr)}
                for p in self.per_level
            ],
        }

    def _per_dim(self, values: Tensor) -> Estimate:
        estimate, scale = estimate_mean(values), 1 / (self.dims * math.log(2))
        return Estimate(estimate.value * scale, estimate.stderr * scale)


def finite(value: float) -> float | None:
    """The number, or None where JSON has no word for it."""
    return float(value) if math.isfinite(value) else None


def level_table(level: Tensor, nats: Tensor, logsnr: Tensor) -> tuple[LevelNats, ...]:
    """Average the draws by level.

    Args:
        level, nats: of every draw, (N,).   logsnr: the grid λ_0…λ_L.
    """
    count = torch.bincount(level, minlength=len(logsnr)).double()
    total = torch.zeros_like(count).index_add_(0, level, nats)
    mean = total / count
    spread = torch.zeros_like(count).index_add_(0, level, (nats - mean[level]) ** 2)
    stderr = (spread / (count - 1) / count).sqrt()
    return tuple(
        LevelNats(i, float(logsnr[i]), float(mean[i]), float(stderr[i]) if count[i] > 1 else math.nan, int(count[i]))
        for i in count.nonzero().flatten().tolist()
    )
