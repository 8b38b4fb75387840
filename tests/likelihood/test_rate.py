"""Rate against distortion: the ends of the curve, and every point of it for Gaussian digits."""

from itertools import pairwise

import pytest
import torch
from tests.diffusion.exact_cascade import pixel_cascade

from markovae.diffusion.decoder import StepDecoder
from markovae.diffusion.pixels import Pixels
from markovae.errors import UserError
from markovae.likelihood.cascade_rate import cascade_rate_distortion
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


def test_the_curve_of_a_cascade_runs_through_its_bands_and_ends_at_the_bound():
    model, images = pixel_cascade(16)
    images = images[:200]
    curve = cascade_rate_distortion(model, images, per_image=16, knots=None, batch=400)
    assert [point.level for point in curve] == list(range(model.num_levels, -1, -1))
    rates, errors = ([getattr(point, name) for point in curve] for name in ("rate_bits_per_dim", "rmse"))
    assert rates == sorted(rates)
    assert all(after < 1.01 * before for before, after in pairwise(errors)), "but for the draws' noise it falls"
    bound = measure(model, images, draws="all", seed=1).bits_per_dim
    assert rates[-1] == pytest.approx(bound.value, abs=4 * bound.stderr)
    assert bound.stderr < 0.01 * bound.value
    x = model.to_x(images)
    assert errors[0] == pytest.approx(127.5 * float(x.square().mean().sqrt()), rel=0.01)
    base = 15 + 15 + 1  # where the base is known and no details are
    details = (x - model.means(x, 0).repeat_interleave(4, -1).repeat_interleave(4, -2)).square().mean().sqrt()
    assert curve[model.num_levels - base].level == base
    assert errors[model.num_levels - base] == pytest.approx(127.5 * float(details), rel=0.02)
