"""The endpoint rule against rational arithmetic: floats are rationals, so every answer here is exact."""

import math
import random
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from markovae.diffusion.forward import noise_scale, signal_scale, step_variance
from markovae.diffusion.schedule import (
    MAX_LEVELS,
    NO_SIGNAL,
    ConstantSigma,
    LogSNRLinear,
    NoiseSchedule,
    Tabulated,
    constant,
    cosine,
    endpoint_levels,
    endpoint_sigma,
    first_level_warning,
    from_betas,
    linear,
    scaled_linear,
    time,
    zero_terminal,
)


@given(st.floats(1e-3, 0.999), st.integers(1, 300))
def test_constant_sigma_has_one_variance_and_powers_of_alpha(sigma: float, levels: int) -> None:
    if levels * math.log1p(-(sigma**2)) < -600:
        levels = 1
    grid = ConstantSigma(sigma, levels).logsnr
    variance = step_variance(grid[:-1], grid[1:])
    torch.testing.assert_close(variance, torch.full_like(variance, sigma**2), rtol=1e-9, atol=0)
    ell = torch.arange(1, levels + 1).double()
    expected = (ell / 2 * math.log1p(-(sigma**2))).exp()
    torch.testing.assert_close(signal_scale(grid[1:]), expected, rtol=1e-9, atol=0)


def test_sigma_next_to_one_keeps_the_signal_that_is_left() -> None:
    sigma = math.nextafter(1.0, 0.0)
    kept = float(signal_scale(ConstantSigma(sigma, 1).logsnr[1])) ** 2
    assert kept == pytest.approx((1 - sigma) * (1 + sigma), rel=1e-12)


def test_constant_takes_two_of_three_and_finds_the_third() -> None:
    by_sigma = constant(sigma=0.1, delta=0.01)
    assert by_sigma.num_levels == endpoint_levels(0.1, 0.01)
    assert float(signal_scale(by_sigma.logsnr[-1])) < 0.01 < float(signal_scale(by_sigma.logsnr[-2]))
    by_levels = constant(num_levels=1000, delta=0.01)
    assert endpoint_levels(by_levels.sigma, 0.01) == 1000
    assert constant(sigma=0.3, num_levels=7).num_levels == 7
    for wrong in ({"sigma": 0.1}, {"sigma": 0.1, "delta": 0.1, "num_levels": 3}, {}):
        with pytest.raises(ValueError, match="two of sigma, delta and num_levels"):
            constant(**wrong)


@pytest.mark.parametrize("levels", [30, 1000])
def test_linear_and_any_betas_are_the_step_variances(levels: int) -> None:
    grid = linear(levels).logsnr
    betas = torch.linspace(1e-4, 0.02, levels, dtype=torch.float64) * 1000 / levels
    torch.testing.assert_close(step_variance(grid[:-1], grid[1:]), betas, rtol=1e-9, atol=0)


def test_scaled_linear_is_linear_in_the_root() -> None:
    grid = scaled_linear(100, 0.00085, 0.012).logsnr
    root = step_variance(grid[:-1], grid[1:]).sqrt()
    torch.testing.assert_close(
        root, torch.linspace(0.00085**0.5, 0.012**0.5, 100, dtype=torch.float64), rtol=1e-9, atol=0
    )


def test_a_last_beta_of_one_and_a_zero_terminal_schedule_leave_no_signal() -> None:
    """Both end at the log-SNR that stands for none; the rest keeps its proportions (Lin et al. 2024, algorithm 1)."""
    before = linear(50)
    for grid in (from_betas(torch.tensor([0.1, 0.5, 1.0])), zero_terminal(before), zero_terminal(cosine(50))):
        assert float(grid.logsnr[-1]) == NO_SIGNAL
        assert float(signal_scale(grid.logsnr[-1])) < 1e-20
        assert float(step_variance(grid.logsnr[-2], grid.logsnr[-1])) == 1
    after = zero_terminal(before)
    assert float(after.logsnr[1]) == pytest.approx(float(before.logsnr[1]), abs=1e-9)
    a, b = signal_scale(before.logsnr[1:]), signal_scale(after.logsnr[1:])
    torch.testing.assert_close(b.diff() / a.diff(), torch.full((49,), float(b.diff()[0] / a.diff()[0])).double())


def test_ho_et_al_end_where_their_paper_says() -> None:
    """KL(q(z_L|z_0) ‖ N(0, I)) ≈ 1e-5 bits/dim in their section 4; ā_1000 = 4.04e-5."""
    assert float(signal_scale(linear().logsnr[-1]) ** 2) == pytest.approx(4.04e-5, rel=1e-2)


def test_cosine_follows_its_square_until_beta_is_limited() -> None:
    grid = cosine(1000).logsnr
    t = torch.arange(1, 999).double() / 1000
    squared = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    torch.testing.assert_close(signal_scale(grid[1:999]) ** 2, squared, rtol=1e-9, atol=1e-12)
    assert float(step_variance(grid[-2], grid[-1])) == pytest.approx(0.999, rel=1e-9)


def test_log_snr_linear_keeps_both_ends_and_even_steps() -> None:
    grid = LogSNRLinear(5, 8.0, -4.0).logsnr
    assert grid.tolist() == [math.inf, 8.0, 5.0, 2.0, -1.0, -4.0]
    assert LogSNRLinear(1, 8.0, -4.0).logsnr.tolist() == [math.inf, -4.0]


