"""What a step of training says of itself, and why one is not taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from markovae.errors import StoppedRun
from markovae.training.batches import Roster


class NonFiniteError(StoppedRun):
    """A loss, gradient or weight that is no number: raised before the optimiser and the average see it."""


@dataclass(frozen=True)
class Step:
    """What one step of training did.

    Args:
        index: steps done, this one included.   total: steps of the run, None while it is not fixed.
        images_seen: so far.
        loss: weighted mean squared error of the target, per dim; with objective=bound, nats per dim in a fixed unit.
        nats: unbiased estimate of the levels' terms of the bound with variance β̃, per image, from this batch.
        lr: rate of the first group.   grad_norm: of the gradient before clipping.
        seconds: of the run so far.   images_per_second: of this step.
    """

    index: int
    total: int | None
    images_seen: int
    loss: float
    nats: float
    lr: float
    grad_norm: float
    seconds: float
    images_per_second: float


def not_taken(what: str, step: int, roster: Roster, bad: Tensor | None = None) -> NonFiniteError:
    """The error for step number `step`; `bad` tells which of its examples to name, (B,), all where it is None."""
    bad = torch.ones(len(roster.example), dtype=torch.bool) if bad is None else bad
    levels, examples = roster.level[bad].tolist(), roster.example[bad].tolist()
    return NonFiniteError(
        f"{what} at step {step}, levels {listed(levels)}, training images {listed(examples)}: the step was not taken"
    )


def unfinite(table: Mapping[str, Tensor]) -> list[str]:
    """The names of those that hold a number that is none."""
    return [name for name, value in table.items() if not bool(value.isfinite().all())]


def listed(items: Sequence[object]) -> str:
    """The first eight, and how many more there are."""
    return ", ".join(str(item) for item in items[:8]) + (f" and {len(items) - 8} more" if len(items) > 8 else "")
