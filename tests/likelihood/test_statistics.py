"""Level statistics against closed-form errors, and what is fitted from it."""

import pytest
import torch
from torch import nn

from markovae.diffusion.forward import posterior_variance
from markovae.diffusion.reverse import DiagonalVariance, IsotropicVariance
from markovae.diffusion.schedule import LogSNRLinear, constant
from markovae.errors import UserError
from markovae.likelihood.fitting import fit_reverse
from markovae.likelihood.measuring import measure
from markovae.likelihood.statistics import collect_level_statistics, surveyed_levels
from markovae.randomness import generator


def test_moments_are_those_of_the_toy(gauss):
    model = gauss.model(factor=0.9)
    found = collect_level_statistics(model, gauss.data(4000, generator(0, "x")), per_image=8, knots=None, batch=4096)
    assert int(found.count.sum()) == 32_000
    assert int(found.count.min()) > 800
    torch.testing.assert_close(found.error, gauss.errors(model, model.schedule.logsnr[1:]), rtol=0.35, atol=0)
    mean = found.errors_at(model.schedule.logsnr[1:])
    torch.testing.assert_close(mean, gauss.errors(model, model.schedule.logsnr[1:]).mean(1), rtol=0.2, atol=0)
    assert found.prior + float(found.nats[0] + found.nats_of_levels().sum()) == pytest.approx(
        gauss.truth(model), rel=0.03
    )
    assert bool((found.nats_square >= found.nats**2).all())


def test_few_knots_stand_for_all_levels(gauss):
    model = gauss.model(levels=200)
    found = collect_level_statistics(model, gauss.data(3000, generator(0, "x")), per_image=4, knots=17, batch=4096)
    assert len(found.level) == 17
    exact = gauss.errors(model, model.schedule.logsnr[1:]).mean(1)
    torch.testing.assert_close(found.errors_at(model.schedule.logsnr[1:]), exact, rtol=0.15, atol=0)
    snr = model.schedule.logsnr[1:].exp()
    nats = 2 * (snr[:-1] - snr[1:]) * exact[1:]
    torch.testing.assert_close(found.nats_of_levels(), nats, rtol=0.15, atol=0)
    distribution = found.distribution(even=0.0).probability
    expected = (nats / nats.sum()).clamp(min=1e-9)
    assert float((distribution / expected).log().abs().median()) < 0.3


def test_fitted_variances_are_the_best_and_serve_sub_grids(gauss):
    x, other = gauss.data(300, generator(0, "x")), gauss.data(2000, generator(1, "x"))
    totals = {}
    for name, reverse in (("isotropic", IsotropicVariance(33)), ("diagonal", DiagonalVariance((4,), 33))):
        model = gauss.model(reverse=reverse)
        fit_reverse(model, other, batch=4096)
        exact = gauss.errors(model, model.schedule.logsnr[1:])
        now, prev = model.schedule.logsnr[9:10], model.schedule.logsnr[5:6]  # a stride of four levels
        width = prev.exp() - now.exp()
        error = exact[8].mean() if name == "isotropic" else exact[8]
        expected = posterior_variance(prev, now) * (1 + width * error)
        found = reverse.variance(prev, now, None)
        torch.testing.assert_close(found.flatten(), expected.flatten(), rtol=0.1, atol=0)
        totals[name] = float(measure(model, x, draws=None, levels=9, batch=4096).levels.mean())
    totals["posterior"] = float(measure(gauss.model(), x, draws=None, levels=9, batch=4096).levels.mean())
    assert totals["diagonal"] < totals["isotropic"] < totals["posterior"]


def test_surveyed_levels_are_even_in_log_snr():
    levels = surveyed_levels(LogSNRLinear(1000), 5)
    assert levels.tolist()[0] == 1
    assert levels.tolist()[-1] == 1000
    assert float(levels.diff().double().std()) < 2
    crowded = surveyed_levels(constant(num_levels=50, delta=0.01), 65)
    assert torch.equal(crowded, torch.arange(1, 51))
    steep = surveyed_levels(constant(num_levels=1000, delta=0.01), 65)
    assert 1 in steep.tolist()
    assert 1000 in steep.tolist()


class Broken(nn.Module):
    """A net whose outputs are no numbers, though its weights are."""

    def forward(self, z, logsnr, condition=None):
        return z * torch.nan


def test_bad_surveys_are_one_sentence(gauss):
    x = gauss.data(2, generator(0, "x"))
    with pytest.raises(UserError, match="never drawn"):
        collect_level_statistics(gauss.model(), x, per_image=1, knots=None)
    with pytest.raises(UserError, match="per_image=0"):
        collect_level_statistics(gauss.model(), x, per_image=0)
    with pytest.raises(UserError, match="not fitted to images"):
        fit_reverse(gauss.model(), x)
    model = gauss.model()
    model.network = Broken()
    with pytest.raises(UserError, match="not finite"):
        collect_level_statistics(model, x, per_image=33, knots=None)
