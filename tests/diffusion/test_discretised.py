"""The discretised Gaussian against arbitrary precision, far into both tails."""

import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from markovae.diffusion.decoder import DiscretisedGaussian, log_difference
from markovae.diffusion.pixels import Pixels

BINS = st.sampled_from([2, 3, 16, 256, 1000, 65_536])


def truth(pixels: Pixels, digit: int, mean: float, scale: float) -> mpmath.mpf:
    """ln P with enough digits for what cancels: exponents of the tails reach 10^10."""
    with mpmath.workdps(60):
        # The bin's edges as the library sees them: float64 numbers, from there on exact.
        centre = float(pixels.to_x(torch.tensor([digit]))[0]) - mean
        upper = mpmath.mpf((centre + pixels.half_width) / scale)
        lower = mpmath.mpf((centre - pixels.half_width) / scale)
        root = mpmath.sqrt(2)
        if digit == pixels.bins - 1:
            return mpmath.log(mpmath.erfc(lower / root) / 2)
        if digit == 0:
            return mpmath.log(mpmath.erfc(-upper / root) / 2)
        if lower > 0:
            return mpmath.log((mpmath.erfc(lower / root) - mpmath.erfc(upper / root)) / 2)
        if upper < 0:
            return mpmath.log((mpmath.erfc(-upper / root) - mpmath.erfc(-lower / root)) / 2)
        return mpmath.log((mpmath.erf(upper / root) - mpmath.erf(lower / root)) / 2)


@settings(max_examples=150, deadline=None)
@given(bins=BINS, centred=st.booleans(), place=st.floats(0, 1), mean=st.floats(-1.5, 1.5), scale=st.floats(1e-3, 3))
def test_log_probability_is_right_to_ten_digits(bins, centred, place, mean, scale):
    pixels = Pixels(bins, centred)
    digit = min(int(place * bins), bins - 1)
    x = pixels.to_x(torch.tensor([[digit]]))
    found = DiscretisedGaussian(
        torch.tensor([[mean]], dtype=torch.float64), torch.tensor(scale, dtype=torch.float64), pixels
    )
    expected = float(truth(pixels, digit, mean, scale))
    assert float(found.log_prob(x)) == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("digit", [0, 40, 128, 215, 255])
@pytest.mark.parametrize("scale", [1e-3, 1e-2])
def test_hundreds_of_standard_deviations_out_nothing_is_capped(digit, scale):
    pixels = Pixels(256)
    for mean in (-1.0, 1.0):
        x = pixels.to_x(torch.tensor([[digit]]))
        found = DiscretisedGaussian(
            torch.tensor([[mean]]).double(), torch.tensor(scale, dtype=torch.float64), pixels
        ).log_prob(x)
        expected = float(truth(pixels, digit, mean, scale))
        assert float(found) == pytest.approx(expected, rel=1e-10, abs=1e-12)
    assert expected < -1000 or digit > 200


@settings(max_examples=150, deadline=None)
@given(bins=BINS, place=st.floats(0, 1), mean=st.floats(-40, 40), exponent=st.floats(-4, 45))
def test_a_bin_far_narrower_than_the_gaussian_keeps_its_mass(bins, place, mean, exponent):
    pixels, scale = Pixels(bins, True), math.exp(exponent)
    digit = min(int(place * bins), bins - 1)
    mean *= min(scale, 10.0)
    at = torch.tensor([[mean]], dtype=torch.float64, requires_grad=True)
    found = DiscretisedGaussian(at, torch.tensor(scale, dtype=torch.float64), pixels).log_prob(
        pixels.to_x(torch.tensor([[digit]]))
    )
    assert float(found.detach()) == pytest.approx(float(truth(pixels, digit, mean, scale)), rel=1e-10, abs=1e-12)
    found.sum().backward()
    assert at.grad.isfinite().all()


@settings(max_examples=60, deadline=None)
@given(bins=BINS, centred=st.booleans(), mean=st.floats(-3, 3), scale=st.floats(1e-4, 10))
def test_bins_sum_to_one(bins, centred, mean, scale):
    pixels = Pixels(bins, centred)
    x = pixels.to_x(torch.arange(bins))[:, None]
    found = DiscretisedGaussian(
        torch.full((bins, 1), mean, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64), pixels
    )
    assert float(found.log_prob(x).exp().sum()) == pytest.approx(1, abs=1e-12)


def test_end_bins_are_open():
    pixels = Pixels(4)
    far = DiscretisedGaussian(torch.full((2, 1), 50.0), torch.tensor(0.5), pixels)
    ends = far.log_prob(pixels.to_x(torch.tensor([[3], [0]])))
    assert float(ends[0]) == 0.0
    assert float(ends[1]) < -4000


def test_draws_have_the_probabilities():
    pixels = Pixels(5)
    distribution = DiscretisedGaussian(torch.full((40_000, 1), 0.3), torch.tensor(0.4), pixels)
    drawn = (
        pixels.to_pixel_values(distribution.sample(torch.Generator().manual_seed(0))).flatten().bincount(minlength=5)
        / 40_000
    )
    expected = distribution.log_prob(pixels.to_x(torch.arange(5)).repeat(8000)[:, None])[:5].exp()
    assert float((drawn - expected).abs().max()) < 0.01


@given(st.floats(-700, 0), st.floats(1e-12, 50))
def test_log_difference(larger, gap):
    found = float(
        log_difference(torch.tensor(larger, dtype=torch.float64), torch.tensor(larger, dtype=torch.float64) - gap)
    )
    with mpmath.workdps(50):
        exact = larger + mpmath.log(-mpmath.expm1(mpmath.mpf(larger - gap) - mpmath.mpf(larger)))
    assert found == pytest.approx(float(exact), rel=1e-12, abs=1e-12)
