import math

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from markovae.diffusion.gaussian import FullGaussian, Gaussian, cholesky
from markovae.randomness import Streams, generator


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed, "test"), dtype=torch.float64)


def covariance(d: int, seed: int = 0) -> torch.Tensor:
    factor = normal(d, d, seed=seed)
    return factor @ factor.T / d + 0.1 * torch.eye(d, dtype=torch.float64)


def test_log_density_and_divergence_agree_with_another_implementation() -> None:
    mean, other, x = normal(5, 2, 3), normal(5, 2, 3, seed=1), normal(5, 2, 3, seed=2)
    variance, other_variance = normal(5, 2, 3, seed=3).exp(), normal(5, 1, 1, seed=4).exp()
    ours, theirs = Gaussian(mean, variance), Normal(mean, variance.sqrt())
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x).flatten(1).sum(1), rtol=1e-12, atol=1e-12)
    expected = kl_divergence(theirs, Normal(other, other_variance.sqrt())).flatten(1).sum(1)
    torch.testing.assert_close(ours.kl(Gaussian(other, other_variance)), expected, rtol=1e-12, atol=1e-12)


def test_one_variance_for_all_coordinates_counts_once_for_each() -> None:
    one = Gaussian(torch.zeros(2, 7), torch.tensor(4.0))
    expected = torch.full((2,), 3.5 * (0.25 - 1 + math.log(4.0)), dtype=torch.float64)
    torch.testing.assert_close(Gaussian(torch.zeros(2, 7), torch.tensor(1.0)).kl(one), expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(
        one.log_prob(torch.zeros(2, 7)), torch.full((2,), -3.5 * math.log(8 * math.pi), dtype=torch.float64)
    )


@given(st.floats(1e-12, 0.5), st.floats(-20, 20))
def test_divergence_of_nearly_equal_variances_against_fifty_digits(excess: float, exponent: float) -> None:
    variance = math.exp(exponent)
    wide = variance * (1 + excess)
    got = Gaussian(torch.zeros(1, 1, dtype=torch.float64), torch.tensor(wide, dtype=torch.float64)).kl(
        Gaussian(torch.zeros(1, 1, dtype=torch.float64), torch.tensor(variance, dtype=torch.float64))
    )
    with mpmath.workdps(50):
        ratio = mpmath.mpf(wide) / mpmath.mpf(variance)
        expected = float((ratio - 1 - mpmath.log(ratio)) / 2)
    assert abs(float(got) - expected) <= 1e-15 * excess + 1e-12 * expected


@given(st.floats(-600, 0), st.floats(-40, 40))
def test_divergence_of_a_far_narrower_gaussian_against_fifty_digits(fall: float, exponent: float) -> None:
    variance, narrow = math.exp(exponent), math.exp(exponent + fall)
    zero = torch.zeros(1, 1, dtype=torch.float64)
    widths = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (narrow, variance))
    nats = Gaussian(zero, next(widths)).kl(Gaussian(zero, other := next(widths)))
    with mpmath.workdps(50):
        ratio = mpmath.mpf(narrow) / mpmath.mpf(variance)
        expected = float((ratio - 1 - mpmath.log(ratio)) / 2)
        slope = float((1 - ratio) / mpmath.mpf(variance) / 2)
    assert float(nats.detach()) == pytest.approx(expected, rel=1e-11, abs=1e-15)
    nats.sum().backward()
    assert float(other.grad) == pytest.approx(slope, rel=1e-9, abs=1e-12 / variance)


def test_float32_is_promoted_before_the_squares() -> None:
    mean = torch.full((1, 1000), 1e4)
    nats = Gaussian(mean, torch.tensor(1e-4)).log_prob(mean + 0.01)
    exact = Gaussian(mean.double(), torch.tensor(1e-4).double()).log_prob((mean + 0.01).double())
    assert nats.dtype == torch.float64
    assert torch.equal(nats, exact)


def test_samples_have_the_mean_and_the_variance() -> None:
    mean, variance = torch.tensor([1.0, -2.0]).double(), torch.tensor([4.0, 0.25]).double()
    draws = Gaussian(mean.expand(20000, 2), variance).sample(generator(0, "samples"))
    assert bool(((draws.mean(0) - mean).abs() < 4 * (variance / 20000).sqrt()).all())
    assert bool(((draws.var(0) / variance - 1).abs() < 4 * (2 / 20000) ** 0.5).all())


