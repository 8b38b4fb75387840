"""Noise within a bin: its law integrates to one, and its offset is that of the declared bins."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from markovae.diffusion.pixels import Pixels
from markovae.likelihood.ode import TruncatedNormalNoise, UniformNoise

PIXELS = st.builds(Pixels, st.sampled_from([2, 16, 256, 65_536]), st.booleans())
QUANTILES = (torch.arange(20_001, dtype=torch.float64)[:-1, None] + 0.5) / 20_000


@settings(max_examples=30, deadline=None)
@given(PIXELS)
def test_uniform_offset_is_the_bin_width(pixels):
    u, log_density = UniformNoise().noise(QUANTILES, pixels)
    assert float(u.abs().max()) < pixels.half_width
    torch.testing.assert_close(log_density, torch.full_like(log_density, -math.log(2 * pixels.half_width)))
    both = UniformNoise().noise(torch.rand(3, 2, 5, dtype=torch.float64), pixels)[1]
    assert float(both[0]) == pytest.approx(-10 * math.log(2 * pixels.half_width))


@settings(max_examples=30, deadline=None)
@given(PIXELS, st.floats(0.1, 30))
def test_truncated_normal_integrates_to_one(pixels, reach):
    distribution = TruncatedNormalNoise(pixels.half_width / reach)
    u, log_density = distribution.noise(QUANTILES, pixels)
    assert float(u.abs().max()) <= pixels.half_width
    # E_q[1/q] is the width of q's support, all of the bin where q still has weight there.
    if reach < 2:
        assert float((-log_density).exp().mean()) == pytest.approx(2 * pixels.half_width, rel=1e-2)
    # The quantile's slope is 1/q: the density is that of the draws.
    inner = slice(2000, 18_000)
    slope = (u[2001:18_001, 0] - u[1999:17_999, 0]) * 10_000
    torch.testing.assert_close(slope, (-log_density[inner]).exp(), rtol=1e-4, atol=0)


def test_ends_of_the_quantiles_are_numbers():
    ends = torch.tensor([[0.0], [1 - 2.0**-53]], dtype=torch.float64)
    u, log_density = TruncatedNormalNoise(1e-5).noise(ends, Pixels(256))
    assert bool(u.isfinite().all())
    assert bool(log_density.isfinite().all())
    assert float(u[0]) == pytest.approx(-float(u[1]))


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_bad_scale(scale):
    with pytest.raises(ValueError, match="positive"):
        TruncatedNormalNoise(scale)
