"""A density is not a probability: other names, no bits, and the right number of nats."""

import math

import pytest
import torch

from markovae.diffusion.bound import estimate_mean
from markovae.diffusion.decoder import DensityDecoder, StepDecoder
from markovae.diffusion.model import Diffusion
from markovae.diffusion.pixels import Pixels
from markovae.diffusion.reverse import FullVariance
from markovae.diffusion.schedule import LogSNRLinear
from markovae.diffusion.target import DATA
from markovae.errors import UserError
from markovae.likelihood.measuring import measure
from markovae.randomness import generator
from markovae.theory.mixture import Denoiser, Mixture

TOY = Mixture.gaussian(torch.tensor([0.2, -0.3]), torch.tensor([[0.5, 0.3], [0.3, 0.4]]))


def model(levels: int = 65) -> Diffusion:
    made = Diffusion(Denoiser(TOY), LogSNRLinear(levels, 12.0, -12.0), DATA, FullVariance(), DensityDecoder(), (2,))
    made.precision = torch.float64
    return made


def test_nats_meet_the_density_of_each_example():
    # Full covariance, exact denoiser: the levels have no gap, and level 1 almost none at log-SNR 12.
    x = TOY.sample(10_000, generator(0, "density"))
    excess = estimate_mean(model().bound(x, generator(1, "density")).total + TOY.log_prob(x))
    assert excess.value == pytest.approx(0, abs=4 * excess.stderr)
    assert excess.stderr < 0.03


def test_measuring_agrees_with_the_bound():
    x = TOY.sample(300, generator(0, "density"))
    measured = measure(model(9), x, draws=None)
    excess = estimate_mean(measured.total - model(9).bound(x).total)
    assert excess.value == pytest.approx(0, abs=4 * excess.stderr)
    assert measured.density_nats.value == pytest.approx(float(measured.total.mean()))


def test_refuses_bits_and_digits():
    x = TOY.sample(3, generator(1, "density"))
    measured = measure(model(5), x, draws=None)
    with pytest.raises(UserError, match="bin width"):
        _ = measured.bits_per_dim
    with pytest.raises(ValueError, match="bin width"):
        model(5).bound(x).bits_per_dim()
    with pytest.raises(UserError, match="no decoder for pixels"):
        measure(model(5), torch.zeros(3, 2, dtype=torch.uint8))
    with pytest.raises(UserError, match="no decoder for pixels"):
        _ = model(5).pixels


def test_record_names_a_density():
    record = measure(model(5), TOY.sample(3, generator(1, "density")), draws=None).to_dict()
    assert record["nats"]["mean"] is None
    assert record["bits_per_dim"]["mean"] is None
    assert math.isfinite(record["density_nats"]["mean"])


def test_digits_have_no_density():
    made = Diffusion(Denoiser(TOY), LogSNRLinear(5), DATA, FullVariance(), StepDecoder(Pixels()), (2,))
    made.precision = torch.float64
    measured = measure(made, torch.full((2, 2), 100))
    with pytest.raises(UserError, match="no density"):
        _ = measured.density_nats
