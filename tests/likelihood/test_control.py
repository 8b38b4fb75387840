"""The Wiener control variate: the right denoiser, known sums, no bias, and less variance where it is alike."""

import pytest
import torch

from markovae.diffusion.forward import noised
from markovae.likelihood.comparison import nats_table
from markovae.likelihood.control import Wiener, WienerControl, half_snr_steps, regress
from markovae.likelihood.estimators import Estimator, measure_with
from markovae.likelihood.level_sampling import LevelDistribution
from markovae.likelihood.measuring import measure
from markovae.likelihood.statistics import level_statistics
from markovae.randomness import generator


def correlated(n: int) -> torch.Tensor:
    mix = torch.randn(6, 6, generator=generator(0, "mix"), dtype=torch.float64)
    return 0.3 + torch.randn(n, 6, generator=generator(1, "x"), dtype=torch.float64) @ mix


@pytest.mark.parametrize("n", [4, 500])
def test_axes_and_spectrum_are_those_of_the_covariance(n):
    x = correlated(n)
    wiener = Wiener.fit(x, 6)
    found = (wiener.axes * wiener.spectrum) @ wiener.axes.T
    torch.testing.assert_close(found, torch.cov(x.T), rtol=1e-6, atol=1e-8)
    assert wiener.rest == pytest.approx(0, abs=1e-9)


def test_error_is_that_of_the_best_linear_denoiser():
    x = correlated(300)
    wiener = Wiener.fit(x, 2)
    covariance = (wiener.axes * wiener.spectrum) @ wiener.axes.T
    covariance = covariance + wiener.rest * (torch.eye(6) - wiener.axes @ wiener.axes.T)
    assert float(covariance.trace()) == pytest.approx(float(torch.cov(x.T).trace()))
    noise = torch.randn(300, 6, generator=generator(2, "e"), dtype=torch.float64)
    logsnr = torch.linspace(5, -5, 300, dtype=torch.float64)
    z = noised(x, noise, logsnr)
    a, s2 = torch.sigmoid(logsnr).sqrt(), torch.sigmoid(-logsnr)
    for i in (0, 100, 299):
        latent = a[i] ** 2 * covariance + s2[i] * torch.eye(6)
        x_hat = wiener.mean + a[i] * covariance @ torch.linalg.solve(latent, z[i] - a[i] * wiener.mean)
        found = wiener.error(x[i : i + 1], noise[i : i + 1], logsnr[i : i + 1])
        assert float(found) == pytest.approx(float(((x[i] - x_hat) ** 2).sum()), rel=1e-8)


def test_sum_over_levels_is_its_mean_over_noise(gauss):
    wiener = Wiener.fit(correlated(300), 2)
    logsnr = gauss.model().schedule.logsnr
    control = WienerControl(wiener, logsnr, torch.linspace(0.5, 1.5, 32).double(), torch.linspace(0, 1, 32).double())
    x = correlated(2)
    total = torch.zeros(2, dtype=torch.float64)
    for level in range(2, 34):
        noise = torch.randn(4000, 2, 6, generator=generator(level, "e"), dtype=torch.float64)
        noise = torch.cat([noise, -noise])
        many = x.expand(8000, 2, 6).reshape(-1, 6)
        value = control.value(many, noise.reshape(-1, 6), torch.full((16_000,), level))
        total += value.reshape(8000, 2).mean(0)
    torch.testing.assert_close(control.total(x), total, rtol=0.01, atol=0)


def fitted(gauss, model) -> WienerControl:
    other = gauss.data(1500, generator(5, "other"))
    wiener = Wiener.fit(other)
    return level_statistics(model, other, per_image=8, knots=None, wiener=wiener).control(wiener)


def test_no_bias_and_less_variance_where_the_net_is_alike(gauss):
    model = gauss.model(factor=0.95)
    control = fitted(gauss, model)
    x = gauss.data(1200, generator(6, "x"))
    other = nats_table(model, gauss.data(400, generator(7, "x")))
    distribution = LevelDistribution.importance((other.nats**2).mean(0))
    plain, helped = (measure_with(model, x, estimator=Estimator(4, distribution, control=c)) for c in (None, control))
    truth = gauss.truth(model)
    for measured in (plain, helped):
        assert measured.density_nats.value == pytest.approx(truth, abs=4 * measured.density_nats.stderr)
    assert helped.density_nats.stderr < 0.75 * plain.density_nats.stderr
    assert helped.estimator == "importance with control variate"


def test_full_sum_with_control_is_unchanged_in_mean(gauss):
    model = gauss.model(factor=0.95, levels=9)
    other = gauss.data(500, generator(5, "other"))
    wiener = Wiener.fit(other)
    control = level_statistics(model, other, per_image=8, knots=None, wiener=wiener).control(wiener)
    x = gauss.data(400, generator(6, "x"))
    plain, helped = measure(model, x, draws=None), measure_with(model, x, estimator=Estimator(None, control=control))
    difference = plain.total - helped.total
    assert float(difference.mean()) == pytest.approx(0, abs=4 * float(difference.std()) / 20)
    assert float(helped.total.var()) < float(plain.total.var())


def test_regression_by_groups():
    place = torch.tensor([0, 0, 0, 1, 1, 2])
    control = torch.tensor([0.0, 1.0, 2.0, 1.0, 3.0, 5.0], dtype=torch.float64)
    nats = torch.tensor([1.0, 3.0, 5.0, 2.0, 1.0, 7.0], dtype=torch.float64)
    slope, intercept = regress(nats, control, place, 3)
    torch.testing.assert_close(slope, torch.tensor([2.0, -0.5, 0.0], dtype=torch.float64))
    torch.testing.assert_close(intercept, torch.tensor([1.0, 2.5, 7.0], dtype=torch.float64))


def test_slopes_that_are_mere_chance_are_put_to_zero():
    source = generator(0, "regress")
    control, nats = torch.randn(2, 40_000, generator=source, dtype=torch.float64)
    place = torch.arange(40_000) % 1000
    loose = regress(nats, control, place, 1000)[0]
    assert float((loose == 0).double().mean()) > 0.6
    tight = regress(nats + 3 * control, control, place, 1000)[0]
    torch.testing.assert_close(tight.mean(), torch.tensor(3.0, dtype=torch.float64), atol=0.03, rtol=0)


def test_a_control_of_rounding_errors_has_no_slope():
    nats = 30 + torch.randn(400, generator=generator(0, "regress"), dtype=torch.float64)
    slope, intercept = regress(nats, 1e-20 * nats, torch.zeros(400, dtype=torch.int64), 1)
    assert float(slope) == 0
    assert float(intercept) == pytest.approx(float(nats.mean()))


def test_half_snr_steps_sum_to_the_ends(gauss):
    logsnr = gauss.model().schedule.logsnr
    assert float(half_snr_steps(logsnr).sum()) == pytest.approx(0.5 * float(logsnr[1].exp() - logsnr[-1].exp()))


def test_one_image_has_no_covariance():
    with pytest.raises(ValueError, match="2 images or more"):
        Wiener.fit(torch.zeros(1, 4))
