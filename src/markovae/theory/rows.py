"""What a row of `markovae verify` is: an equation, both sides of it as numbers, and the tolerance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

VAE = "Markovian VAE"
DDPM = "DDPM"
SDE = "The SDE limit"
ELBO = "The ELBO of the Markovian VAE"
REWRITING = "Rewriting the ELBO"
GAUSSIAN = "The Gaussian model"
EPSILON = "From the μ-prior to the ε-prior"
TRAINING = "Training"
DECODER = "The decoder"
PIXELS = "Pixels"
GAP = "Beyond the slides: the gap of L levels"
TRUTH = "Beyond the slides: the truth"
SLIDES = (VAE, DDPM, SDE, ELBO, REWRITING, GAUSSIAN, EPSILON, TRAINING, DECODER, PIXELS, GAP, TRUTH)


Pair = tuple[float, float]
"""(expected, measured)."""


@dataclass(frozen=True)
class Row:
    """One equation, checked numerically.

    Args:
        name: of the check, unique.
        slide: of the lecture.
        equation: what is claimed.
        expected, measured: both sides; where expected is 0, measured is a largest difference or a largest miss.
        tolerance: the most by which they may differ; 4 where the miss is counted in standard errors.
    """

    name: str
    slide: str
    equation: str
    expected: float
    measured: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """|measured − expected| ≤ tolerance; never for what is not a number."""
        return abs(self.measured - self.expected) <= self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON takes it: a number that is not finite is None."""
        numbers = {"expected": self.expected, "measured": self.measured, "tolerance": self.tolerance}
        told = {key: value if math.isfinite(value) else None for key, value in numbers.items()}
        return {"name": self.name, "slide": self.slide, "equation": self.equation, **told, "pass": self.passed}


@dataclass(frozen=True)
class Line:
    """One equation of a check.

    Args:
        name: unique among all checks.
        equation: what is claimed.
        tolerance: as in `Row`.
    """

    name: str
    equation: str
    tolerance: float


@dataclass(frozen=True)
class Check:
    """One or several equations that a single computation settles.

    Args:
        slide: of the lecture.
        lines: the equations.
        statement: both sides of each, in order.
    """

    slide: str
    lines: tuple[Line, ...]
    statement: Callable[[], Sequence[Pair]]

    def rows(self) -> list[Row]:
        """Compute, one row an equation."""
        pairs = self.statement()
        return [
            Row(line.name, self.slide, line.equation, *pair, line.tolerance)
            for line, pair in zip(self.lines, pairs, strict=True)
        ]


def row(slide: str, name: str, equation: str, tolerance: float) -> Callable[[Callable[[], Pair]], Check]:
    """Make a function that returns both sides of one equation the check of it."""
    return lambda statement: Check(slide, (Line(name, equation, tolerance),), lambda: [statement()])


def rows(slide: str, *lines: Line) -> Callable[[Callable[[], Sequence[Pair]]], Check]:
    """Make a function that returns both sides of several equations, in order, the check of them."""
    return lambda statement: Check(slide, lines, statement)
