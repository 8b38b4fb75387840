"""Gaussians on whole numbers: exact functions against arbitrary precision, and probabilities of the right shape."""

import math

import mpmath
import numpy as np
import pytest

from markovae.compression.lattice import LatticeGaussian, RoundedGaussian, exact_exp, exact_normal_cdf


def test_the_exponential_and_the_normal_distribution_are_right_to_float64():
    rng = np.random.default_rng(0)
    with mpmath.workdps(40):
        x = -rng.uniform(0, 60, 100)
        wrong = [
            abs(float(mpmath.mpf(a) / mpmath.exp(mpmath.mpf(b)) - 1)) for a, b in zip(exact_exp(x), x, strict=True)
        ]
        assert max(wrong) < 4e-16
        x = rng.uniform(-9, 9, 100)
        cdf = exact_normal_cdf(x)
        assert max(abs(float(mpmath.mpf(a) - mpmath.ncdf(mpmath.mpf(b)))) for a, b in zip(cdf, x, strict=True)) < 2e-15
    assert exact_exp(np.array([0.0, -800.0])).tolist() == [1.0, 0.0]
    assert exact_normal_cdf(np.array([-99.0, 0.0, 99.0])).tolist() == [0.0, 0.5, 1.0]


def rows(law, mean: np.ndarray, doublings: int = 0) -> np.ndarray:
    made = np.concatenate([chances for _, chances in law.pieces(mean, doublings)])
    return made / made.sum(1, keepdims=True)


@pytest.mark.parametrize("std", [0.02, 0.57, 1.0, 7.0])
def test_a_lattice_gaussian_has_the_gaussians_shape(std: float):
    mean = np.array([-3.3, 0.0, 0.49, 1e6 + 0.25])
    law = LatticeGaussian(std)
    each = LatticeGaussian(np.full(4, std))
    values = law.centres(mean)[:, None] + np.arange(-law.half(0), law.half(0) + 1)
    log = -((values - mean[:, None]) ** 2) / (2 * std**2)
    exact = np.exp(log - log.max(1, keepdims=True))
    exact /= exact.sum(1, keepdims=True)
    assert np.allclose(rows(each, mean), exact, atol=1e-12)
    assert np.allclose(rows(law, mean), exact, atol=2e-3), "means rounded to 1/128 of the deviation"
    cost = (exact * (np.log(exact + 1e-300) - np.log(rows(law, mean) + 1e-300))).sum(1)
    assert float(cost.max()) < 3e-5
    assert rows(law, mean, 2).shape[1] == 2 * law.half(2) + 1


def test_a_rounded_gaussian_has_the_decoders_probabilities():
    law, mean = RoundedGaussian(0.7, 16), np.array([-2.0, 0.2, 7.5, 15.3])
    values = law.centres(mean)[:, None] + np.arange(-law.half(0), law.half(0) + 1)
    upper = [[math.erf((k + 0.5 - m) / 0.7 / math.sqrt(2)) / 2 + 0.5 for k in row] for m, row in zip(mean, values)]  # noqa: B905
    upper = np.where(values >= 15, 1.0, np.where(values < 0, 0.0, np.array(upper)))
    lower = np.concatenate([np.zeros((4, 1)), upper[:, :-1]], 1)
    assert np.allclose(rows(law, mean)[1:], (upper - lower)[1:], atol=5e-3)
    assert not rows(law, mean)[(values < 0) | (values > 15)].any()


def test_a_lattice_gaussian_of_some_values_has_no_others():
    law, mean = LatticeGaussian(2.0, bins=4), np.array([-1.0, 0.2, 9.0])
    values = law.centres(mean)[:, None] + np.arange(-law.half(0), law.half(0) + 1)
    assert not rows(law, mean)[(values < 0) | (values > 3)].any()


def test_the_cost_of_a_grid_is_what_poissons_formula_says():
    """Σ_k N(k; m, σ²) = 1 + 2 exp(−2π²σ²) cos 2πm + …: hence a grid of 1.75 standard deviations."""
    for std in (0.4, 1 / 1.75, 1.0):
        for mean in (0.0, 0.3, 0.5):
            k = np.arange(-40, 41)
            total = (np.exp(-((k - mean) ** 2) / (2 * std**2)) / (std * math.sqrt(2 * math.pi))).sum()
            assert total - 1 == pytest.approx(
                2 * math.exp(-2 * (math.pi * std) ** 2) * math.cos(2 * math.pi * mean), abs=2e-5
            )
