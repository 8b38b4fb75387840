"""The derivation's checks: every equation computed on both sides, one row each, without training."""

from collections.abc import Iterator, Sequence

from markovae.verify import chains, decoding, laws, limit, steps, targets
from markovae.verify.row import Check, Line, Row
from markovae.verify.slides import SLIDES

__all__ = ["CHECKS", "Check", "Line", "Row", "check_all"]

_ALL = (*chains.CHECKS, *steps.CHECKS, *limit.CHECKS, *targets.CHECKS, *decoding.CHECKS, *laws.CHECKS)
CHECKS = tuple(sorted(_ALL, key=lambda check: SLIDES.index(check.slide)))
"""Every check, slide by slide."""


def check_all(checks: Sequence[Check] = CHECKS) -> Iterator[Row]:
    """The rows, each as soon as it is known; in the order of the lecture."""
    for check in checks:
        yield from check.rows()
