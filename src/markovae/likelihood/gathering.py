"""The draws of several processes as one table, in which every draw stands where one process would have put it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from markovae.likelihood.estimators import Drawn
from markovae.likelihood.tasks import Task


def to_table(drawn: Iterable[Drawn], total: int) -> Tensor:
    """The draws of one process in their places, zeros in those of the others, (4, total), float64.

    The tables of all processes add up to the table of all draws, to the last bit.
    """
    table = torch.zeros(4, total, dtype=torch.float64)
    for one in drawn:
        inside = slice(one.begin, one.begin + len(one.task))
        opening = _opening(one.task)
        table[0, inside], table[1, inside] = one.nats, one.counted
        table[2, inside][opening], table[3, inside][opening] = one.prior.double(), one.known.double()
    return table


def from_table(table: Tensor, task: Task) -> Drawn:
    """All the draws of `task`, as if one process had made them in one batch."""
    opening = _opening(task)
    return Drawn(task, table[0], table[1], table[2][opening], table[3][opening], len(task))


def _opening(task: Task) -> Tensor:
    """Which draws are the first of their image, with which its closed-form terms are kept, (B,), bool."""
    return (task.level == 1) & (task.replicate == 0)
