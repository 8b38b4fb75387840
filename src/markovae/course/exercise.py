"""What an exercise is: a task in words, random inputs, the library's own answer, and the usual mistakes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from markovae.randomness import generator

Answer = Callable[..., Any]


@dataclass(frozen=True)
class Mistake:
    """A wrong answer that people give, and what to tell them.

    Args:
        words: what is wrong, as an end of "check failed: …".
        answer: the function that makes this mistake.
    """

    words: str
    answer: Answer


@dataclass(frozen=True)
class Exercise:
    """A function to fill in.

    Args:
        name: of the function.
        chapter: of the course, from 1.
        arguments: its arguments, as in a `def`.
        task: what it returns, with shapes and units.
        draw: random arguments from a `Draw`.
        answer: the library's own.
        mistakes: the usual ones, commonest first.
    """

    name: str
    chapter: int
    arguments: str
    task: str
    draw: Callable[[Draw], tuple[Any, ...]]
    answer: Answer
    mistakes: tuple[Mistake, ...] = ()

    def inputs(self, trial: int) -> tuple[Any, ...]:
        """The arguments of a trial, the same in every process."""
        return self.draw(Draw(generator(trial, "exercise", self.name)))

    @property
    def signature(self) -> str:
        """`name(arguments)`."""
        return f"{self.name}({self.arguments})"


class Draw:
    """Random arguments, float64, from one generator."""

    def __init__(self, source: torch.Generator) -> None:
        self.source = source

    def normal(self, *shape: int) -> Tensor:
        """N(0, 1), of this shape."""
        return torch.randn(shape, generator=self.source, dtype=torch.float64)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform in [low, high), of this shape."""
        return low + (high - low) * torch.rand(shape, generator=self.source, dtype=torch.float64)

    def number(self, low: float, high: float) -> float:
        """A Python number, uniform in [low, high)."""
        return float(self.uniform(low, high))

    def whole(self, low: int, high: int) -> int:
        """A Python integer in low…high−1."""
        return int(torch.randint(low, high, (), generator=self.source))

    def falling_logsnr(self, count: int = 2) -> tuple[Tensor, ...]:
        """`count` log-SNRs, each below the one before, between 6 and −6; scalars."""
        return tuple(self.uniform(-6, 6, count).sort(descending=True).values.unbind())

    def distribution(self, *shape: int) -> Tensor:
        """Probabilities that sum to one along the last axis, none below a few per cent."""
        weights = self.uniform(0.1, 1, *shape)
        return weights / weights.sum(-1, keepdim=True)
