"""What a row says, and when it passes."""

import math

import pytest

from markovae.theory.checks import CHECKS, check_all
from markovae.theory.rows import SLIDES, Check, Line, Row


def row(expected: float, measured: float, tolerance: float) -> Row:
    return Row("name", "slide", "a = b", expected, measured, tolerance)


def test_a_row_passes_within_its_tolerance_and_not_beyond() -> None:
    assert row(1.0, 1.5, 0.5).passed
    assert not row(1.0, 1.5000001, 0.5).passed
    assert row(3.0, 3.0, 0.0).passed


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_never_passes_and_is_null_in_json(bad: float) -> None:
    found = row(0.0, bad, 4.0)
    assert not found.passed
    assert found.to_dict()["measured"] is None
    assert found.to_dict()["pass"] is False


def test_a_check_tells_of_all_its_equations() -> None:
    check = Check("slide", (Line("a", "x = 1", 0.1), Line("b", "x = 2", 0.1)), lambda: [(1.0, 1.0), (2.0, 3.0)])
    assert [(r.name, r.slide, r.passed) for r in check_all([check])] == [("a", "slide", True), ("b", "slide", False)]


def test_a_check_with_too_few_numbers_is_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        Check("slide", (Line("a", "x", 0.1), Line("b", "y", 0.1)), lambda: [(1.0, 1.0)]).rows()


def test_names_are_unique_slides_in_order_and_tolerances_sharp() -> None:
    names = [line.name for check in CHECKS for line in check.lines]
    assert len(names) == len(set(names)) > 100
    order = [SLIDES.index(check.slide) for check in CHECKS]
    assert order == sorted(order)
    assert set(order) == set(range(len(SLIDES)))
    # Either an absolute few per cent of numbers of order one, or four standard errors.
    assert all(line.tolerance <= 0.04 or line.tolerance == 4 for check in CHECKS for line in check.lines)
