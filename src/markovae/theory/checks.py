"""The derivation's checks: every equation computed on both sides, one row each, without training."""

from collections.abc import Iterator, Sequence

from markovae.theory import check_chains as chains
from markovae.theory import check_decoding as decoding
from markovae.theory import check_gaps as gaps
from markovae.theory import check_limit as limit
from markovae.theory import check_steps as steps
from markovae.theory import check_targets as targets
from markovae.theory.rows import SLIDES, Check, Row

_ALL = (*chains.CHECKS, *steps.CHECKS, *limit.CHECKS, *targets.CHECKS, *decoding.CHECKS, *gaps.CHECKS)
CHECKS = tuple(sorted(_ALL, key=lambda check: SLIDES.index(check.slide)))
"""Every check, slide by slide."""


def check_all(checks: Sequence[Check] = CHECKS) -> Iterator[Row]:
    """The rows, each as soon as it is known; in the order of the lecture."""
    for check in checks:
        yield from check.rows()
