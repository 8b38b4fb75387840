"""Moment matching on Gaussian data, where the posterior is known exactly."""

import pytest
import torch

from markovae.diffusion.forward import noise_scale, signal_scale
from markovae.randomness import generator
from markovae.sampling.generation import final_latents
from markovae.sampling.grids import uniform_grid
from markovae.sampling.inverse import (
    BoxDown,
    FullCovariance,
    IsotropicCovariance,
    Known,
    MomentMatched,
    Observation,
    least_residual,
)
from markovae.sampling.samplers import DPMSolverPP2M, trajectory
from markovae.theory.mixture import Denoiser, pink_gaussian
from markovae.theory.quadrature import slope

SHAPE, DIMS = (1, 4, 4), 16


class Exact:
    def __init__(self, toy):
        self.network = Denoiser(toy)

    def predict(self, z, logsnr, condition=None):
        return self.network(z, logsnr).to(z.dtype), None


@pytest.fixture
def toy():
    return pink_gaussian(SHAPE)


def observations():
    source = generator(4, "y")
    mask = torch.rand(4, 4, generator=source) < 0.5
    y = torch.randn(1, *SHAPE, generator=source, dtype=torch.float64) / 2
    return {
        "known pixels": Observation(Known(mask), Known(mask).apply(y)),
        "known pixels with noise": Observation(Known(mask), Known(mask).apply(y), 0.2),
        "squares": Observation(BoxDown(2), BoxDown(2).apply(y)),
        "squares with noise": Observation(BoxDown(2), BoxDown(2).apply(y), 0.1),
    }


def matrix_of(operator):
    basis = torch.eye(DIMS, dtype=torch.float64).reshape(DIMS, *SHAPE)
    matrix = operator.apply(basis).flatten(1).T
    return matrix[matrix.abs().sum(1) > 0], matrix.abs().sum(1) > 0


def condition(mean, covariance, observation):
    """Mean and covariance of N(mean, covariance) given y."""
    matrix, rows = matrix_of(observation.operator)
    y = observation.y.flatten()[rows]
    inner = matrix @ covariance @ matrix.T + observation.noise**2 * torch.eye(len(y), dtype=torch.float64)
    gain = covariance @ matrix.T @ torch.linalg.inv(inner)
    return mean + (y - mean @ matrix.T) @ gain.T, covariance - gain @ matrix @ covariance


@pytest.mark.parametrize("name", observations())
@pytest.mark.parametrize("logsnr", [-8.0, 0.0, 5.0, 12.0])
def test_the_denoiser_is_the_exact_conditional_mean(name, logsnr, toy):
    observation, logsnr = observations()[name], torch.tensor(logsnr, dtype=torch.float64)
    z = torch.randn(3, *SHAPE, generator=generator(5), dtype=torch.float64)
    wanted = condition(toy.denoise(z, logsnr).flatten(1), toy.covariance(z, logsnr)[0], observation)[0]
    found, _ = MomentMatched(Exact(toy), observation, iterations=16).predict(z, logsnr)
    torch.testing.assert_close(found.flatten(1), wanted, rtol=1e-7, atol=1e-8)


def moments_of_end(model, steps):
    """The end is affine in z_L ~ N(0, I), so a walk of the origin and the axes gives its moments without sampling."""
    z = torch.cat([torch.zeros(1, DIMS, dtype=torch.float64), torch.eye(DIMS, dtype=torch.float64)])
    end = final_latents(trajectory(model, z.reshape(-1, *SHAPE), uniform_grid(16, -18, steps), DPMSolverPP2M(), None))
    axes = (end[1:] - end[:1]).flatten(1)
    return end[0].flatten(), axes.T @ axes


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "squares")) for name in observations()]
)
def test_full_covariance_reaches_the_exact_posterior_as_steps_grow(name, toy):
    observation, distribution = observations()[name], toy.distribution(1)
    mean, covariance = condition(distribution.mean().flatten(), distribution.covariance()[0], observation)
    steps, errors = (60, 240), []
    for count in steps:
        model = MomentMatched(Exact(toy), observation, iterations=observation.y.numel())
        found_mean, found_covariance = moments_of_end(model, count)
        errors.append((float((found_mean - mean).norm()), float((found_covariance - covariance).norm())))
    mean_errors, covariance_errors = torch.tensor(errors).T
    assert mean_errors[-1] < 2e-4 * (1 + float(mean.norm()))
    assert covariance_errors[-1] < 2e-3 * float(covariance.norm())
    assert slope(torch.tensor(steps), covariance_errors) == pytest.approx(-2, abs=0.35)


