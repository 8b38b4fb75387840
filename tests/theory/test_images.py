import math

import pytest
import torch

from markovae.randomness import generator
from markovae.theory.mixture import cosine_basis, pink_gaussian, pink_modes, pink_pair
from markovae.theory.quadrature import slope

F64 = torch.float64


def test_cosines_are_orthonormal_and_rise_in_frequency():
    basis = cosine_basis(16)
    torch.testing.assert_close(basis.T @ basis, torch.eye(16, dtype=F64), rtol=0, atol=1e-13)
    crossings = [int((basis[1:, k] * basis[:-1, k] < 0).sum()) for k in range(16)]
    assert crossings == list(range(16))


def test_spectrum_falls_as_one_over_f_in_amplitude():
    modes = pink_modes((1, 64, 64))
    power = modes.variance.reshape(64, 64)
    frequency = torch.arange(64, dtype=F64)
    assert slope(1 + frequency[1:], power[0, 1:]) == pytest.approx(-2, abs=1e-9)
    torch.testing.assert_close(power, power.T)


def test_pixels_have_the_declared_variance_and_channels_their_correlation():
    toy = pink_gaussian((3, 8, 8), std=0.4, colour=0.7)
    covariance = toy.law(1).covariance()[0].reshape(3, 64, 3, 64)
    assert float(torch.stack([covariance[c, :, c].trace() for c in range(3)]).mean()) == pytest.approx(64 * 0.16)
    ratio = covariance[0, :, 1] / covariance[0, :, 0]
    torch.testing.assert_close(ratio, torch.full_like(ratio, 0.7), rtol=1e-8, atol=0)
    x = toy.sample(4000, generator(0, "pink"))
    assert float(x.var()) == pytest.approx(0.16, rel=0.1)


def test_entropy_is_that_of_the_dense_gaussian():
    toy = pink_gaussian((1, 4, 4))
    covariance = toy.law(1).covariance()[0]
    wanted = 8 * math.log(2 * math.pi * math.e) + 0.5 * float(torch.logdet(covariance))
    assert toy.entropy() == pytest.approx(wanted, abs=1e-9)
    x = toy.sample(5, generator(1, "x"))
    dense = torch.distributions.MultivariateNormal(torch.zeros(16, dtype=F64), covariance)
    torch.testing.assert_close(toy.log_prob(x), dense.log_prob(x.flatten(1)))


def test_pair_has_two_kinds_and_a_known_entropy():
    toy = pink_pair((1, 8, 8), separation=4.0, weight=0.3)
    nats = -toy.log_prob(toy.sample(20_000, generator(2, "pair")))
    assert toy.entropy() == pytest.approx(float(nats.mean()), abs=4 * float(nats.std()) / math.sqrt(20_000))
    choice = -0.3 * math.log(0.3) - 0.7 * math.log(0.7)
    single = pink_gaussian((1, 8, 8)).entropy()
    assert single < toy.entropy() < single + choice
    assert toy.entropy() == pytest.approx(single + choice, abs=1e-3)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: pink_modes((8, 8)), r"must be \(C, H, W\)"),
        (lambda: pink_modes((1, 8, 8), std=0.0), "std=0 must be positive"),
        (lambda: pink_modes((3, 4, 4), colour=1.0), "not positive definite"),
        (lambda: pink_modes((3, 4, 4), colour=-0.6), "not positive definite"),
        (lambda: pink_pair((1, 4, 4), weight=1.0), "must lie in"),
    ],
)
def test_bad_input_is_told_in_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
