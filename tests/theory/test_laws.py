import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from markovae.diffusion.schedule import LogSNRLinear, constant
from markovae.randomness import generator
from markovae.theory import gap_statements as statements
from markovae.theory.gaps import full_law, gaussian_exact, gaussian_levels, moments, second_order, snr_steps

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


def test_bad_input_is_told_in_a_sentence():
    with pytest.raises(ValueError, match="falling from level to level"):
        snr_steps(torch.tensor([1.0, 2.0]))
    with pytest.raises(ValueError, match="two or more"):
        snr_steps(torch.tensor([1.0]))
    with pytest.raises(ValueError, match="not positive definite"):
        gaussian_exact(torch.tensor([[1.0, 2.0], [2.0, 1.0]]), torch.tensor([1.0, 0.0]))


def test_statement_toys_are_what_they_say():
    toy = statements.line_mixture()
    assert abs(float(toy.law(1).third_moment())) > 0.05
    off = statements.correlated_gaussian().law(1).covariance()[0]
    assert float((off - torch.diag(off.diagonal())).abs().max()) > 0.1
