import math

import pytest
import torch

from markovae.diffusion.bound import Bound, Estimate, estimate_mean, student_quantile
from markovae.randomness import generator


def bound(batch: int, dims: int = 4, levels: int = 3, discrete: bool = True) -> Bound:
    draws = torch.rand(batch, levels + 2, generator=generator(batch, "bound"), dtype=torch.float64)
    return Bound(draws[:, 0], draws[:, 2:], draws[:, 1], dims, discrete)


def test_the_total_is_the_sum_of_the_terms_and_bits_are_nats_over_dims_and_ln_two() -> None:
    one = bound(7)
    expected = one.prior + one.levels[:, 0] + one.levels[:, 1] + one.levels[:, 2] + one.reconstruction
    torch.testing.assert_close(one.total, expected)
    assert one.mean().value == pytest.approx(float(expected.mean()))
    assert one.bits_per_dim().value == pytest.approx(float(expected.mean()) / 4 / math.log(2))
    assert one.bits_per_dim().stderr == pytest.approx(one.mean().stderr / 4 / math.log(2))


def test_a_densitys_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="bin width"):
        bound(3, discrete=False).bits_per_dim()


def test_a_mean_covers_the_truth_as_often_as_it_says() -> None:
    for n in (2, 4, 50):
        draws = torch.randn(2000, n, generator=generator(n, "cover"), dtype=torch.float64)
        inside = [low < 0 < high for low, high in (estimate_mean(row).ci95 for row in draws)]
        assert abs(sum(inside) / 2000 - 0.95) < 4 * (0.95 * 0.05 / 2000) ** 0.5


def test_an_estimate_in_another_unit_keeps_its_interval() -> None:
    one = estimate_mean(torch.tensor([1.0, 2.0, 4.0]))
    assert one.scaled(2.0).ci95 == pytest.approx([2 * end for end in one.ci95])
    assert all(math.isnan(end) for end in estimate_mean(torch.ones(1)).ci95)


def test_one_value_has_no_standard_error_and_none_has_no_mean() -> None:
    assert math.isnan(estimate_mean(torch.tensor([2.0])).stderr)
    with pytest.raises(ValueError, match="at least one value"):
        estimate_mean(torch.zeros(0))
    assert str(Estimate(1.23456, 0.01)) == "1.2346 ± 0.0100"


def test_values_that_carry_gradients_are_measured_all_the_same() -> None:
    assert estimate_mean(torch.tensor([1.0, 3.0], requires_grad=True)).value == 2


def test_quantiles_against_their_closed_forms_and_tables() -> None:
    assert student_quantile(1) == pytest.approx(math.tan(0.475 * math.pi), rel=1e-9)
    assert student_quantile(2) == pytest.approx(0.95 * math.sqrt(2 / (1 - 0.95**2)), rel=1e-9)
    # Abramowitz & Stegun 1964, table 26.10.
    for dof, quantile in ((3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042), (120, 1.980)):
        assert student_quantile(dof) == pytest.approx(quantile, abs=5.1e-4)
    assert student_quantile(math.inf) == pytest.approx(1.959964, abs=1e-5)
    assert 3.182 < student_quantile(2.5) < 4.303
    with pytest.raises(ValueError, match="at least 1"):
        student_quantile(0.5)
