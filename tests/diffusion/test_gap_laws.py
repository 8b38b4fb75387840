"""The gap laws hold for every reverse variance of the library, on Gaussian data and on a mixture."""

from dataclasses import fields
from functools import partial

import pytest
import torch

from markovae.theory.gaps import ByVariance, gaussian_exact, measured, measured_nats, predicted, spread
from markovae.theory.mixture import Mixture

GAUSS = Mixture.gaussian(torch.zeros(2), torch.tensor([[0.5, 0.3], [0.3, 0.4]]))
MIXED = Mixture.full(
    torch.tensor([0.4, 0.6]),
    torch.tensor([[0.8, 0.0], [-0.5, 0.5]]),
    torch.tensor([[[0.2, 0.1], [0.1, 0.3]], [[0.4, -0.1], [-0.1, 0.1]]]),
)
NAMES = [f.name for f in fields(ByVariance)]


def grid(levels: int) -> torch.Tensor:
    return torch.linspace(3, -5, levels, dtype=torch.float64)


@pytest.mark.parametrize("toy", [GAUSS, MIXED])
def test_measured_gaps_meet_the_laws(toy):
    found, distribution = (f(toy, grid(160), 44) for f in (measured, partial(predicted, centred=True)))
    for name in ("step", "posterior", "isotropic", "level_diagonal", "diagonal"):
        assert float(getattr(found, name)) == pytest.approx(float(getattr(distribution, name)), rel=0.03), name


def test_gaussian_gaps_are_exact_at_any_stride():
    logsnr = grid(6)
    found = measured_nats(spread(GAUSS, logsnr))
    exact = gaussian_exact(torch.tensor([[0.5, 0.3], [0.3, 0.4]]).double(), logsnr)
    for name in NAMES:
        gap = getattr(found, name) - found.full
        torch.testing.assert_close(gap, getattr(exact, name), rtol=1e-8, atol=1e-10)


def test_full_covariance_is_of_higher_order():
    gaps = [measured(MIXED, grid(levels), 44) for levels in (40, 80)]
    orders = {name: float((getattr(gaps[0], name) / getattr(gaps[1], name)).log2()) for name in NAMES}
    # Half the step: half of a first-order total, a quarter of a second-order one.
    assert orders["posterior"] == pytest.approx(1, abs=0.15)
    assert orders["diagonal"] == pytest.approx(1, abs=0.15)
    assert orders["full"] == pytest.approx(2, abs=0.3)
