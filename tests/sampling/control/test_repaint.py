"""RePaint on correlated Gaussian data: its error, and that it falls with resampling."""

import pytest
import torch

from markovae.diffusion.reverse import PosteriorVariance
from markovae.randomness import generator
from markovae.sampling.editor import RePaint
from markovae.sampling.generation import final_latents
from markovae.sampling.grids import rho_grid
from markovae.sampling.samplers import Ancestral, trajectory
from markovae.theory.mixture import Mixture

COUNT, CORRELATION = 6_000, 0.9


def covariance_error(counting, resampling):
    """How far Cov(known, drawn) is from the truth, as a share of it: 1 is no relation at all."""
    truth = 0.09 * torch.tensor([[1, CORRELATION], [CORRELATION, 1]])
    toy = Mixture.gaussian(torch.tensor([0.1, -0.1]), truth)
    x = toy.sample(COUNT, generator(0, "x"))
    known = torch.tensor([True, False])
    model, stepper = counting(toy), RePaint(Ancestral(PosteriorVariance()), x, known, resampling)
    z = torch.randn(COUNT, 2, generator=generator(0, "z"), dtype=torch.float64)
    drawn = torch.where(known, x, final_latents(trajectory(model, z, rho_grid(9, -9, 30), stepper, generator(0, "n"))))
    assert model.calls == 30 + 28 * (resampling - 1) + (resampling - 1)
    return abs(float(drawn.T.cov()[0, 1] / truth[0, 1]) - 1)


def test_the_error_falls_with_resampling(counting):
    errors = [covariance_error(counting, resampling) for resampling in (1, 3, 10)]
    assert errors[0] > 0.15
    assert errors[1] < 0.75 * errors[0]
    assert errors[2] < 0.6 * errors[1]


def test_known_coordinates_are_the_noised_image_at_every_step(counting, mixture):
    x = torch.full((4, 2), 0.25, dtype=torch.float64)
    stepper = RePaint(Ancestral(PosteriorVariance()), x, torch.tensor([True, False]), 2)
    z = torch.randn(4, 2, generator=generator(1), dtype=torch.float64)
    states = list(trajectory(counting(mixture), z, rho_grid(13.3, -9, 20), stepper, generator(2)))
    near = states[-2]
    assert float((near.z[:, 0] - 0.25).abs().max()) < 5 * 0.0013
    assert float((near.z[:, 1] - 0.25).abs().max()) > 0.05


def test_no_resampling_is_refused():
    with pytest.raises(ValueError, match="resampling=0"):
        RePaint(Ancestral(PosteriorVariance()), torch.zeros(1, 2), torch.tensor([True, False]), 0)