def schedules() -> list[NoiseSchedule]:
    return [LogSNRLinear(50), ConstantSigma(0.2, 50), linear(50), cosine(50), Tabulated(torch.tensor([2.0, 0.5, -3.0]))]


@pytest.mark.parametrize("schedule", schedules(), ids=lambda s: type(s).__name__)
def test_levels_lie_on_the_decreasing_function(schedule: NoiseSchedule) -> None:
    grid, u = schedule.logsnr, torch.linspace(0.02, 1, 401, dtype=torch.float64)
    assert grid.dtype == torch.float64
    assert grid[0] == math.inf
    assert bool((schedule.at(u).diff() < 0).all())
    assert float(schedule.at(torch.ones(1))) == pytest.approx(float(grid[-1]), abs=1e-12)


@settings(max_examples=30)
@given(st.integers(2, 50))
def test_sub_grids_keep_the_first_and_the_last_level(count: int) -> None:
    schedule = LogSNRLinear(50)
    levels, grid = schedule.sublevels(count), schedule.subgrid(count).logsnr
    assert levels[0] == 1
    assert levels[-1] == 50
    assert len(set(levels.tolist())) == count
    assert int(levels.diff().max() - levels.diff().min()) <= 1
    assert torch.equal(grid[1:], schedule.logsnr[levels])


def test_one_level_is_the_last_and_more_than_there_are_is_refused() -> None:
    assert LogSNRLinear(50).subgrid(1).logsnr[1] == -10.0
    for wrong in (0, 51):
        with pytest.raises(ValueError, match="1…50"):
            LogSNRLinear(50).subgrid(wrong)


def test_between_the_entries_of_a_table_log_snr_is_linear() -> None:
    table = Tabulated(torch.tensor([3.0, 1.0, -5.0]))
    torch.testing.assert_close(
        table.at(torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])), torch.tensor([3.0, 2.0, 1.0, -2.0, -5.0]).double()
    )


@given(st.floats(-15, 15))
def test_time_is_minus_log_of_the_signal(value: float) -> None:
    level = torch.tensor(value, dtype=torch.float64)
    assert float(time(level)) == pytest.approx(-math.log(float(signal_scale(level))), rel=1e-9, abs=1e-15)
    t = time(level)
    assert float(noise_scale(level) ** 2) == pytest.approx(-math.expm1(-2 * float(t)), rel=1e-9)


class Rising(NoiseSchedule):
    def level_positions(self) -> torch.Tensor:
        return torch.linspace(0, 1, self.num_levels)

    def at(self, u: torch.Tensor) -> torch.Tensor:
        return u.double()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogSNRLinear(0), "num_levels=0 must be at least 1"),
        (lambda: LogSNRLinear(10, -1.0, 2.0), "start=-1 must exceed end=2"),
        (lambda: LogSNRLinear(10, math.inf, 2.0), "must fall"),
        (lambda: ConstantSigma(1.0, 5), r"sigma=1.0 must lie in \(0, 1\)"),
        (lambda: ConstantSigma(math.nan, 5), r"must lie in \(0, 1\)"),
        (lambda: from_betas(torch.tensor([1.0, 0.1])), "betas must lie"),
        (lambda: from_betas(torch.tensor([0.1, 0.0])), "betas must lie"),
        (lambda: zero_terminal(from_betas(torch.tensor([0.1]))), "use at least 2"),
        (lambda: linear(20), "use more than 20 levels"),
        (lambda: Tabulated(torch.tensor([math.inf, 0.0])), "level 0 alone is clean"),
        (lambda: Tabulated(torch.tensor([1.0, 1.0])), "level 2 does not lie below level 1"),
        (lambda: Tabulated(torch.tensor([1.0, 3.0])), "log-SNR must fall at every level"),
        (lambda: Tabulated(torch.tensor([2.0, 1.0, 1.5])), "level 3 does not lie below level 2"),
        (lambda: Rising(5).logsnr, "level 2 does not lie below level 1"),
        *[
            (lambda make=make, bad=bad: make(bad), f"num_levels={bad} must be at least 1")
            for make in (LogSNRLinear, linear, cosine, lambda n: ConstantSigma(0.5, n))
            for bad in (0, -1)
        ],
        (lambda: linear(2.5), r"num_levels=2\.5 must be a whole number"),
    ],
)
def test_what_is_no_schedule_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_blurred_first_level_is_told_with_its_cost() -> None:
    """Constant σ at L = 1000, δ = 0.01 blurs 12 grey levels: more than 5 bits/dim for a decoder that sees only z_1."""
    warning = first_level_warning(constant(num_levels=1000, delta=0.01), 1 / 255)
    assert warning is not None
    assert "blurs 12.3 grey levels" in warning
    assert "5.7 bits/dim" in warning
    assert first_level_warning(LogSNRLinear(), 1 / 255) is None


TOP = math.nextafter(1.0, 0.0)
TINY = math.nextafter(0.0, 1.0)


def below(sigma: float, delta: float, levels: int) -> bool:
    """α^L < δ, squared: integers only."""
    kept, limit = 1 - Fraction(sigma) ** 2, Fraction(delta) ** 2
    return kept.numerator**levels * limit.denominator < limit.numerator * kept.denominator**levels


def is_least(sigma: float, delta: float, levels: int) -> bool:
    return below(sigma, delta, levels) and (levels == 1 or not below(sigma, delta, levels - 1))


def test_two_thousand_random_pairs() -> None:
    rng = random.Random(0)
    for _ in range(2_000):
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
