import pytest
import torch

from markovae.diffusion.reverse import PosteriorVariance, StepVariance
from markovae.diffusion.schedule import LogSNRLinear, constant
from markovae.theory import gap_statements as statements
from markovae.theory.gaps import EULER, POINT_LIMIT, SMOOTH_LIMIT, point_gap, smooth_gap


def test_eulers_constant_by_its_series():
    n = torch.arange(1, 1_000_001, dtype=torch.float64)
    harmonic = float((1 / n).sum())
    assert pytest.approx(harmonic - float(n[-1].log()) - 0.5e-6, abs=1e-11) == EULER
    assert pytest.approx(0.2886, abs=5e-5) == SMOOTH_LIMIT
    assert pytest.approx(0.2114, abs=5e-5) == POINT_LIMIT


def test_posterior_variance_keeps_a_gap_on_smooth_data():
    expected, measured = statements.smooth_trap()
    assert measured == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("variance", [0.25, 1.0, 4.0])
def test_the_trap_does_not_depend_on_the_data(variance):
    assert smooth_gap(400_000, 0.1, variance) == pytest.approx(SMOOTH_LIMIT, abs=2e-3)


def test_step_variance_keeps_a_gap_on_points():
    expected, measured = statements.point_trap()
    assert measured == pytest.approx(expected, abs=2e-4)


def test_the_gap_on_points_is_the_most_there_is_at_constant_sigma():
    gaps = [point_gap(StepVariance(), constant(num_levels=n, delta=0.01).logsnr[1:]) for n in (10, 100, 1000)]
    assert gaps == sorted(gaps)
    assert gaps[-1] < POINT_LIMIT


def test_neither_trap_is_set_on_an_even_grid_in_logsnr():
    coarse, fine = (point_gap(StepVariance(), LogSNRLinear(n).logsnr[1:]) for n in (1000, 2000))
    assert fine == pytest.approx(coarse / 2, rel=0.02)
    assert point_gap(PosteriorVariance(), LogSNRLinear(100).logsnr[1:]) == 0
