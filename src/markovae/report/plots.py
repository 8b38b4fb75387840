"""Line plots as SVG text: no library, no script; colors are the page's, or its own where it stands alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

WIDTH, HEIGHT = 520, 290
LEFT, RIGHT, TOP, BOTTOM = 58, 22, 14, 46
LEGEND = 20
_FACTORS, _FINE = (1, 2, 5), (1, 1.5, 2, 3, 5, 7)
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_ALONE = """\
svg { background: #ffffff; font: 13px system-ui, "DejaVu Sans", sans-serif; }
text { fill: #5a6675; } .title { fill: #1c2430; }
.grid { stroke: #e1e5ea; }
.line { fill: none; stroke: #2f6fdb; stroke-width: 2; } .dot { fill: #2f6fdb; }
.faint { fill: none; stroke: #5a6675; stroke-dasharray: 4 4; } .band { fill: #2f6fdb33; }
.k1 .line { stroke: #c8553d; } .k1 .dot { fill: #c8553d; }
.k2 .line { stroke: #2a8c6a; } .k2 .dot { fill: #2a8c6a; }
.k3 .line { stroke: #8a5fb0; } .k3 .dot { fill: #8a5fb0; }
"""


@dataclass(frozen=True)
class Line:
    """One curve.

    Args:
        x, y: its points.
        error: half-heights of its error band, or None.
        faint: drawn behind the others.
        label: for the legend.
    """

    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float] | None = None
    faint: bool = False
    label: str = ""


@dataclass(frozen=True)
class Axis:
    """From data to the picture, linearly.

    Args:
        low, high: of the data.
        start, end: in the picture.
        logarithmic: the data are logarithms to base 10.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Where a value lies."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Four to eight round numbers within the data; powers of ten where it is logarithmic and spans two."""
        span = self.high - self.low
        if self.logarithmic and span < 2:
            decades = range(math.floor(self.low), math.ceil(self.high))
            rounds = [k + math.log10(f) for k in decades for f in (_FACTORS if span >= 1 else _FINE)]
            return [value for value in rounds if self.low <= value <= self.high]
        if self.logarithmic:
            step = math.ceil(span / 7)
            return [float(k) for k in range(math.ceil(self.low / step) * step, math.floor(self.high) + 1, step)]
        power = 10 ** math.floor(math.log10(span / 4))
        step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if span / (power * factor) <= 7)
        first = math.ceil(self.low / step - 1e-9)
        return [step * i for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def plot(
    lines: Sequence[Line],
    x_title: str,
    y_title: str,
    summary: str,
    falling: bool = False,
    log_x: bool = False,
    log_y: bool = False,
) -> str:
    """The curves in one frame, with a legend above it where they have labels.

    Args:
        summary: what is seen, for those who do not see it.
        falling: the x axis runs from high to low.
        log_x, log_y: a logarithmic axis, of positive numbers without error bands.
    """
    lines = [_logarithmic(line, log_x, log_y) for line in lines]
    x_all = [value for line in lines for value in line.x]
    lows = [y - e for line in lines for y, e in _with_errors(line) if not line.faint]
    highs = [y + e for line in lines for y, e in _with_errors(line) if not line.faint]
    x = Axis(*_room(x_all, 0), LEFT, WIDTH - RIGHT, log_x)
    x = Axis(x.low, x.high, x.end, x.start, log_x) if falling else x
    y = Axis(*_room(lows + highs, 0.06), HEIGHT - BOTTOM, TOP, log_y)
    kinds = {line.label: number for number, line in enumerate(line for line in lines if line.label and not line.faint)}
    parts = [_legend(list(kinds)), _frame(x, y, x_title, y_title)]
    for line in sorted(lines, key=lambda line: not line.faint):
        kind = kinds.get(line.label, 0)
        parts.append(f'<g class="k{kind}">{_curve(line, x, y)}</g>' if kind else _curve(line, x, y))
    above = LEGEND * math.ceil(len(kinds) / 2)
    box = f"0 {-above} {WIDTH} {HEIGHT + above}"
    return f'<svg viewBox="{box}" role="img" aria-label="{escape(summary)}">{"".join(parts)}</svg>'


def alone(svg: str) -> str:
    """A plot as a file of its own: its name space, its size and its colors."""
    left, top, width, height = svg.split('viewBox="', 1)[1].split('"', 1)[0].split()
    opened = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
    paper = f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="#ffffff"/>'
    head, body = svg.split(">", 1)
    return f"{head.replace('<svg', opened, 1)}><style>{_ALONE}</style>{paper}{body}\n"


def _logarithmic(line: Line, log_x: bool, log_y: bool) -> Line:
    x = [math.log10(value) for value in line.x] if log_x else line.x
    return replace(line, x=x, y=[math.log10(value) for value in line.y] if log_y else line.y)


def _legend(labels: Sequence[str]) -> str:
    """Two labels a row, above the frame."""
    parts = []
    for number, label in enumerate(labels):
        x = LEFT + (number % 2) * (WIDTH - LEFT) / 2
        y = TOP - LEGEND * ((len(labels) + 1) // 2 - number // 2) + 4
        mark = f'<line class="line" x1="{x}" x2="{x + 22}" y1="{y}" y2="{y}"/>'
        parts.append(f'<g class="k{number}">{mark}<text x="{x + 29}" y="{y + 4}">{escape(label)}</text></g>')
    return "".join(parts)


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
        parts.append(f'<text x="{at:.1f}" y="{bottom + 17}" text-anchor="middle">{_tick(value, x)}</text>')
    for value in y.ticks():
        at = y.at(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{_tick(value, y)}</text>')
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


def _tick(value: float, axis: Axis) -> str:
    if not axis.logarithmic:
        return _number(value)
    if value == round(value) and abs(value) >= 3:
        return "10" + str(round(value)).translate(_RAISED)
    return _number(float(f"{10**value:.6g}"))


def _number(value: float) -> str:
    if value and abs(value) < 1e-12:
        value = 0.0
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}"
    return text.replace("-", "−")