def test_a_point_can_be_sampled_but_has_no_density() -> None:
    point = Gaussian(torch.ones(2, 3), torch.tensor(0.0))
    assert torch.equal(point.sample(generator(0, "point")), torch.ones(2, 3))
    with pytest.raises(ValueError, match="variance=0 must be positive"):
        point.log_prob(torch.ones(2, 3))
    with pytest.raises(ValueError, match="must be positive"):
        Gaussian(torch.ones(2, 3), torch.tensor(1.0)).kl(point)
    with pytest.raises(ValueError, match="must be positive"):
        Gaussian(torch.ones(2, 3), torch.tensor(torch.nan)).log_prob(torch.ones(2, 3))


@pytest.mark.parametrize("kind", [Gaussian, FullGaussian])
def test_other_shapes_are_refused_rather_than_broadcast(kind) -> None:
    one = kind(torch.zeros(4, 1), torch.ones(1, 1))
    with pytest.raises(ValueError, match="does not match"):
        one.log_prob(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="does not match"):
        one.kl(kind(torch.zeros(4, 2), torch.eye(2) if kind is FullGaussian else torch.ones(())))


@pytest.mark.parametrize("each", [False, True])
def test_full_covariance_agrees_with_another_implementation(each: bool) -> None:
    mean, other, x = normal(5, 3), normal(5, 3, seed=1), normal(5, 3, seed=2)
    v = torch.stack([covariance(3, s) for s in range(5)]) if each else covariance(3)
    w = covariance(3, 9)
    ours, theirs = FullGaussian(mean, v), MultivariateNormal(mean, v)
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x), rtol=1e-11, atol=1e-11)
    expected = kl_divergence(theirs, MultivariateNormal(other, w.expand(5, 3, 3)))
    torch.testing.assert_close(ours.kl(FullGaussian(other, w)), expected, rtol=1e-11, atol=1e-11)


def test_a_diagonal_covariance_is_the_independent_gaussian() -> None:
    mean, x, variance = normal(4, 3), normal(4, 3, seed=1), normal(4, 3, seed=2).exp()
    full, plain = FullGaussian(mean, torch.diag_embed(variance)), Gaussian(mean, variance)
    torch.testing.assert_close(full.log_prob(x), plain.log_prob(x), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(full.sample(Streams(0, "s", range(4))), plain.sample(Streams(0, "s", range(4))))


def test_full_samples_have_the_covariance() -> None:
    v, count = covariance(3), 20000
    draws = FullGaussian(torch.zeros(count, 3), v).sample(generator(0, "full"))
    found = draws.T @ draws / count
    stderr = ((v**2 + torch.outer(v.diagonal(), v.diagonal())) / count).sqrt()
    assert bool(((found - v).abs() < 4 * stderr).all())


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (torch.tensor([[1.0, 2.0], [2.0, 1.0]]), "not positive definite"),
        (torch.tensor([[1.0, 0.5], [0.0, 1.0]]), "off symmetry by 0.5"),
        (torch.zeros(2, 2), "not positive definite"),
        (torch.full((2, 2), torch.nan), "off symmetry"),
        (torch.ones(2, 3), "must be square"),
    ],
)
def test_what_is_no_covariance_is_refused(matrix: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cholesky(matrix)


@pytest.mark.parametrize("kind", [Gaussian, FullGaussian])
def test_batches_of_different_lengths_are_refused_and_one_is_shared(kind) -> None:
    spread = torch.ones(()) if kind is Gaussian else torch.eye(2)
    with pytest.raises(ValueError, match=r"x of shape \(4, 2\) does not match"):
        kind(torch.zeros(3, 2), spread).log_prob(torch.zeros(4, 2))
    assert kind(torch.zeros(1, 2), spread).log_prob(torch.zeros(4, 2)).shape == (4,)


def test_a_negative_variance_has_no_draws() -> None:
    with pytest.raises(ValueError, match="variance=-1 must not be negative"):
        Gaussian(torch.zeros(1, 2), torch.tensor(-1.0)).sample(generator(0, "x"))


def test_a_covariance_of_single_precision_is_promoted() -> None:
    """A product in float32 is symmetric to 1e-7 only; the same asymmetry in float64 is an error."""
    half = torch.randn(6, 6, generator=generator(0, "half"))
    covariance = half @ half.T + torch.eye(6)
    covariance[0, 1] *= 1 + 2e-7
    assert cholesky(covariance).dtype == torch.float64
    torch.testing.assert_close(cholesky(covariance) @ cholesky(covariance).T, covariance.double(), rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="off symmetry"):
        cholesky(covariance.double())
