r"""Which levels an image is measured at: laws over 2…L, drawn systematically, and the shares that keep Σ_ℓ unbiased."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from markovae.randomness import Streams


@dataclass(frozen=True)
class LevelDistribution:
    """p_ℓ > 0 for the levels ℓ = 2…L.

    Args:
        probability: (L−1,), float64, summing to 1.
    Raises:
        ValueError: for a law that does not sum to 1, or that leaves a level out: its nats would never be counted.
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
        r"""p_ℓ ∝ √E[nats_ℓ²], the law of least variance for one independent draw, mixed with a share of the uniform.

        Args:
            second_moment: E[nats²] of levels 2…L on other images than those measured, (L−1,), ≥ 0.
            even: share of the uniform law, so that a level that looked free is still visited.
        Source: Nichol & Dhariwal 2021, section 3.3 (with a history there, fitted once and frozen here).
        """
        root = second_moment.double().sqrt()
        total = root.sum()
        if not (bool(total > 0) and bool(total.isfinite())):
            raise ValueError(f"the levels' nats have a root second moment of {float(total):g} in all: no law follows")
        return cls((1 - even) * root / total + even / len(root))

    @property
    def num_levels(self) -> int:
        """L."""
        return len(self.probability) + 1

    def draw(self, start: Tensor, draws: int) -> tuple[Tensor, Tensor]:
        """Levels at the quantiles (m + start)/M, m = 0…M−1, and the share 1/(M p_ℓ) of each in the sum over levels.

        Each quantile is uniform when `start` is, so Σ_m share·nats is unbiased; together they are evenly spread.

        Args:
            start: in [0, 1), (*S).   draws: M.
        Returns: levels 2…L, (*S, M), int64; shares, (*S, M), float64.
        """
        quantile = (torch.arange(draws, dtype=torch.float64) + start.double()[..., None]) / draws
        probability = self.probability.double()
        edges = probability.cumsum(0)
        place = torch.searchsorted(edges, quantile * edges[-1], right=True).clamp(max=len(edges) - 1)
        return 2 + place, 1 / (draws * probability[place])


def stratified_levels(num_levels: int, draws: int, images: Tensor, seed: int) -> Tensor:
    """`draws` levels an image in 2…L, evenly spread from a random start of its own, (n, draws), int64."""
    return LevelDistribution.uniform(num_levels).draw(level_starts(images, seed), draws)[0]


def level_starts(images: Tensor, seed: int, replicate: int = 0) -> Tensor:
    """A uniform start an image, keyed by (seed, image, replicate), (n,): images are independent of each other."""
    key = (replicate,) if replicate else ()
    return Streams(seed, "measure levels", images.tolist(), *key).uniform(())
