"""Paired comparison: common draws, a difference known better than either figure, and refusals."""

import json
import math

import pytest
import torch

from markovae.diffusion.decoder import StepDecoder
from markovae.diffusion.pixels import Pixels
from markovae.errors import UserError
from markovae.likelihood.comparison import compare
from markovae.likelihood.measuring import measure
from markovae.randomness import generator


def test_difference_is_true_and_sharper_than_either(gauss):
    a, b = gauss.model(factor=1.0), gauss.model(factor=0.97)
    found = compare(a, b, gauss.data(1000, generator(0, "x")), draws=8, batch=4096)
    difference = found.difference_nats
    assert difference.value == pytest.approx(gauss.truth(a) - gauss.truth(b), abs=4 * difference.stderr)
    assert difference.stderr < 0.5 * found.a.density_nats.stderr
    assert found.same_grid


def test_a_model_against_itself_differs_by_nothing(gauss):
    found = compare(gauss.model(), gauss.model(), gauss.data(5, generator(0, "x")))
    assert not found.a.total.sub(found.b.total).any()


def test_swapping_swaps_the_sign(gauss):
    x = gauss.data(20, generator(0, "x"))
    one = compare(gauss.model(0.9), gauss.model(1.0), x, batch=4096).difference_nats
    other = compare(gauss.model(1.0), gauss.model(0.9), x, batch=4096).difference_nats
    assert one.value == pytest.approx(-other.value)
    assert one.stderr == pytest.approx(other.stderr)


def test_other_grids_are_told(gauss):
    x = gauss.data(20, generator(0, "x"))
    assert not compare(gauss.model(levels=33), gauss.model(levels=17), x).same_grid


def test_record_of_digits(gauss):
    decoder = StepDecoder(Pixels(256))
    digits = torch.randint(256, (6, 4), generator=generator(0, "x"))
    a, b = gauss.model(1.0, decoder=decoder), gauss.model(0.9, decoder=decoder)
    record = compare(a, b, digits, estimator="full").to_dict()
    json.dumps(record, allow_nan=False)
    means = [r["bits_per_dim"]["mean"] for r in (record, record["against"])]
    assert record["difference_bits_per_dim"]["mean"] == pytest.approx(means[0] - means[1])
    each = (measure(a, digits, draws=None).total - measure(b, digits, draws=None).total) / (4 * math.log(2))
    assert record["difference_bits_per_dim"]["stderr"] == pytest.approx(float(each.std() / math.sqrt(6)))


def test_refusals_are_one_sentence(gauss):
    x = gauss.data(2, generator(0, "x"))
    density = gauss.model()
    digits, coarse = (gauss.model(decoder=StepDecoder(Pixels(bins))) for bins in (256, 16))
    other = gauss.model()
    other.shape = (5,)
    for pair, sentence in (((density, other), "same images"), ((density, digits), "kind"), ((digits, coarse), "bins")):
        with pytest.raises(UserError, match=sentence):
            compare(*pair, x)
    with pytest.raises(UserError, match="bin width"):
        _ = compare(density, density, x).difference_bits_per_dim


def test_record_of_densities(gauss):
    found = compare(gauss.model(0.9), gauss.model(), gauss.data(20, generator(0, "x"))).to_dict()
    assert "difference_bits_per_dim" not in found
    difference = found["difference_nats"]
    assert difference["mean"] == pytest.approx(found["density_nats"]["mean"] - found["against"]["density_nats"]["mean"])
    assert difference["stderr"] > 0
