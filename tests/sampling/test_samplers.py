"""Samplers against Gaussian data, where every step is linear and the answer is known."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from markovae.decoder import StepDecoder
from markovae.diffusion import Diffusion
from markovae.errors import UserError
from markovae.forward import noise_scale, posterior_coefficients, posterior_variance, signal_scale
from markovae.pixels import Pixels
from markovae.randomness import Streams, generator
from markovae.reverse import PosteriorVariance, StepVariance
from markovae.sampling import DDIM, Ancestral, DPMSolverPP2M, plan, rho_grid, sample, sampling_grid, trajectory
from markovae.schedule import LogSNRLinear
from markovae.target import DATA

SPREAD = 0.5


class GaussianDenoiser(nn.Module):
    """E[x|z] for x ~ N(0, SPREAD²): a γ-weighted shrinkage."""

    def forward(self, z: Tensor, logsnr: Tensor, condition: object = None) -> Tensor:
        a, s = signal_scale(logsnr), noise_scale(logsnr)
        gain = a * SPREAD**2 / (a**2 * SPREAD**2 + s**2)
        return gain.reshape(-1, *[1] * (z.ndim - 1)) * z


def gaussian_model(levels: int = 1000, shape: tuple[int, ...] = (1, 4, 4)) -> Diffusion:
    model = Diffusion(
        GaussianDenoiser(), LogSNRLinear(levels), DATA, PosteriorVariance(), StepDecoder(Pixels(256)), shape
    )
    model.precision = torch.float64
    return model


def exact_flow(z: Tensor, start: Tensor) -> Tensor:
    """The probability flow takes N(0, a²v+s²) to N(0, v) by scaling."""
    a, s = signal_scale(start), noise_scale(start)
    return z * SPREAD / (a**2 * SPREAD**2 + s**2).sqrt()


@pytest.mark.parametrize(("stepper", "order"), [(DDIM(), 1), (DPMSolverPP2M(), 2)])
def test_solvers_converge_at_their_order(stepper, order):
    model = gaussian_model()
    z = torch.randn(8, 1, 4, 4, generator=generator(0, "test"), dtype=torch.float64)
    errors, counts = [], [64, 128, 256, 512]
    for count in counts:
        # The clean end is left out: the last step (to λ = ∞) is x̂ itself and has an error of its own.
        grid = torch.linspace(6.0, -6.0, count + 1, dtype=torch.float64)
        *_, end = trajectory(model, z, grid, stepper, generator(0))
        a, s = signal_scale(grid[0]), noise_scale(grid[0])
        wanted = exact_flow(z, grid[-1]) / SPREAD * (a**2 * SPREAD**2 + s**2).sqrt()
        errors.append(float((end.z - wanted).abs().max()))
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope == pytest.approx(-order, abs=0.15)


@pytest.mark.parametrize("reverse", [PosteriorVariance(), StepVariance()])
def test_ancestral_moments_follow_the_linear_recursion(reverse):
    model = gaussian_model(shape=(20_000,))
    grid = sampling_grid(model.schedule, 10)
    z = torch.randn(1, 20_000, generator=generator(1, "z"), dtype=torch.float64)
    *_, end = trajectory(model, z, grid, Ancestral(reverse), generator(1, "noise"))
    variance = torch.ones((), dtype=torch.float64)
    for level in range(10, 0, -1):
        a, s = signal_scale(grid[level]), noise_scale(grid[level])
        gain = a * SPREAD**2 / (a**2 * SPREAD**2 + s**2)
        if level == 1:
            variance = gain**2 * variance
            continue
        c_z, c_x = posterior_coefficients(grid[level - 1], grid[level])
        fresh = reverse.variance(grid[level - 1], grid[level], None)
        variance = (c_z + c_x * gain) ** 2 * variance + fresh
    stderr = float(variance) * math.sqrt(2 / 20_000)
    assert float(end.z.var()) == pytest.approx(float(variance), abs=4 * stderr)


def test_ddim_with_eta_one_is_the_ancestral_step():
    model = gaussian_model()
    grid = sampling_grid(model.schedule, 12)
    z = torch.randn(3, 1, 4, 4, generator=generator(2), dtype=torch.float64)
    ends = []
    for stepper in (DDIM(eta=1.0), Ancestral(PosteriorVariance())):
        *_, end = trajectory(model, z, grid, stepper, Streams(0, "eta", range(3)))
        ends.append(end.z)
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-10, atol=1e-12)


def test_ancestral_through_all_levels_is_generate():
    model = gaussian_model(levels=30)
    z = Streams(5, "s", range(2)).normal(model.shape, torch.float32)
    source = Streams(5, "t", range(2))
    *_, end = trajectory(model, z, model.schedule.logsnr, Ancestral(model.reverse), source)
    again = Streams(5, "t", range(2))
    step = z
    for level in range(30, 1, -1):
        step = model.prior_step(step, level).sample(again)
    assert torch.equal(model.prior_step(step, 1).mean, end.z)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp2m", "ancestral"])
def test_sample_depends_on_seed_and_number_only(sampler):
    model = gaussian_model()
    whole = sample(model, 7, steps=5, sampler=sampler, batch=7, raw=True)
    parts = sample(model, 7, steps=5, sampler=sampler, batch=2, raw=True)
    np.testing.assert_allclose(whole, parts, rtol=0, atol=1e-6)
    assert np.abs(whole[0] - whole[1]).max() > 0.05
    assert np.abs(whole - sample(model, 7, steps=5, sampler=sampler, seed=1, raw=True)).max() > 0.05


def test_digits_are_those_of_the_raw_sample():
    model = gaussian_model()
    digits, raw = sample(model, 2, steps=4), sample(model, 2, steps=4, raw=True)
    assert digits.dtype == np.uint8
    np.testing.assert_array_equal(digits, np.clip(np.rint((raw.astype(np.float64) + 1) * 127.5), 0, 255))


def test_posterior_variance_is_the_choice_that_ddim_bounds():
    logsnr = torch.tensor(0.3, dtype=torch.float64)
    following = torch.tensor(1.1, dtype=torch.float64)
    assert float(posterior_variance(following, logsnr)) < float(noise_scale(following) ** 2)


def test_grids():
    grid = rho_grid(13.3, -10.0, 20)
    assert grid[0] == torch.inf
    assert (grid[1:] < grid[:-1]).all()
    torch.testing.assert_close(grid[[1, -1]], torch.tensor([13.3, -10.0], dtype=torch.float64))
    sigma = torch.exp(-grid[1:] / 2) ** (1 / 7)
    torch.testing.assert_close(sigma.diff(), sigma.diff()[:1].expand(19))
    schedule = LogSNRLinear(50)
    torch.testing.assert_close(sampling_grid(schedule, 50), schedule.logsnr)
    assert len(sampling_grid(schedule, 80)) == 81


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"n": 0}, "n=0"),
        ({"n": 2, "steps": 0}, "steps=0"),
        ({"n": 2, "steps": 1001, "sampler": "ancestral"}, "1000 levels"),
        ({"n": 2, "sampler": "heum"}, "heum"),
        ({"n": 2, "batch": 0}, "batch=0"),
        ({"n": 2, "labels": 1}, "without labels"),
    ],
)
def test_bad_requests_are_one_sentence(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        sample(gaussian_model(), **arguments)


def test_steppers_for_plans():
    model = gaussian_model(levels=10)
    assert len(plan(model, "ancestral", None).grid) == 11
    assert len(plan(model, "ddim", 15).grid) == 16
    with pytest.raises(ValueError, match="eta=2"):
        DDIM(eta=2)
