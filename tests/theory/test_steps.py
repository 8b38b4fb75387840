"""One true reverse step becomes Gaussian: orders 2, 4 and 6 in σ."""

import mpmath
import pytest
import torch

from markovae.diffusion.forward import posterior_coefficients, posterior_variance, step_variance
from markovae.theory import gap_statements as statements
from markovae.theory.gaps import kl_to_normal, logsnr_before, step_divergences
from markovae.theory.mixture import Mixture

F64 = torch.float64


def test_orders_are_two_four_and_six():
    for expected, measured in statements.step_orders():
        assert measured == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("logsnr", [-1.0, 1.0])
def test_leading_terms_are_the_closed_ones(logsnr):
    for expected, measured in statements.step_constants(logsnr):
        assert measured == pytest.approx(expected, abs=5e-3)


def test_orders_hold_at_another_level():
    for expected, measured in statements.step_orders(-1.0):
        assert measured == pytest.approx(expected, abs=0.02)


def test_logsnr_before_is_one_step_of_sigma():
    now = torch.tensor(0.7, dtype=F64)
    assert float(step_variance(logsnr_before(now, 0.3), now)) == pytest.approx(0.09, rel=1e-12)


def test_a_gaussian_is_a_gaussian_at_any_sigma():
    found = step_divergences(Mixture.line([1.0], [0.2], [0.7]), torch.tensor(0.5, dtype=F64), 0.3)
    assert float(found[2]) == pytest.approx(0, abs=1e-15)
    assert float(found[1]) > 1e-6


def test_divergences_agree_with_forty_digits():
    """KL of a step to N(μ, v) is near 1e-9 here: float64 keeps six digits of it."""
    toy, lam, sigma = statements.line_mixture(), torch.tensor(1.0, dtype=F64), 0.05
    before = logsnr_before(lam, sigma)
    z = torch.tensor([[-1.5], [-0.3], [0.4], [1.2]], dtype=F64)
    c_z, c_x = posterior_coefficients(before, lam)
    law = toy.law(4).posterior(z, lam.expand(4))
    step = law.blurred(c_z * z, c_x.expand(4), posterior_variance(before, lam).expand(4))
    found = kl_to_normal(step, step.mean(), step.covariance()[:, :, 0])
    for i in range(4):
        rows = [values[i].flatten().tolist() for values in (step.log_weights, step.means, step.variances)]
        with mpmath.workdps(40):
            wanted = float(_precise_kl(*rows))
        assert wanted < 1e-7
        assert float(found[i]) == pytest.approx(wanted, rel=1e-6, abs=0)


@pytest.mark.parametrize("excess", [1e-5, 1e-4, 1e-2, 0.3])
def test_divergence_of_two_normals_is_closed(excess):
    # ln P/Q crosses from the series of φ to φ itself within this range.
    law = Mixture.line([1.0], [0.0], [(1 + excess) ** 0.5]).law(1)
    one = torch.ones(1, 1, dtype=F64)
    with mpmath.workdps(40):
        wanted = float((mpmath.mpf(excess) - mpmath.log1p(mpmath.mpf(excess))) / 2)
    assert float(kl_to_normal(law, 0 * one, one)) == pytest.approx(wanted, rel=1e-9 + 1e-14 / excess, abs=0)


def _precise_kl(log_weights, means, variances):
    weights = [mpmath.exp(w) for w in log_weights]
    weights = [w / sum(weights) for w in weights]
    means, variances = [mpmath.mpf(m) for m in means], [mpmath.mpf(v) for v in variances]
    mean = sum(w * m for w, m in zip(weights, means, strict=True))
    variance = sum(w * (v + (m - mean) ** 2) for w, m, v in zip(weights, means, variances, strict=True))

    def normal(x, m, v):
        return mpmath.exp(-((x - m) ** 2) / (2 * v)) / mpmath.sqrt(2 * mpmath.pi * v)

    def integrand(u):
        x = mean + u * mpmath.sqrt(variance)
        p = sum(w * normal(x, m, v) for w, m, v in zip(weights, means, variances, strict=True))
        return p * mpmath.log(p / normal(x, mean, variance)) * mpmath.sqrt(variance)

    # An even grid on ±12 is exact to far below 1e-15 for an integrand this smooth.
    step = mpmath.mpf(24) / 120
    return step * sum(integrand(-12 + step * k) for k in range(121))


def test_bad_input_is_told_in_a_sentence():
    with pytest.raises(ValueError, match=r"sigma=1\.5"):
        logsnr_before(torch.tensor(0.0), 1.5)
    with pytest.raises(ValueError, match="longer than the way from the data"):
        logsnr_before(torch.tensor(8.0), 0.5)
