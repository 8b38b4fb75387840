"""Stochastic samplers on Gaussian data: mean and covariance of the end against the same K-step linear recursion."""

import math

import pytest
import torch

from markovae.diffusion.forward import (
    noise_scale,
    posterior_coefficients,
    posterior_variance,
    signal_scale,
    step_variance,
)
from markovae.diffusion.reverse import FullVariance, PosteriorVariance, StepVariance
from markovae.randomness import generator
from markovae.sampling.grids import rho_grid
from markovae.sampling.samplers import DDIM, Ancestral, Langevin, SDEDPMSolverPP2M, trajectory

COUNT = 20_000
EYE = torch.eye(2, dtype=torch.float64)


def affine_denoiser(toy, logsnr):
    """x̂ = G z + k."""
    a, s = signal_scale(logsnr), noise_scale(logsnr)
    mean, covariance = toy.means[0], toy.distribution(1).covariance()[0]
    gain = a * covariance @ torch.linalg.inv(a**2 * covariance + s**2 * EYE)
    return gain, mean - a * gain @ mean


def ancestral(variance):
    def coefficients(now, following, toy):
        c_z, c_x = posterior_coefficients(following, now)
        return c_z, c_x, 0.0, variance(following, now, toy)

    return coefficients


def full(following, now, toy):
    """β̃ I + c_x² Cov[x|z]."""
    a, s = signal_scale(now), noise_scale(now)
    covariance = torch.linalg.inv(torch.linalg.inv(toy.distribution(1).covariance()[0]) + (a / s) ** 2 * EYE)
    return posterior_variance(following, now) * EYE + posterior_coefficients(following, now)[1] ** 2 * covariance


def ddim(eta):
    def coefficients(now, following, toy):
        fresh = eta**2 * posterior_variance(following, now)
        c_z = (noise_scale(following) ** 2 - fresh).sqrt() / noise_scale(now)
        return c_z, signal_scale(following) - c_z * signal_scale(now), 0.0, fresh * EYE

    return coefficients


def sde_2m(now, following, toy, before=None):
    """Lu et al.'s update, with h the difference of ln(a/s)."""
    h = (following - now) / 2
    renewed = 1 - torch.exp(-2 * h)
    c_z = noise_scale(following) / noise_scale(now) * torch.exp(-h)
    tilt = 0.0 if before is None else h / (now - before)
    c = signal_scale(following) * renewed
    return c_z, c * (1 + tilt), -c * tilt, noise_scale(following) ** 2 * renewed * EYE


CASES = {
    "ancestral, posterior variance": (
        Ancestral(PosteriorVariance()),
        ancestral(lambda following, now, toy: posterior_variance(following, now) * EYE),
    ),
    "ancestral, step variance": (
        Ancestral(StepVariance()),
        ancestral(lambda following, now, toy: step_variance(following, now) * EYE),
    ),
    "ancestral, full covariance": (Ancestral(FullVariance()), ancestral(full)),
    "ddim, eta 0.5": (DDIM(0.5), ddim(0.5)),
    "ddim, eta 1": (DDIM(1.0), ddim(1.0)),
    "sde 2m": (SDEDPMSolverPP2M(), sde_2m),
}


def recursion(toy, grid, coefficients, corrector=None):
    """Mean and covariance of z_0 by carrying those of the pair (z, x̂ before) through every step."""
    mean, covariance = torch.zeros(4, dtype=torch.float64), torch.zeros(4, 4, dtype=torch.float64)
    covariance[:2, :2] = EYE
    before = None
    for place in range(len(grid) - 1, 0, -1):
        now, gain_offset = grid[place], affine_denoiser(toy, grid[place])
        gain, offset = gain_offset
        if corrector is not None and place < len(grid) - 1:
            mean, covariance = corrected(mean, covariance, now, gain, offset, corrector)
        if place == 1:
            return gain @ mean[:2] + offset, gain @ covariance[:2, :2] @ gain.T
        if coefficients is sde_2m:
            c_z, c_x, c_past, fresh = sde_2m(now, grid[place - 1], toy, before)
        else:
            c_z, c_x, c_past, fresh = coefficients(now, grid[place - 1], toy)
        matrix = torch.zeros(4, 4, dtype=torch.float64)
        matrix[:2, :2], matrix[:2, 2:], matrix[2:, :2] = c_z * EYE + c_x * gain, c_past * EYE, gain
        mean = matrix @ mean + torch.cat([c_x * offset, offset])
        covariance = matrix @ covariance @ matrix.T
        covariance[:2, :2] += fresh
        before = now
    raise AssertionError


