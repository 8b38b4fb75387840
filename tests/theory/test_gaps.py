"""The gap of L levels: its laws, the traps of constant σ, and how near one true reverse step is to a Gaussian."""

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from markovae.diffusion.forward import (
    noise_scale,
    posterior_coefficients,
    posterior_variance,
    signal_scale,
    step_variance,
)
from markovae.diffusion.reverse import PosteriorVariance, StepVariance
from markovae.diffusion.schedule import LogSNRLinear, constant
from markovae.randomness import generator
from markovae.theory.gaps import (
    EULER,
    POINT_LIMIT,
    SMOOTH_LIMIT,
    full_law,
    gaussian_exact,
    gaussian_levels,
    kl_to_normal,
    logsnr_before,
    measured,
    measured_nats,
    moments,
    point_gap,
    predicted,
    second_order,
    smooth_gap,
    snr_steps,
    spread,
    step_divergences,
    truth,
)
from markovae.theory.mixture import Mixture, correlated_gaussian, line_mixture

F64 = torch.float64
KINDS = ("step", "posterior", "isotropic", "level_diagonal", "diagonal")


def covariance(seed: int, dims: int = 3) -> torch.Tensor:
    root = torch.randn(dims, dims, generator=generator(seed, "root"), dtype=F64)
    return 0.3 * root @ root.T + 0.05 * torch.eye(dims, dtype=F64)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.floats(-6, 6))
def test_laws_are_the_exact_gaps_to_second_order(seed, last):
    sigma = covariance(seed)
    errors = []
    for step in (1e-2, 5e-3):
        logsnr = torch.tensor([last + step, last], dtype=F64)
        left = torch.linalg.inv(torch.linalg.inv(sigma) + logsnr[1].exp() * torch.eye(3, dtype=F64))
        one = torch.ones(1, 1, dtype=F64)
        law = second_order(left.reshape(1, 1, 3, 3), one, logsnr, logsnr[1:])
        exact = gaussian_exact(sigma, logsnr)
        errors.append([abs(float(getattr(exact, k) - getattr(law, k))) for k in KINDS])
    # What is left falls as the cube of the step: an eighth for half of it (a quarter would be a wrong second order).
    for coarse, fine in zip(*errors, strict=True):
        assert fine < 0.16 * coarse + 1e-15


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99))
def test_better_variances_have_smaller_gaps(seed):
    gap = gaussian_exact(covariance(seed), LogSNRLinear(20).logsnr[1:])
    assert bool((gap.posterior >= gap.isotropic).all())
    assert bool((gap.step >= gap.isotropic - 1e-15).all())
    assert bool((gap.isotropic >= gap.level_diagonal - 1e-15).all())
    assert bool((gap.level_diagonal >= -1e-15).all())
    torch.testing.assert_close(gap.full, torch.zeros(19, dtype=F64))


def test_order_of_the_laws_where_covariances_depend_on_the_latent():
    source = generator(0, "moments")
    root = torch.randn(4, 5, 3, 3, generator=source, dtype=F64)
    weight = torch.rand(4, 5, generator=source, dtype=F64)
    weight = weight / weight.sum(1, keepdim=True)
    logsnr = torch.tensor([2.0, 1.9, 1.8, 1.7, 1.6], dtype=F64)
    law = second_order(root @ root.mT, weight, logsnr, logsnr[1:])
    assert bool((law.posterior > law.isotropic).all())
    assert bool((law.isotropic > law.level_diagonal).all())
    assert bool((law.level_diagonal > law.diagonal).all())
    assert bool((law.diagonal > 0).all())
    m = moments(root @ root.mT, weight)
    wanted = sum(weight[0, i] * float((root[0, i] @ root[0, i].T).trace()) for i in range(5))
    torch.testing.assert_close(m.trace[0], wanted)


def test_unit_variance_is_free_under_the_step_variance():
    gap = gaussian_exact(torch.eye(2), constant(num_levels=50, delta=0.1).logsnr[1:])
    torch.testing.assert_close(gap.step, torch.zeros(49, dtype=F64), rtol=0, atol=1e-14)


def test_levels_in_the_limit_are_what_fine_grids_sum_to():
    eigenvalues = torch.tensor([1.0, 0.2], dtype=F64)
    logsnr = torch.linspace(8, -6, 600_001, dtype=F64)
    width = snr_steps(logsnr)
    error = (eigenvalues / (1 + logsnr[1:].exp().unsqueeze(1) * eigenvalues)).sum(1)
    fine = 0.5 * float((width * error).sum())
    assert gaussian_levels(eigenvalues, 8.0, -6.0) == pytest.approx(fine, abs=2e-4)


def test_snr_steps_keep_their_digits():
    logsnr = torch.tensor([5.0, 5.0 - 1e-12], dtype=F64)
    step = float(logsnr[0] - logsnr[1])
    assert float(snr_steps(logsnr)) == pytest.approx(float(logsnr[0].exp()) * step, rel=1e-11, abs=0)


def test_full_law_is_a_twelfth_of_the_squared_skewness():
    assert float(full_law(torch.tensor(0.1), torch.tensor(6.0))) == pytest.approx(0.001 * 6 / 12)


def test_grids_that_do_not_fall_are_refused():
    with pytest.raises(ValueError, match="falling from level to level"):
        snr_steps(torch.tensor([1.0, 2.0]))
    with pytest.raises(ValueError, match="two or more"):
        snr_steps(torch.tensor([1.0]))
    with pytest.raises(ValueError, match="not positive definite"):
        gaussian_exact(torch.tensor([[1.0, 2.0], [2.0, 1.0]]), torch.tensor([1.0, 0.0]))


SHAPES = ("step", "posterior", "isotropic", "level_diagonal")


