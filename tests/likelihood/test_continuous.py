"""The continuous bound: its value for Gaussian data, and that the schedule's shape cannot move it."""

import pytest
import torch
from torch import nn

from markovae.diffusion.bound import estimate_mean
from markovae.diffusion.decoder import DensityDecoder
from markovae.diffusion.learned_schedule import LearnedLogSNR
from markovae.diffusion.model import Diffusion
from markovae.diffusion.reverse import PosteriorVariance
from markovae.diffusion.schedule import LogSNRLinear, Tabulated, constant
from markovae.diffusion.target import DATA, STEP_NOISE
from markovae.errors import UserError
from markovae.likelihood.continuous import continuous_bound, continuous_draws
from markovae.likelihood.measuring import measure
from markovae.randomness import generator

ENDS = (3.0, -5.0)


def bent(seed: int) -> LearnedLogSNR:
    """A learned schedule of random shape between the same ends."""
    schedule = LearnedLogSNR(33, *ENDS, hidden=8)
    source = generator(seed, "shape")
    with torch.no_grad():
        for parameter in schedule.shape_parameters():
            parameter += 0.7 * torch.randn(parameter.shape, generator=source, dtype=torch.float64)
    return schedule


def schedules():
    table = torch.tensor([ENDS[0], 2.5, 2.0, -1.0, -1.2, -4.0, ENDS[1]], dtype=torch.float64)
    return [LogSNRLinear(33, *ENDS), Tabulated(table), bent(0), bent(1)]


class Blind(nn.Module):
    """x̂ = 0 whatever z: its error is ‖x‖², at every level."""

    def forward(self, z, logsnr, condition=None):
        return torch.zeros_like(z)


@pytest.mark.parametrize("which", range(4))
def test_shape_leaves_no_trace_in_the_integral(which):
    model = Diffusion(Blind(), LogSNRLinear(33, *ENDS), DATA, PosteriorVariance(), DensityDecoder(), (1,))
    model.precision = torch.float64
    n = 60_000
    quantile = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    x = torch.full((n, 1), 0.7, dtype=torch.float64)
    with torch.no_grad():
        draws = continuous_draws(model, x, torch.zeros_like(x), quantile, schedule=schedules()[which])
    expected = 0.5 * 0.49 * float(torch.tensor(ENDS[0]).double().exp() - torch.tensor(ENDS[1]).double().exp())
    assert float(draws.mean()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("which", range(4))
def test_gaussian_data_cost_their_information(gauss, which):
    model = gauss.model(ends=ENDS)
    measured = continuous_bound(
        model, gauss.data(1500, generator(0, "x")), schedule=schedules()[which], draws=8, batch=4096
    )
    levels = estimate_mean(measured.levels)
    assert levels.value == pytest.approx(gauss.information(model), abs=4 * levels.stderr)
    assert levels.stderr < 0.15
    assert measured.num_levels == 0
    assert measured.network_calls_per_example == 9


def test_lies_below_the_bound_of_few_levels_by_its_gap(gauss):
    x = gauss.data(800, generator(0, "x"))
    model = gauss.model(ends=ENDS, levels=20)
    limit, few = continuous_bound(model, x, draws=32, batch=4096), measure(model, x, draws=None, batch=4096)
    difference = estimate_mean(few.total - limit.total)
    snr = model.schedule.logsnr[1:].exp()
    error = gauss.errors(model, model.schedule.logsnr[1:]).sum(1)
    expected = 0.5 * float(((snr[:-1] - snr[1:]) * error[1:]).sum()) - gauss.information(model)
    assert difference.value == pytest.approx(expected, abs=4 * difference.stderr)
    assert torch.equal(limit.prior, few.prior)
    torch.testing.assert_close(limit.reconstruction, few.reconstruction)


def test_constant_sigma_begins_at_its_first_level(gauss):
    schedule = constant(num_levels=40, delta=0.05)
    model = gauss.model(schedule=schedule)
    measured = continuous_bound(model, gauss.data(1500, generator(0, "x")), draws=8, batch=4096)
    levels = estimate_mean(measured.levels)
    assert levels.value == pytest.approx(gauss.information(model), abs=4 * levels.stderr)


def test_outputs_that_are_no_numbers_are_told(gauss):
    model, x = gauss.model(ends=ENDS), gauss.data(3, generator(0, "x"))
    model.network.forward = lambda z, logsnr, condition=None: torch.where(z > 1e-3, z, torch.nan)
    with pytest.raises(UserError, match=r"image \d gave nan nats: the model's weights or outputs are not finite"):
        continuous_bound(model, x)
    x[1, 2] = torch.inf
    with pytest.raises(UserError, match="the data hold NaN or Inf"):
        continuous_bound(model, x)


def test_batches_leave_no_trace(gauss):
    x = gauss.data(7, generator(0, "x"))
    one, many = (continuous_bound(gauss.model(), x, draws=4, batch=b) for b in (4, 64))
    torch.testing.assert_close(one.total, many.total, rtol=1e-12, atol=1e-12)


def test_targets_of_one_step_are_refused(gauss):
    model = gauss.model()
    model.target = STEP_NOISE
    with pytest.raises(UserError, match="no continuous limit"):
        continuous_bound(model, gauss.data(2, generator(0, "x")))


def test_another_schedule_has_the_models_ends(gauss):
    x = gauss.data(4, generator(0, "x"))
    continuous_bound(gauss.model(), x, schedule=LogSNRLinear(7, 6.0, -6.0))
    with pytest.raises(UserError, match="from log-SNR 4 to -6 bounds nothing of a model from 6 to -6"):
        continuous_bound(gauss.model(), x, schedule=LogSNRLinear(33, 4.0, -6.0))
