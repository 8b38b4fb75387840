import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from markovae.report.plots import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, Line, alone, plot

SPANS = st.floats(1e-6, 1e6)


def points(svg: str, kind: str) -> list[tuple[float, float]]:
    (found,) = re.findall(rf'<poly(?:line|gon) class="{kind}" points="([^"]*)"', svg)
    return [tuple(map(float, pair.split(","))) for pair in found.split()]


@given(st.floats(-1e4, 1e4), SPANS)
def test_ticks_are_few_round_and_within(low: float, span: float):
    axis = Axis(low, low + span, 0, 100)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 9
    slack = 1e-6 * span + 1e-9 * abs(low)
    assert all(low - slack <= tick <= low + span + slack for tick in ticks)
    step = ticks[1] - ticks[0]
    digits = step / 10 ** math.floor(math.log10(step) + 1e-6)
    assert min(abs(digits - round_one) for round_one in (1, 2, 2.5, 5, 10)) < 1e-3 + 1e-6 * abs(low) / step


def test_a_curve_lies_where_its_numbers_say():
    svg = plot([Line([0, 1, 2], [5.0, 6.0, 9.0], [0.0, 0.0, 0.5])], "step", "loss", "a curve")
    (x0, y0), (x1, y1), (x2, y2) = points(svg, "line")
    assert (x0, x1, x2) == pytest.approx((LEFT, (LEFT + WIDTH - RIGHT) / 2, WIDTH - RIGHT), abs=0.1)
    assert (y0 - y1) * 3 == pytest.approx(y1 - y2, abs=0.3), "up is more, in proportion"
    assert all(TOP <= y <= HEIGHT - BOTTOM for _, y in points(svg, "band"))


def test_a_falling_axis_runs_from_high_to_low():
    svg = plot([Line([-2.0, 3.0], [1.0, 2.0])], "λ", "nats", "levels", falling=True)
    (low, _), (high, _) = points(svg, "line")
    assert high < low


@pytest.mark.parametrize(
    "line",
    [Line([3], [4.0]), Line([1, 2], [0.0, 0.0]), Line([5, 5], [1.0, 2.0]), Line([1, 2], [1e-9, 2e9], [1.0, 2.0])],
)
def test_any_curve_is_a_well_formed_picture(line: Line):
    svg = plot([line], "x < y & z", 'a "y"', "<what is seen>")
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == "<what is seen>"
    assert "x < y & z" in {text.text for text in root.iter("text")}
    assert "nan" not in svg
    assert "inf" not in svg


def test_faint_lines_do_not_stretch_the_frame():
    plain = plot([Line([0, 1], [1.0, 2.0])], "x", "y", "s")
    both = plot([Line([0, 1], [1.0, 2.0]), Line([0, 1], [-50.0, 50.0], faint=True)], "x", "y", "s")
    assert points(plain, "line") == points(both, "line")


def texts(svg: str) -> set[str | None]:
    return {text.text for text in ElementTree.fromstring(svg).iter() if text.tag.endswith("text")}


def test_powers_are_straight_on_logarithmic_axes():
    x = [1.0, 10.0, 100.0, 1000.0]
    svg = plot([Line(x, [v**-2 for v in x])], "L", "gap", "a power", log_x=True, log_y=True)
    rises = [(y1 - y0) / (x1 - x0) for (x0, y0), (x1, y1) in pairwise(points(svg, "line"))]
    assert rises == pytest.approx([rises[0]] * 3, rel=1e-2)
    assert {"1", "10", "100", "10³", "10⁻⁴", "10⁻⁶"} <= texts(svg)


@given(st.floats(-8, 8), st.floats(0.35, 15))
def test_logarithmic_ticks_are_few_and_within(low: float, span: float):
    ticks = Axis(low, low + span, 0, 100, True).ticks()
    assert 1 <= len(ticks) <= 8
    assert all(low - 1e-9 <= tick <= low + span + 1e-9 for tick in ticks)


def test_labels_stand_above_the_frame_in_the_colours_of_their_lines():
    lines = [Line([0, 1], [1.0, 2.0], label="one"), Line([0, 1], [2.0, 3.0], label="two")]
    svg = plot([*lines, Line([0, 1], [1.0, 1.0], faint=True)], "x", "y", "s")
    assert {"one", "two"} <= texts(svg)
    root = ElementTree.fromstring(svg)
    assert float(root.get("viewBox", "").split()[1]) < 0
    assert [g.get("class") for g in root.iter("g")] == ["k0", "k1", "k1"]
    assert len(re.findall('class="line" points', svg)) == 2


def test_a_plot_alone_has_its_own_colours_and_size():
    root = ElementTree.fromstring(alone(plot([Line([0, 1], [1.0, 2.0])], "x", "y", "s")))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert (root.get("width"), root.get("height")) == (str(WIDTH), str(HEIGHT))
    assert ".line" in "".join(style.text or "" for style in root.iter("{http://www.w3.org/2000/svg}style"))
