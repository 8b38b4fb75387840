"""Grids: their ends, their spacing, their refusals."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from markovae.diffusion.schedule import LogSNRLinear, cosine, linear
from markovae.sampling.grids import explicit_grid, partial_grid, rho_grid, sampling_grid, uniform_grid

steps = st.integers(2, 60)


@given(steps, st.floats(0, 13.3), st.floats(-12, -0.5), st.floats(0.5, 300))
def test_grids_between_two_log_snrs_fall_from_end_to_end(count, first, last, rho):
    for grid in (rho_grid(first, last, count, rho), uniform_grid(first, last, count)):
        assert grid[0] == torch.inf
        assert len(grid) == count + 1
        assert (grid.diff() < 0).all()
        torch.testing.assert_close(grid[[1, -1]], torch.tensor([first, last], dtype=torch.float64), atol=1e-9, rtol=0)


@given(steps)
def test_grids_of_a_schedule_run_from_level_one_to_the_last(count):
    for schedule in (LogSNRLinear(50), cosine(100), linear(200)):
        for grid in (sampling_grid(schedule, count),):
            assert (grid.diff() < 0).all()
            torch.testing.assert_close(grid[[1, -1]], schedule.logsnr[[1, -1]])


def test_rho_is_even_in_the_root_of_the_noise_ratio():
    ratio = torch.exp(-rho_grid(13.3, -10.0, 20)[1:] / 2) ** (1 / 7)
    torch.testing.assert_close(ratio.diff(), ratio.diff()[:1].expand(19))
    torch.testing.assert_close(rho_grid(9, -9, 12, 1e7), uniform_grid(9, -9, 12), atol=1e-4, rtol=0)


def test_levels_are_the_schedules_own():
    schedule = LogSNRLinear(50)
    torch.testing.assert_close(sampling_grid(schedule, 50), schedule.logsnr)
    assert len(sampling_grid(schedule, 80)) == 81


def test_one_step_takes_the_noisiest():
    for grid in (sampling_grid(LogSNRLinear(50), 1), rho_grid(9, -10, 1), uniform_grid(9, -10, 1)):
        torch.testing.assert_close(grid, torch.tensor([torch.inf, -10.0], dtype=torch.float64))


def test_explicit_grids_are_kept_as_they_are():
    torch.testing.assert_close(
        explicit_grid(torch.tensor([4.0, 1.5, -3.0])), torch.tensor([torch.inf, 4.0, 1.5, -3.0]).double()
    )
    for wrong in ([1.0, 2.0], [], [torch.inf, 0.0], [[1.0, 0.0]]):
        with pytest.raises(ValueError, match="fall from step to step"):
            explicit_grid(torch.tensor(wrong))


@given(st.floats(-9.5, 12))
def test_a_partial_grid_starts_where_told_in_the_same_proportions(begin):
    whole = rho_grid(13.3, -10.0, 15)
    grid = partial_grid(whole, begin)
    torch.testing.assert_close(grid[[1, -1]], torch.tensor([13.3, begin], dtype=torch.float64))
    torch.testing.assert_close(grid[1:].diff() / (begin - 13.3), whole[1:].diff() / -23.3)


def test_a_partial_grid_from_beside_the_data_is_one_step():
    for whole, begin in ((rho_grid(9, -9, 5), 9.5), (rho_grid(9, -9, 5), 9.0), (rho_grid(9, -9, 1), 2.0)):
        torch.testing.assert_close(partial_grid(whole, begin), torch.tensor([torch.inf, begin]).double())


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: uniform_grid(9, -9, 0), "steps=0"),
        (lambda: sampling_grid(LogSNRLinear(5), 0), "steps=0"),
        (lambda: rho_grid(-9, 9, 5), "-9 does not exceed 9"),
        (lambda: rho_grid(9, -9, 5, rho=0), "rho=0"),
    ],
)
def test_bad_grids_are_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
