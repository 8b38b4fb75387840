"""What the sections of docs/results.md are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Args:
        text: Markdown, from its heading on.   pictures: SVG by file name, in docs/results/.
    """

    text: str
    pictures: Mapping[str, str] = field(default_factory=dict)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, with the first column to the left and the others to the right."""
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows)) + "\n"


def plus_minus(figure: Mapping[str, Any], digits: int) -> str:
    """mean ± stderr."""
    return f"{figure['mean']:.{digits}f} ± {figure['stderr']:.{digits}f}".replace("-", "−")


def percents(figure: Mapping[str, float], digits: int = 1) -> str:
    """mean ± stderr of shares, in per cent."""
    return plus_minus({name: 100 * figure[name] for name in ("mean", "stderr")}, digits) + " %"


def share(figure: Mapping[str, float], n: int, digits: int = 1) -> str:
    """A share of n; where all or none are right there is no spread to take an error from."""
    if figure["stderr"] == 0 and figure["mean"] in (0, 1):
        return f"{'all' if figure['mean'] else 'none'} of {n:,}"
    return percents(figure, digits)


def percent(share: float, digits: int = 1) -> str:
    """A share in per cent."""
    return f"{100 * share:.{digits}f} %".replace("-", "−")


def signed(value: float, digits: int) -> str:
    """A number with a true minus sign."""
    return f"{value:.{digits}f}".replace("-", "−")