def plane() -> Mixture:
    covariances = torch.tensor([[[0.3, 0.1], [0.1, 0.15]], [[0.15, -0.08], [-0.08, 0.3]]], dtype=F64)
    means = torch.tensor([[0.8, 0.0], [-0.6, 0.5]], dtype=F64)
    return Mixture.full(torch.tensor([0.4, 0.6], dtype=F64), means, covariances)


def test_laws_in_the_plane_tell_the_diagonals_apart():
    toy, logsnr = plane(), LogSNRLinear(65, 4.0, -5.0).logsnr[1:]
    found, law = measured(toy, logsnr, 40), predicted(toy, logsnr, 40, centred=True)
    for name in (*SHAPES, "diagonal"):
        assert float(getattr(found, name) / getattr(law, name)) == pytest.approx(1, abs=0.1)
    assert found.posterior > found.isotropic > found.level_diagonal > 1.05 * found.diagonal > 0
    assert 0 < float(found.full) < 0.1 * float(found.diagonal)


def test_a_better_shape_never_costs_more():
    toy, logsnr = line_mixture(), LogSNRLinear(40).logsnr[1:]
    found = measured(toy, logsnr)
    assert found.posterior > found.isotropic > found.full > 0
    assert found.step >= found.isotropic


def test_measured_nats_are_those_of_draws():
    toy, logsnr = line_mixture(), LogSNRLinear(8, 4.0, -4.0).logsnr[1:]
    closed = measured_nats(spread(toy, logsnr)).posterior
    x = toy.sample(40_000, generator(0, "x"))
    for level in (1, 4, 7):
        lam = logsnr[level]
        noise = torch.randn(x.shape, generator=generator(0, "noise", level), dtype=F64)
        z = signal_scale(lam) * x + noise_scale(lam) * noise
        nats = 0.5 * (logsnr[level - 1].exp() - lam.exp()) * ((x - toy.denoise(z, lam)) ** 2)[:, 0]
        assert float(closed[level - 1]) == pytest.approx(float(nats.mean()), abs=4 * float(nats.std()) / 200)


def test_the_truth_of_a_gaussian_does_not_depend_on_the_grid():
    toy = correlated_gaussian()
    coarse, fine = LogSNRLinear(3).logsnr[1:], LogSNRLinear(300).logsnr[1:]
    assert truth(toy, coarse) == pytest.approx(truth(toy, fine), abs=1e-12)
    assert gaussian_exact(toy.distribution(1).covariance()[0], fine).full.sum() == 0


def test_nodes_do_not_matter():
    toy, logsnr = line_mixture(), LogSNRLinear(64).logsnr[1:]
    coarse, fine = measured(toy, logsnr, 300), measured(toy, logsnr, 900)
    for name, value in vars(fine).items():
        assert float(getattr(coarse, name)) == pytest.approx(float(value), abs=1e-12)


def test_eulers_constant_by_its_series():
    n = torch.arange(1, 1_000_001, dtype=torch.float64)
    harmonic = float((1 / n).sum())
    assert pytest.approx(harmonic - float(n[-1].log()) - 0.5e-6, abs=1e-11) == EULER
    assert pytest.approx(0.2886, abs=5e-5) == SMOOTH_LIMIT
    assert pytest.approx(0.2114, abs=5e-5) == POINT_LIMIT


@pytest.mark.parametrize("variance", [0.25, 1.0, 4.0])
def test_the_trap_does_not_depend_on_the_data(variance):
    assert smooth_gap(400_000, 0.1, variance) == pytest.approx(SMOOTH_LIMIT, abs=2e-3)


def test_the_gap_on_points_is_the_most_there_is_at_constant_sigma():
    gaps = [point_gap(StepVariance(), constant(num_levels=n, delta=0.01).logsnr[1:]) for n in (10, 100, 1000)]
    assert gaps == sorted(gaps)
    assert gaps[-1] < POINT_LIMIT


def test_neither_trap_is_set_on_an_even_grid_in_logsnr():
    coarse, fine = (point_gap(StepVariance(), LogSNRLinear(n).logsnr[1:]) for n in (1000, 2000))
    assert fine == pytest.approx(coarse / 2, rel=0.02)
    assert point_gap(PosteriorVariance(), LogSNRLinear(100).logsnr[1:]) == 0


def test_logsnr_before_is_one_step_of_sigma():
    now = torch.tensor(0.7, dtype=F64)
    assert float(step_variance(logsnr_before(now, 0.3), now)) == pytest.approx(0.09, rel=1e-12)


def test_a_gaussian_is_a_gaussian_at_any_sigma():
    found = step_divergences(Mixture.line([1.0], [0.2], [0.7]), torch.tensor(0.5, dtype=F64), 0.3)
    assert float(found[2]) == pytest.approx(0, abs=1e-15)
    assert float(found[1]) > 1e-6


def test_divergences_agree_with_forty_digits():
    """KL of a step to N(μ, v) is near 1e-9 here: float64 keeps six digits of it."""
    toy, lam, sigma = line_mixture(), torch.tensor(1.0, dtype=F64), 0.05
    before = logsnr_before(lam, sigma)
    z = torch.tensor([[-1.5], [-0.3], [0.4], [1.2]], dtype=F64)
    c_z, c_x = posterior_coefficients(before, lam)
    law = toy.distribution(4).posterior(z, lam.expand(4))
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
    law = Mixture.line([1.0], [0.0], [(1 + excess) ** 0.5]).distribution(1)
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


def test_steps_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"sigma=1\.5"):
        logsnr_before(torch.tensor(0.0), 1.5)
    with pytest.raises(ValueError, match="longer than the way from the data"):
        logsnr_before(torch.tensor(8.0), 0.5)
