"""The weights of the exponential integrator against quadrature."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from markovae.sampling.samplers import leap, moments, weights
from markovae.theory.quadrature import gauss_legendre

widths = st.one_of(st.floats(1e-6, 12), st.floats(-6, -1e-6))


@given(widths)
def test_moments_are_their_integrals(width):
    nodes, w = gauss_legendre(0.0, 1.0, 40)
    for k, value in enumerate(moments(width, 4)):
        integral = float((w * width * torch.exp(width * (nodes - 1)) * nodes**k).sum())
        assert value == pytest.approx(integral, rel=1e-11)


@given(widths, st.lists(st.floats(0.2, 3), min_size=0, max_size=2))
def test_weights_integrate_polynomials(width, gaps):
    nodes = [0.0]
    for gap in gaps:
        nodes.append(nodes[-1] - gap)
    found, mu = weights(nodes, width), moments(width, len(nodes))
    for power in range(len(nodes)):
        total = sum(w * node**power for w, node in zip(found, nodes, strict=True))
        assert total == pytest.approx(mu[power], rel=1e-9, abs=1e-12 * max(abs(w) for w in found))


def test_moments_join_where_the_series_ends():
    below, above = moments(1 - 1e-12, 4), moments(1 + 1e-12, 4)
    assert below == pytest.approx(above, rel=1e-11)


@given(st.floats(-8, 13), st.floats(-8, 13))
def test_a_leap_keeps_a_point_mass_on_its_line(logsnr, logsnr_next):
    """z = a x + s n goes to a' x + s' n where x̂ = x: (s'/s) a + a'(1 − e^{−H}) = a'."""
    fade, gain, width = leap(*torch.tensor([logsnr, logsnr_next], dtype=torch.float64))
    a = math.sqrt(1 / (1 + math.exp(-logsnr)))
    assert fade * a - gain * math.expm1(-width) == pytest.approx(gain, rel=1e-9)
