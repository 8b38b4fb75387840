"""VDM's decoder: normalised at any number of bins, right in the limit of a sharp latent, drawn as it says."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from markovae.diffusion.decoder import SoftmaxBins, SoftmaxDecoder
from markovae.diffusion.pixels import Pixels
from markovae.diffusion.schedule import LogSNRLinear
from markovae.randomness import Streams


@settings(max_examples=40, deadline=None)
@given(
    bins=st.sampled_from([2, 7, 256, 65_536]),
    centred=st.booleans(),
    mean=st.floats(-2, 2),
    scale=st.floats(1e-4, 5),
)
def test_bins_sum_to_one(bins, centred, mean, scale):
    pixels = Pixels(bins, centred)
    distribution = SoftmaxBins(
        torch.full((1, 1), mean, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64), pixels
    )
    x = pixels.to_x(torch.arange(bins))
    normaliser = distribution._log_normaliser(distribution.mean)
    total = (-0.5 * ((x - mean) / scale) ** 2).logsumexp(0)
    assert float(normaliser) == pytest.approx(float(total), rel=1e-12, abs=1e-12)
    assert float(distribution.log_probs(x[:1, None])) == pytest.approx(
        float(-0.5 * ((x[0] - mean) / scale) ** 2 - total), rel=1e-10, abs=1e-10
    )


def test_is_bayes_rule_for_the_latent_under_even_digits():
    pixels, schedule = Pixels(8, centred=True), LogSNRLinear(4, start=2.0)
    logsnr = schedule.logsnr
    z = torch.tensor([[0.3, -0.7]], dtype=torch.float64)
    distribution = SoftmaxDecoder(pixels).distribution(torch.zeros_like(z), logsnr, z)
    a, s = math.sqrt(torch.sigmoid(logsnr[1])), math.sqrt(torch.sigmoid(-logsnr[1]))
    centres = pixels.to_x(torch.arange(8))
    for i in range(2):
        likelihood = torch.exp(-0.5 * ((z[0, i] - a * centres) / s) ** 2)
        for digit in range(8):
            x = pixels.to_x(torch.full((1, 2), digit))
            expected = float((likelihood[digit] / likelihood.sum()).log())
            assert float(distribution.log_probs(x)[0, i]) == pytest.approx(expected, rel=1e-10)


def test_splitting_the_bins_changes_nothing(monkeypatch):
    pixels = Pixels(300)
    distribution = SoftmaxBins(
        torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).double(), torch.tensor(0.1), pixels
    )
    x = pixels.to_x(torch.randint(300, (4, 5), generator=torch.Generator().manual_seed(1)))
    whole, drawn = distribution.log_prob(x), distribution.sample(Streams(0, "test", range(4)))
    monkeypatch.setattr("markovae.diffusion.decoder._MAX_TERMS", 20 * 7)
    torch.testing.assert_close(distribution.log_prob(x), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(distribution.sample(Streams(0, "test", range(4))), drawn)


def test_draws_have_the_probabilities():
    pixels = Pixels(5)
    distribution = SoftmaxBins(torch.full((40_000, 1), 0.2), torch.tensor(0.5), pixels)
    drawn = (
        pixels.to_pixel_values(distribution.sample(torch.Generator().manual_seed(0))).flatten().bincount(minlength=5)
        / 40_000
    )
    expected = distribution.log_prob(pixels.to_x(torch.arange(5)).repeat(8000)[:, None])[:5].exp()
    assert float((drawn - expected).abs().max()) < 0.01
    assert float(pixels.to_pixel_values(distribution.mode()).double().mean()) == float(expected.argmax())


def test_needs_the_latent():
    with pytest.raises(ValueError, match="reads the latent"):
        SoftmaxDecoder(Pixels()).distribution(torch.zeros(1, 1), LogSNRLinear(3).logsnr)
