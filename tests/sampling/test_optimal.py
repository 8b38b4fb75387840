"""The grid of the least bound: it keeps its ends, beats even strides in nats, and depends on the seed alone."""

from itertools import pairwise

import pytest
import torch

from markovae.errors import UserError
from markovae.likelihood.subgrid import isotropic_costs
from markovae.sampling.generation import sample
from markovae.sampling.grids import sampling_grid
from markovae.sampling.tuning import optimal_grid
from markovae.theory.mixture import pink_gaussian


@pytest.fixture
def model(model_of):
    return model_of(pink_gaussian((1, 4, 4)), 100)


def nats(model, grid, toy):
    """The bound's steps on this grid, with the exact error of the denoiser at each level."""
    logsnr = model.schedule.logsnr
    z = torch.zeros(1, *model.shape, dtype=torch.float64)
    error = torch.stack([toy.covariance(z, at).diagonal(dim1=1, dim2=2).mean() for at in logsnr[1:]])
    costs = isotropic_costs(error, logsnr, model.dims)
    places = [int((logsnr[1:] - at).abs().argmin()) for at in grid[1:]]
    return float(sum(costs[i, j] for i, j in pairwise(places)))


def test_the_grid_costs_fewer_nats_than_even_strides(model):
    toy = model.network.toy
    for count in (5, 12):
        grid = optimal_grid(model, count, samples=256)  # of 16 pixels each
        assert len(grid) == count + 1
        assert torch.equal(grid[[0, 1, -1]], model.schedule.logsnr[[0, 1, -1]])
        assert nats(model, grid, toy) < nats(model, sampling_grid(model.schedule, count), toy)


def test_the_same_seed_gives_the_same_grid_and_given_images_are_surveyed(model):
    assert torch.equal(optimal_grid(model, 6), optimal_grid(model, 6))
    images = model.pixels.to_pixel_values(model.network.toy.sample(64, torch.Generator().manual_seed(0)))
    assert len(optimal_grid(model, 6, images=images)) == 7


def test_more_log_snrs_than_levels_are_refused(model):
    with pytest.raises(UserError, match="levels=101"):
        optimal_grid(model, 101)


def test_few_images_are_surveyed_at_more_levels_each(model):
    few = torch.from_numpy(sample(model, 3, steps=4))
    assert len(optimal_grid(model, 4, images=few)) == 5
