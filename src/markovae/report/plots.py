"""Line plots as SVG text: no library, no script; colours are the page's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 520, 290
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 14, 46


@dataclass(frozen=True)
class Line:
    """One curve.

    Args:
        x, y: its points.   error: half-heights of its error band, or None.   faint: drawn behind the others.
    """

    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float] | None = None
    faint: bool = False


@dataclass(frozen=True)
class Axis:
    """From data to the picture, linearly.

    Args:
        low, high: of the data.   start, end: in the picture.
    """

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Where a value lies."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Four to eight round numbers within the data."""
        span = self.high - self.low
        power = 10 ** math.floor(math.log10(span / 4))
        step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if span / (power * factor) <= 7)
        first = math.ceil(self.low / step - 1e-9)
        return [step * i for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def plot(lines: Sequence[Line], x_title: str, y_title: str, summary: str, falling: bool = False) -> str:
    """The curves in one frame.

    Args:
        summary: what is seen, for those who do not see it.   falling: the x axis runs from high to low.
    """
    x_all = [value for line in lines for value in line.x]
    lows = [y - e for line in lines for y, e in _with_errors(line) if not line.faint]
    highs = [y + e for line in lines for y, e in _with_errors(line) if not line.faint]
    x = Axis(*_room(x_all, 0), LEFT, WIDTH - RIGHT)
    x = Axis(x.low, x.high, x.end, x.start) if falling else x
    y = Axis(*_room(lows + highs, 0.06), HEIGHT - BOTTOM, TOP)
    parts = [_frame(x, y, x_title, y_title)]
    parts += [_curve(line, x, y) for line in sorted(lines, key=lambda line: not line.faint)]
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(summary)}">{"".join(parts)}</svg>'


def _with_errors(line: Line) -> list[tuple[float, float]]:
    return list(zip(line.y, line.error or [0.0] * len(line.y), strict=True))


def _room(values: Sequence[float], margin: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    span = high - low or max(abs(high), 1.0) * 0.1
    return (low - margin * span, high + margin * span) if high > low else (low - span, high + span)


def _frame(x: Axis, y: Axis, x_title: str, y_title: str) -> str:
    bottom, parts = HEIGHT - BOTTOM, []
    for value in x.ticks():
        at = x.at(value)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 17}" text-anchor="middle">{_number(value)}</text>')
    for value in y.ticks():
        at = y.at(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{_number(value)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="title" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_title)}</text>')
    centre = (TOP + bottom) / 2
    parts.append(
        f'<text class="title" x="14" y="{centre}" text-anchor="middle" '
        f'transform="rotate(-90 14 {centre})">{escape(y_title)}</text>'
    )
    return "".join(parts)


def _curve(line: Line, x: Axis, y: Axis) -> str:
    points = [(x.at(a), y.at(b)) for a, b in zip(line.x, line.y, strict=True)]
    kind = "faint" if line.faint else "line"
    parts = []
    if line.error is not None:
        upper = [(x.at(a), y.at(b + e)) for a, b, e in zip(line.x, line.y, line.error, strict=True)]
        lower = [(x.at(a), y.at(b - e)) for a, b, e in zip(line.x, line.y, line.error, strict=True)]
        parts.append(f'<polygon class="band" points="{_joined(upper + lower[::-1])}"/>')
    parts.append(f'<polyline class="{kind}" points="{_joined(points)}"/>')
    if len(points) <= 30 and not line.faint:
        parts += [f'<circle class="dot" cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in points]
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    # An inner svg cuts off what leaves the frame.
    place = f'x="{LEFT}" y="{TOP}" width="{width}" height="{height}" viewBox="{LEFT} {TOP} {width} {height}"'
    return f"<svg {place}>{''.join(parts)}</svg>"


def _joined(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in points)


def _number(value: float) -> str:
    if value and abs(value) < 1e-12:
        value = 0.0
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}"
    return text.replace("-", "−")
