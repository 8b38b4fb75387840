import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from markovae.theory.quadrature import even_grid, extrapolated, gauss_legendre, normal_grid, slope

F64 = torch.float64


@given(st.integers(1, 12), st.floats(-3, 3), st.floats(0.1, 4))
def test_gauss_legendre_is_exact_to_degree_2n_minus_1(count, start, width):
    nodes, weights = gauss_legendre(start, start + width, count)
    degree = 2 * count - 1
    wanted = ((start + width) ** (degree + 1) - start ** (degree + 1)) / (degree + 1)
    assert float((weights * nodes**degree).sum()) == pytest.approx(wanted, rel=1e-10, abs=1e-9 * 7**degree)


def test_gauss_legendre_is_not_exact_beyond():
    nodes, weights = gauss_legendre(-1, 1, 3)
    assert abs(float((weights * nodes**6).sum()) - 2 / 7) > 1e-3


def test_even_grid_integrates_a_gaussian_to_rounding():
    start, end = torch.tensor([-10.0, -20.0], dtype=F64), torch.tensor([10.0, 20.0], dtype=F64)
    nodes, weights = even_grid(start, end, 101)
    assert nodes.shape == (2, 101)
    found = (weights * torch.exp(-0.5 * nodes**2)).sum(1)
    torch.testing.assert_close(found, torch.full((2,), math.sqrt(2 * math.pi), dtype=F64), rtol=1e-13, atol=0)


def test_normal_grid_has_the_moments_of_the_normal():
    nodes, weights = normal_grid()
    for power, wanted in ((0, 1), (1, 0), (2, 1), (4, 3), (6, 15)):
        assert float((weights * nodes**power).sum()) == pytest.approx(wanted, abs=1e-12)


@given(st.floats(-6, 6), st.floats(0.1, 10))
def test_slope_finds_the_power(power, factor):
    x = torch.tensor([1.0, 2.0, 5.0], dtype=F64)
    assert slope(x, factor * x**power) == pytest.approx(power, abs=1e-10)


def test_extrapolated_removes_the_leading_error():
    assert extrapolated(3 + 0.4, 3 + 0.2) == pytest.approx(3)
    assert extrapolated(3 + 0.4, 3 + 0.1, order=2) == pytest.approx(3)


def test_bad_input_is_told_in_a_sentence():
    one = torch.ones((), dtype=F64)
    with pytest.raises(ValueError, match="at least 2 nodes"):
        even_grid(one, one + 1, 1)
    with pytest.raises(ValueError, match="start < end"):
        even_grid(one, one, 9)
    with pytest.raises(ValueError, match="count=0"):
        gauss_legendre(0, 1, 0)
    with pytest.raises(ValueError, match="positive numbers"):
        slope(torch.ones(2), torch.zeros(2))
