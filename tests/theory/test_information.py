import math

import pytest
import torch

from markovae.diffusion.pixels import Pixels
from markovae.theory.information import entropy_by_errors, information, mean_error, point_error
from markovae.theory.mixture import Mixture, correlated_gaussian, line_mixture, pink_gaussian
from markovae.theory.pixel_mixture import DigitMixture
from markovae.theory.quadrature import slope

F64 = torch.float64


@pytest.mark.parametrize("toy", [correlated_gaussian(), pink_gaussian((1, 8, 8))])
def test_entropy_from_errors_in_many_dimensions(toy):
    assert entropy_by_errors(toy) == pytest.approx(toy.entropy(), abs=1e-8 * toy.dims)


def test_error_at_a_point_averages_to_the_mean_error():
    toy, lam = line_mixture(), torch.tensor([-3.0, 0.5, 6.0], dtype=F64)
    x, weight = toy.nodes(torch.tensor([math.inf], dtype=F64), 500)
    torch.testing.assert_close(weight @ point_error(toy, x[0], lam), mean_error(toy, lam)[None], rtol=1e-8, atol=0)


def test_information_of_a_gaussian_is_half_ln_one_plus_snr():
    toy, lam = Mixture.line([1.0], [0.3], [0.6]), torch.tensor(1.5, dtype=F64)
    assert information(toy, lam) == pytest.approx(0.5 * math.log1p(math.exp(1.5) * 0.36), abs=1e-12)


def test_derivative_of_information_is_half_the_error():
    toy, snr, h = line_mixture(), 2.0, 1e-3
    ends = [information(toy, torch.tensor(math.log(snr + d), dtype=F64)) for d in (h, -h)]
    error = float(mean_error(toy, torch.tensor([math.log(snr)], dtype=F64)))
    assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(error / 2, rel=1e-6)


def test_point_errors_are_for_the_line():
    with pytest.raises(ValueError, match="over one noise only"):
        point_error(correlated_gaussian(), torch.zeros(1, 3), torch.zeros(1))


def test_digits_are_known_in_the_end():
    toy = DigitMixture.discretised(torch.ones(1), torch.zeros(1, 1), torch.full((1, 1), 0.5), Pixels(4))
    lam = torch.tensor([2.0, 4.0, 5.0], dtype=F64)
    error = point_error(toy, Pixels(4).to_x(torch.tensor([[1]])), lam)[0]
    # Between points the error falls faster than any power of the SNR, where densities leave 1/γ.
    assert slope(lam.exp()[1:], error[1:]) < -3
