"""Rate against distortion: the ends of the curve, and every point of it for Gaussian digits."""

import pytest
import torch

from markovae.diffusion.decoder import StepDecoder
from markovae.diffusion.pixels import Pixels
from markovae.errors import UserError
from markovae.likelihood.measuring import measure
from markovae.likelihood.statistics import collect_level_statistics, rate_distortion
from markovae.randomness import generator


def model_and_digits(gauss, n: int):
    pixels = Pixels(256)
    model = gauss.model(levels=40, decoder=StepDecoder(pixels))
    return model, pixels.to_pixel_values(0.25 * gauss.data(n, generator(0, "x")))


def test_curve_adds_up_to_the_bound(gauss):
    model, digits = model_and_digits(gauss, 400)
    curve = rate_distortion(model, collect_level_statistics(model, digits, per_image=40, knots=None, batch=4096))
    measured = measure(model, digits, draws=None, batch=4096)
    assert curve[-1].level == 0
    assert curve[-1].rmse == 0
    assert curve[-1].rate_bits_per_dim == pytest.approx(
        measured.bits_per_dim.value, abs=5 * measured.bits_per_dim.stderr
    )
    terms = measured.to_dict()["terms_bits_per_dim"]
    assert curve[0].level == 40
    assert curve[0].rate_bits_per_dim == pytest.approx(terms["prior"], rel=1e-9)
    assert curve[-2].rate_bits_per_dim == pytest.approx(terms["prior"] + terms["levels"], rel=0.05)


def test_more_bits_buy_a_better_picture(gauss):
    model, digits = model_and_digits(gauss, 400)
    curve = rate_distortion(model, collect_level_statistics(model, digits, per_image=40, knots=None, batch=4096))
    rates = [p.rate_bits_per_dim for p in curve]
    assert rates == sorted(rates)
    assert curve[0].rmse > 3 * curve[-2].rmse
    found = {p.level: p.rmse for p in curve}
    x = model.to_x(digits)
    for level in (5, 20, 40):
        logsnr = model.schedule.logsnr[level : level + 1]
        gain = model.network.gain(logsnr).detach()
        a, s = torch.sigmoid(logsnr).sqrt(), torch.sigmoid(-logsnr).sqrt()
        error = (((1 - a * gain) * x) ** 2 + (gain * s) ** 2).mean()
        assert found[level] == pytest.approx(float(error.sqrt()) * 127.5, rel=0.1)


def test_few_knots_give_the_same_rates(gauss):
    model, digits = model_and_digits(gauss, 400)
    whole = rate_distortion(model, collect_level_statistics(model, digits, per_image=40, knots=None, batch=4096))
    few = rate_distortion(model, collect_level_statistics(model, digits, per_image=10, knots=10, batch=4096))
    rates = {p.level: p.rate_bits_per_dim for p in whole}
    for point in few[1:]:
        assert point.rate_bits_per_dim == pytest.approx(rates[point.level], rel=0.08)


def test_continuous_data_have_no_digits(gauss):
    model = gauss.model()
    found = collect_level_statistics(model, gauss.data(40, generator(0, "x")), per_image=33, knots=None, batch=4096)
    with pytest.raises(UserError, match="no decoder for pixels"):
        rate_distortion(model, found)
