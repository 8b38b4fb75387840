"""The endpoint rule against rational arithmetic: floats are rationals, so every answer here is exact."""

import math
import random
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from markovae.diffusion.schedule import MAX_LEVELS, endpoint_levels, endpoint_sigma

TOP = math.nextafter(1.0, 0.0)
TINY = math.nextafter(0.0, 1.0)


def below(sigma: float, delta: float, levels: int) -> bool:
    """α^L < δ, squared: integers only."""
    kept, limit = 1 - Fraction(sigma) ** 2, Fraction(delta) ** 2
    return kept.numerator**levels * limit.denominator < limit.numerator * kept.denominator**levels


def is_least(sigma: float, delta: float, levels: int) -> bool:
    return below(sigma, delta, levels) and (levels == 1 or not below(sigma, delta, levels - 1))


def test_ten_thousand_random_pairs() -> None:
    rng = random.Random(0)
    for _ in range(10_000):
        sigma = rng.uniform(0.15, 0.999)
        delta = rng.random() ** rng.choice([1, 4]) or 0.5
        assert is_least(sigma, delta, endpoint_levels(sigma, delta)), (sigma, delta)


def test_limits_one_float_to_either_side_of_a_power() -> None:
    rng = random.Random(1)
    for _ in range(500):
        sigma, levels = rng.uniform(0.1, 0.9), rng.randint(1, 60)
        power = math.sqrt(1 - sigma**2) ** levels
        for delta in (math.nextafter(power, 0.0), power, math.nextafter(power, 1.0)):
            assert is_least(sigma, delta, endpoint_levels(sigma, delta)), (sigma, delta)


def ties() -> list[tuple[float, float, int]]:
    """(σ, δ, L) with α^L = δ exactly: 1−σ² = (p/2^k)², or L even."""
    cases = [(0.5, 0.75, 2), (0.5, 0.5625, 4), (0.75, 0.4375, 2), (0.25, 0.9375, 2), (0.125, 63 / 64, 2)]
    cases += [(0.5, 0.75**n, 2 * n) for n in range(1, 21)]
    return [case for case in cases if (1 - Fraction(case[0]) ** 2) ** case[2] == Fraction(case[1]) ** 2]


def test_constructed_ties_take_one_level_more() -> None:
    cases = ties()
    assert len(cases) >= 20
    assert endpoint_levels(0.5, 0.75) == 3
    for sigma, delta, levels in cases:
        assert endpoint_levels(sigma, delta) == levels + 1
        assert endpoint_levels(sigma, math.nextafter(delta, 1.0)) == levels
        assert endpoint_levels(sigma, math.nextafter(delta, 0.0)) == levels + 1


@pytest.mark.parametrize(
    ("sigma", "delta"),
    [(TOP, 0.5), (TOP, TINY), (TOP, TOP), (0.5, TINY), (0.5, TOP), (1e-8, TOP), (0.9, 5e-300)],
)
def test_extremes(sigma: float, delta: float) -> None:
    assert is_least(sigma, delta, endpoint_levels(sigma, delta))


def test_more_levels_than_the_maximum_are_refused_with_the_number() -> None:
    with pytest.raises(ValueError, match="more than 1000000 levels"):
        endpoint_levels(1e-4, 0.01)
    for sigma in (TINY, 1e-200, 1e-9):
        with pytest.raises(ValueError, match="raise sigma or delta"):
            endpoint_levels(sigma, 0.5)


@pytest.mark.parametrize("bad", [0.0, 1.0, -0.1, 1.5, math.inf, math.nan])
def test_outside_the_unit_interval(bad: float) -> None:
    with pytest.raises(ValueError, match=r"sigma=.* must lie in \(0, 1\)"):
        endpoint_levels(bad, 0.5)
    with pytest.raises(ValueError, match=r"delta=.* must lie in \(0, 1\)"):
        endpoint_levels(0.5, bad)
    with pytest.raises(ValueError, match=r"delta=.* must lie in \(0, 1\)"):
        endpoint_sigma(3, bad)


@given(st.integers(1, 400), st.floats(1e-6, 0.999))
def test_sigma_is_the_smallest_float_that_gives_its_levels(levels: int, delta: float) -> None:
    sigma = endpoint_sigma(levels, delta)
    assert is_least(sigma, delta, levels)
    assert not below(math.nextafter(sigma, 0.0), delta, levels)


def test_sigma_of_the_lecture() -> None:
    sigma = endpoint_sigma(1000, 0.01)
    assert endpoint_levels(sigma, 0.01) == 1000
    assert endpoint_levels(math.nextafter(sigma, 0.0), 0.01) == 1001
    assert sigma == pytest.approx(math.sqrt(1 - 0.01 ** (2 / 1000)), rel=1e-12)


def test_sigma_at_the_ends_of_its_range() -> None:
    assert endpoint_levels(endpoint_sigma(MAX_LEVELS, 0.5), 0.5) == MAX_LEVELS
    for levels in (0, -1, MAX_LEVELS + 1):
        with pytest.raises(ValueError, match="num_levels="):
            endpoint_sigma(levels, 0.5)
    with pytest.raises(ValueError, match="no float64 sigma"):
        endpoint_sigma(1, 1e-9)
    with pytest.raises(ValueError, match="no float64 sigma"):
        endpoint_sigma(2, TINY)


def test_numbers_of_other_libraries_are_taken_as_they_are() -> None:
    """Single precision is exact in double: no rounding of its own is added."""
    assert endpoint_levels(np.float32(0.5), np.float64(0.75)) == 3
    assert endpoint_levels(torch.tensor(0.5), torch.tensor(0.75)) == 3
    assert endpoint_sigma(3, torch.tensor(0.75, dtype=torch.float64)) == endpoint_sigma(3, 0.75)


@pytest.mark.parametrize("levels", [2.5, math.nan, math.inf])
def test_half_a_level_is_refused(levels: float) -> None:
    with pytest.raises(ValueError, match="must be a whole number in 1…1000000"):
        endpoint_sigma(levels, 0.5)  # type: ignore[arg-type]
