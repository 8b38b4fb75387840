"""The learned schedule: monotone whatever its parameters; ends by the mean, shape by the variance."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from markovae.diffusion.decoder import DensityDecoder
from markovae.diffusion.forward import noise_scale, signal_scale
from markovae.diffusion.learned_schedule import LearnedLogSNR, backward, slope
from markovae.diffusion.model import Diffusion
from markovae.diffusion.reverse import PosteriorVariance
from markovae.diffusion.schedule import LogSNRLinear, Tabulated
from markovae.diffusion.target import DATA
from markovae.likelihood.continuous import continuous_draws
from markovae.randomness import generator

VARIANCE = 0.3


class Wiener(nn.Module):
    """The exact denoiser of N(0, VARIANCE) data, times a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, z, logsnr, condition=None):
        a, s = signal_scale(logsnr), noise_scale(logsnr)
        return self.weight * (a * VARIANCE / (a**2 * VARIANCE + s**2))[:, None] * z


def model(schedule) -> Diffusion:
    made = Diffusion(Wiener(), schedule, DATA, PosteriorVariance(), DensityDecoder(), (16,))
    made.precision = torch.float64
    return made


def draws(diffusion: Diffusion, n: int, seed: int) -> torch.Tensor:
    source = generator(seed, "learned")
    x = VARIANCE**0.5 * torch.randn(n, 16, generator=source, dtype=torch.float64)
    noise = torch.randn(n, 16, generator=source, dtype=torch.float64)
    quantile = torch.rand(n, generator=source, dtype=torch.float64)
    return continuous_draws(diffusion, x, noise, quantile)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 5))
def test_falls_between_its_ends_whatever_the_shape(seed, size):
    schedule = LearnedLogSNR(200, 13.3, -10.0)
    source = generator(seed, "shape")
    with torch.no_grad():
        for parameter in schedule.shape_parameters():
            parameter += size * torch.randn(parameter.shape, generator=source, dtype=torch.float64)
        logsnr = schedule.logsnr
    assert float(logsnr[1]) == pytest.approx(13.3)
    assert float(logsnr[-1]) == pytest.approx(-10.0)
    assert bool((logsnr[1:] < logsnr[:-1]).all())


def test_begins_near_even_steps():
    with torch.no_grad():
        found = LearnedLogSNR(100).logsnr[1:]
    assert float((found - LogSNRLinear(100).logsnr[1:]).abs().max()) < 0.5


def test_slope_is_the_derivative():
    schedule = LearnedLogSNR(10, hidden=4)
    u = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    with torch.no_grad():
        _, found = slope(schedule, u)
        expected = (schedule.at(u + 1e-6) - schedule.at(u - 1e-6)) / 2e-6
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert not found.requires_grad
    table = Tabulated(torch.tensor([3.0, 1.0, -4.0]))
    torch.testing.assert_close(slope(table, torch.tensor([0.2, 0.8]))[1], torch.tensor([-4.0, -10.0]).double())


def test_gradients_go_where_they_belong():
    schedule = LearnedLogSNR(10, 5.0, -5.0, hidden=4)
    diffusion = model(schedule)
    nats = draws(diffusion, 200, 0)
    shape = list(schedule.shape_parameters())
    others = [schedule.start, schedule.log_span, diffusion.network.weight]
    mean = torch.autograd.grad(nats.mean(), others, retain_graph=True)
    square = torch.autograd.grad((nats**2).mean(), shape, retain_graph=True)
    backward(nats, schedule)
    for parameter, expected in zip([*others, *shape], [*mean, *square], strict=True):
        torch.testing.assert_close(parameter.grad, expected)
    # And, as backward does, it adds to what is there.
    backward(draws(diffusion, 200, 0), schedule)
    for parameter, expected in zip([*others, *shape], [*mean, *square], strict=True):
        torch.testing.assert_close(parameter.grad, 2 * expected)


def test_training_the_shape_lowers_the_variance_and_leaves_the_mean():
    schedule = LearnedLogSNR(10, 9.0, -9.0, hidden=16)
    diffusion = model(schedule)
    with torch.no_grad():
        before = draws(diffusion, 20_000, 99)
    optimizer = torch.optim.Adam(schedule.shape_parameters(), lr=0.1)
    for step in range(50):
        optimizer.zero_grad()
        backward(draws(diffusion, 256, step), schedule)
        optimizer.step()
    with torch.no_grad():
        after = draws(diffusion, 20_000, 99)
    spread = (float(before.var() + after.var()) / 20_000) ** 0.5
    assert float(after.mean()) == pytest.approx(float(before.mean()), abs=4 * spread)
    assert float(after.var()) < 0.5 * float(before.var())


def test_bad_settings_are_one_sentence():
    with pytest.raises(ValueError, match="must fall"):
        LearnedLogSNR(10, -1.0, 1.0)
    with pytest.raises(ValueError, match="hidden=0"):
        LearnedLogSNR(10, hidden=0)


def test_a_table_has_a_slope_at_its_own_levels_too():
    table = Tabulated(torch.tensor([4.0, 2.0, 0.0, -2.0, -4.0]))
    at, rate = slope(table, torch.tensor([0.0, 0.25, 0.3, 0.5, 1.0]))
    assert rate.tolist() == pytest.approx([-8.0] * 5)
    assert at.tolist() == pytest.approx([4.0, 2.0, 1.6, 0.0, -4.0])
    assert slope(Tabulated(torch.tensor([1.0])), torch.tensor([0.0]))[1].tolist() == [0.0]
