"""How to measure: the estimator, its draws, and what is fitted before. Nothing here loads torch."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markovae.errors import UserError
from markovae.tables import at_least_one

if TYPE_CHECKING:
    from markovae.likelihood.estimators import Levels

ESTIMATORS = ("full", "stratified", "importance")
GRIDS = ("even", "optimal")
VARIANCES = ("own", "isotropic", "diagonal")
DEQUANTIZATIONS = ("uniform", "normal")
SPLITS = ("test", "validation", "train", "all")
DRAWS = 16


@dataclass(frozen=True)
class Method:
    """How to measure, checked.

    Args:
        estimator: full (every level), stratified, or importance (importance-sampled levels, p ∝ √E[nats²]).
        draws: levels drawn per image; auto is 16, or every level where the estimator is full; None or "all" is full.
        replicates: independent randomizations of each image.
        levels: measure on so many levels, or on these; None is all.
        grid: which, even strides or those of the least bound.
        variance: of the prior's steps: the model's own, or isotropic or diagonal, refitted. An optimal grid of a
            model whose own variance images neither fit nor teach takes the isotropic one.
        limit: the first so many images only.
        seed: of the draws; noise is keyed by (seed, image, level).
        batch: draws per network evaluation.
    Raises:
        UserError: for an unknown word, a number below 1, or settings that contradict one another.
    """

    estimator: str = "stratified"
    draws: int | str | None = "auto"
    replicates: int = 1
    levels: Levels = None
    grid: str = "even"
    variance: str = "own"
    limit: int | None = None
    seed: int = 0
    batch: int = 64

    def __post_init__(self) -> None:
        for name, known in (("estimator", ESTIMATORS), ("grid", GRIDS), ("variance", VARIANCES)):
            if getattr(self, name) not in known:
                raise UserError(f"{name}={getattr(self, name)!r} must be one of {', '.join(known)}")
        if isinstance(self.draws, str) and self.draws not in ("auto", "all"):
            raise UserError(f"draws={self.draws!r} must be a whole number, 'all', 'auto' or None")
        whole = self.draws in (None, "all")
        if whole and self.estimator == "importance":
            raise UserError(
                f"draws={self.draws!r} takes every level and estimator='importance' draws some: leave one of them out"
            )
        if self.estimator == "full" and not (whole or self.draws == "auto"):
            raise UserError(f"estimator='full' takes every level and draws={self.draws} draws some: leave one out")
        if whole or self.estimator == "full":
            object.__setattr__(self, "estimator", "full")
            object.__setattr__(self, "draws", None)
        elif self.draws == "auto":
            object.__setattr__(self, "draws", DRAWS)
        for name in ("draws", "replicates", "levels"):
            # Numbers of numpy, and tensors of one, count like Python's.
            if hasattr(value := getattr(self, name), "__index__") and not getattr(value, "ndim", 0):
                object.__setattr__(self, name, operator.index(value))
        count = self.levels if isinstance(self.levels, int) else None
        at_least_one(
            draws=self.number_of_draws, replicates=self.replicates, levels=count, limit=self.limit, batch=self.batch
        )
        if self.grid == "optimal" and not isinstance(self.levels, int):
            raise UserError("grid='optimal' chooses some of the levels: say how many, levels=16 for instance")

    @property
    def number_of_draws(self) -> int | None:
        """Levels drawn per image; None is every level."""
        return None if isinstance(self.draws, str) else self.draws

    @property
    def needs_fit(self) -> bool:
        """Whether something is fitted on other images."""
        return self.estimator == "importance" or self.grid == "optimal" or self.variance != "own"