def corrected(mean, covariance, now, gain, offset, corrector):
    """z ← z + f s² score + √(2f) s ε."""
    fraction = 2 * corrector.ratio**2
    a, s = signal_scale(now), noise_scale(now)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:2, :2] = EYE + fraction * (a * gain - EYE)
    mean = matrix @ mean
    mean[:2] += fraction * a * offset
    covariance = matrix @ covariance @ matrix.T
    covariance[:2, :2] += 2 * fraction * s**2 * EYE
    return mean, covariance


def assert_moments(ends, mean, covariance):
    variance = covariance.diagonal()
    assert ((ends.mean(0) - mean).abs() < 4 * (variance / COUNT).sqrt()).all()
    stderr = ((variance[:, None] * variance + covariance**2) / COUNT).sqrt()
    assert ((ends.T.cov() - covariance).abs() < 4 * stderr).all()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("steps", [3, 8])
def test_moments_of_the_end(name, steps, gaussian, model_of):
    stepper, coefficients = CASES[name]
    model = model_of(gaussian, reverse=stepper.reverse if isinstance(stepper, Ancestral) else None)
    grid = rho_grid(8.0, -9.0, steps)
    z = torch.randn(COUNT, 2, generator=generator(1, "start"), dtype=torch.float64)
    *_, end = trajectory(model, z, grid, stepper, generator(1, "noise"))
    assert_moments(end.z, *recursion(gaussian, grid, coefficients))


def test_moments_of_predictor_and_corrector(gaussian, model_of):
    grid, corrector = rho_grid(8.0, -9.0, 8), Langevin(ratio=0.3)
    z = torch.randn(COUNT, 2, generator=generator(2, "start"), dtype=torch.float64)
    *_, end = trajectory(model_of(gaussian), z, grid, DDIM(), generator(2, "noise"), corrector=corrector)
    assert_moments(end.z, *recursion(gaussian, grid, ddim(0.0), corrector))


def test_corrections_bring_the_covariance_nearer_to_the_truth(gaussian):
    grid = rho_grid(8.0, -9.0, 12)
    truth = gaussian.distribution(1).covariance()[0]
    plain = recursion(gaussian, grid, ddim(0.0))[1]
    better = recursion(gaussian, grid, ddim(0.0), Langevin(ratio=0.3))[1]
    assert float((better - truth).norm()) < 0.8 * float((plain - truth).norm())


def test_ddim_with_eta_one_draws_the_ancestral_step(gaussian, model_of):
    model, grid = model_of(gaussian), rho_grid(13.3, -10.0, 12)
    z = torch.randn(5, 2, generator=generator(3), dtype=torch.float64)
    ends = []
    for stepper in (DDIM(eta=1.0), Ancestral(PosteriorVariance())):
        *_, end = trajectory(model, z, grid, stepper, generator(3, "noise"))
        ends.append(end.z)
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("value", [-0.1, 2.0, math.nan])
def test_values_out_of_range_are_refused(value):
    with pytest.raises(ValueError, match="eta="):
        DDIM(eta=value)
    with pytest.raises(ValueError, match="ratio="):
        Langevin(ratio=value)
    with pytest.raises(ValueError, match="calls=0"):
        Langevin(calls=0)