def test_isotropic_covariance_fits_the_observation_but_not_the_moments(toy):
    observation, distribution = observations()["squares"], toy.distribution(1)
    _, covariance = condition(distribution.mean().flatten(), distribution.covariance()[0], observation)
    errors = []
    for kind in (FullCovariance(), IsotropicCovariance(0.25)):
        model = MomentMatched(Exact(toy), observation, kind, iterations=4)
        mean, found = moments_of_end(model, 120)
        torch.testing.assert_close(BoxDown(2).apply(mean.reshape(1, *SHAPE)), observation.y, rtol=0, atol=1e-3)
        errors.append(float((found - covariance).norm() / covariance.norm()))
    assert errors[0] < 0.01 < errors[1] < 1


def test_float32_keeps_the_observation_near_the_data(toy):
    observation = observations()["squares"]
    ends = []
    for dtype in (torch.float64, torch.float32):
        z = torch.randn(4, *SHAPE, generator=generator(6), dtype=torch.float32).to(dtype)
        model = MomentMatched(Exact(toy), observation, iterations=8)
        ends.append(final_latents(trajectory(model, z, uniform_grid(13.3, -10, 30), DPMSolverPP2M(), None)).double())
    assert float((ends[0] - ends[1]).abs().max()) < 1e-3
    assert float((BoxDown(2).apply(ends[1]) - observation.y).abs().max()) < 1e-5


def test_no_gradient_is_left_behind(toy):
    z = torch.zeros(1, *SHAPE, dtype=torch.float64)
    with torch.no_grad():
        found, _ = MomentMatched(Exact(toy), observations()["squares"]).predict(z, torch.tensor(0.0).double())
    assert not found.requires_grad
    assert not z.requires_grad


def test_the_solver_takes_each_example_by_itself_and_needs_no_symmetry():
    source = generator(7)
    roots = torch.randn(4, 6, 6, generator=source, dtype=torch.float64)
    matrices = roots @ roots.mT + 0.1 * torch.eye(6, dtype=torch.float64)
    matrices[2] = matrices[2] + 0.5 * (roots[2] - roots[2].mT)
    matrices[3] = 0
    b = torch.randn(4, 6, generator=source, dtype=torch.float64)
    b[1] = 0
    found = least_residual(lambda v: (matrices @ v[..., None])[..., 0], b, 12)
    for place in (0, 2):
        torch.testing.assert_close(found[place], torch.linalg.solve(matrices[place], b[place]))
    assert torch.equal(found[[1, 3]], torch.zeros_like(b[:2]))


def test_no_iteration_raises_the_residual_of_an_indefinite_matrix():
    """Where conjugate gradients run away: two eigenvalues below zero and a skew part."""
    source = generator(8)
    basis = torch.linalg.qr(torch.randn(9, 9, generator=source, dtype=torch.float64))[0]
    values = torch.tensor([1.0, 0.7, 0.5, 0.3, 0.1, 1e-3, 1e-5, -1e-4, -0.05], dtype=torch.float64)
    skew = torch.randn(9, 9, generator=source, dtype=torch.float64)
    matrix = basis @ values.diag() @ basis.T + 0.02 * (skew - skew.T)
    b = torch.randn(1, 9, generator=source, dtype=torch.float64)
    sizes = [float((b - least_residual(lambda v: v @ matrix.T, b, n) @ matrix.T).norm()) for n in range(1, 10)]
    assert all(after <= before * (1 + 1e-12) for before, after in zip([float(b.norm()), *sizes], sizes, strict=False))
    assert sizes[-1] < 1e-3 * sizes[0]


def test_scales_of_the_isotropic_covariance():
    logsnr = torch.tensor(1.0, dtype=torch.float64)
    z = torch.zeros(1, *SHAPE, dtype=torch.float64)
    _, _, product = IsotropicCovariance(0.25).at(Exact(pink_gaussian(SHAPE)), z, logsnr, None)
    precision = 1 / 0.25 + float((signal_scale(logsnr) / noise_scale(logsnr)) ** 2)
    torch.testing.assert_close(product(torch.ones_like(z)), torch.full_like(z, 1 / precision))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: Observation(BoxDown(2), torch.zeros(1), -0.1), "noise=-0.1"),
        (lambda: IsotropicCovariance(0.0), "variance=0"),
        (lambda: MomentMatched(Exact(pink_gaussian(SHAPE)), observations()["squares"], iterations=0), "iterations=0"),
    ],
)
def test_bad_arguments_are_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
