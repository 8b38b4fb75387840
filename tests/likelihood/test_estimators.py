"""The stratified estimator against the full sum, and both against Gaussian truth."""

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from markovae.diffusion.decoder import StepDecoder
from markovae.diffusion.forward import noise_scale, signal_scale
from markovae.diffusion.model import Diffusion
from markovae.diffusion.pixels import Pixels
from markovae.diffusion.reverse import PosteriorVariance
from markovae.diffusion.schedule import LogSNRLinear
from markovae.diffusion.target import DATA
from markovae.errors import UserError
from markovae.likelihood.estimators import LevelDistribution, level_starts
from markovae.likelihood.measuring import measure
from markovae.randomness import generator

SPREAD = 0.4


class Shrink(nn.Module):
    """A denoiser for N(0, SPREAD²), wrong by `factor`."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, z: Tensor, logsnr: Tensor, condition: object = None) -> Tensor:
        a, s = signal_scale(logsnr), noise_scale(logsnr)
        gain = self.factor * a * SPREAD**2 / (a**2 * SPREAD**2 + s**2)
        return gain.reshape(-1, 1, 1, 1) * z


def model(levels: int = 33, factor: float = 1.0, start: float = 13.3) -> Diffusion:
    made = Diffusion(
        Shrink(factor),
        LogSNRLinear(levels, start=start),
        DATA,
        PosteriorVariance(),
        StepDecoder(Pixels(256)),
        (1, 3, 3),
    )
    made.precision = torch.float64
    return made


def images(n: int) -> np.ndarray:
    x = SPREAD * torch.randn(n, 1, 3, 3, generator=generator(0, "images"), dtype=torch.float64)
    return Pixels(256).to_pixel_values(x).to(torch.uint8).numpy()


def stratified(num_levels: int, draws: int, n: int, seed: int) -> torch.Tensor:
    return LevelDistribution.uniform(num_levels).draw(level_starts(torch.arange(n), seed), draws)[0]


def test_every_level_equally_often():
    levels = stratified(33, 4, 4000, seed=0)
    assert levels.min() == 2
    assert levels.max() == 33
    # Systematic draws: exactly one in each quarter of the 32 levels.
    assert torch.equal((levels - 2) // 8, torch.arange(4).expand(4000, -1))
    counts = torch.bincount(levels.flatten(), minlength=34)[2:].double()
    expected = 4000 * 4 / 32
    assert float(((counts - expected) ** 2 / expected).sum()) < 62  # chi², 31 degrees, p ≈ 0.001


def test_stratified_draws_are_a_part_of_the_full_sum():
    data = images(6)
    full = measure(model(), data, draws=None)
    few = measure(model(), data, draws=8)
    assert full.network_calls_per_example == 33
    assert few.network_calls_per_example == 9
    assert torch.equal(full.prior, few.prior)
    torch.testing.assert_close(full.reconstruction, few.reconstruction, rtol=1e-12, atol=1e-12)
    single = [measure(model(), data[:1], draws=None).per_level]
    chosen = stratified(33, 8, 1, seed=0)[0].tolist()
    nats = sum(p.nats for p in single[0] if p.level in chosen) * 32 / 8
    assert float(few.levels[0]) == pytest.approx(nats, rel=1e-10)


def test_stratified_draws_are_unbiased():
    data = images(1)
    table = {p.level: p.nats for p in measure(model(), data, draws=None).per_level}
    estimates = []
    for seed in range(3000):
        chosen = stratified(33, 5, 1, seed)[0].tolist()
        estimates.append(sum(table[level] for level in chosen) * 32 / 5)
    stderr = np.std(estimates) / math.sqrt(len(estimates))
    assert np.mean(estimates) == pytest.approx(sum(table.values()), abs=4 * stderr)
    assert stderr > 0


def test_measurement_lies_above_the_entropy_and_near_it_for_the_exact_denoiser():
    # Level 1 blurs six grey levels, so digits and density hardly differ; the laws of the gap give 0.03 bits/dim.
    data = images(1500)
    entropy_bits = math.log2(SPREAD * math.sqrt(2 * math.pi * math.e) * 127.5)
    exact = measure(model(levels=800, start=6.0), data, draws=16, batch=4096).bits_per_dim
    wrong = measure(model(levels=800, start=6.0, factor=0.9), data, draws=16, batch=4096).bits_per_dim
    assert exact.value == pytest.approx(entropy_bits + 0.03, abs=4 * exact.stderr)
    assert exact.stderr < 0.05
    assert wrong.value > exact.value + 5 * wrong.stderr


def test_batch_size_leaves_no_trace():
    data = images(5)
    one, many = (measure(model(), data, draws=4, batch=batch) for batch in (1, 64))
    torch.testing.assert_close(one.total, many.total, rtol=1e-12, atol=1e-12)


def test_images_in_front_do_not_change_those_behind():
    data = images(5)
    torch.testing.assert_close(measure(model(), data, limit=2).total, measure(model(), data).total[:2])


def test_subgrid_measures_on_its_own_levels():
    measured = measure(model(), images(3), levels=9, draws=None)
    assert measured.num_levels == 9
    assert [p.level for p in measured.per_level] == list(range(2, 10))
    full = measure(model(), images(3), draws=None)
    assert measured.prior.tolist() == full.prior.tolist()


def test_record_is_json_and_adds_up():
    record = measure(model(), images(4)).to_dict()
    text = json.dumps(record, allow_nan=False)
    assert json.loads(text)["n"] == 4
    terms = record["terms_bits_per_dim"]
    assert sum(terms.values()) == pytest.approx(record["bits_per_dim"]["mean"], rel=1e-12)
    assert record["bits_per_dim"]["mean"] == pytest.approx(record["nats"]["mean"] / 9 / math.log(2), rel=1e-12)
    assert record["network_calls_per_example"] == 17


def test_one_image_has_no_standard_error():
    record = measure(model(), images(1)).to_dict()
    assert record["bits_per_dim"]["stderr"] is None
    assert record["bits_per_dim"]["ci95"] == [None, None]


def test_bound_and_measure_agree_in_full():
    data = images(300)
    bound = model().bound(torch.as_tensor(data))
    measured = measure(model(), data, draws=None)
    difference = (bound.total - measured.total).mean()
    spread = (bound.total - measured.total).std() / math.sqrt(300)
    assert abs(float(difference)) < 4 * float(spread)
    assert torch.equal(bound.prior, measured.prior)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"draws": 0}, "draws=0"),
        ({"limit": 0}, "limit=0"),
        ({"levels": 34}, "levels=34"),
        ({"levels": 0}, "levels=0"),
        ({"labels": np.zeros(2, dtype=np.int64)}, "2 labels"),
    ],
)
def test_bad_requests_are_one_sentence(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        measure(model(), images(3), **arguments)


def test_bad_images_are_one_sentence():
    with pytest.raises(UserError, match="no images"):
        measure(model(), images(3)[:0])
    with pytest.raises(UserError, match="shape"):
        measure(model(), np.zeros((2, 3, 3, 3), dtype=np.uint8))
    with pytest.raises(UserError, match="integers"):
        measure(model(), np.zeros((2, 1, 3, 3), dtype=np.float32))


def test_numbers_that_count_are_whole(gauss):
    model, x = gauss.model(), gauss.data(3, generator(0, "x"))
    assert torch.equal(measure(model, x, draws="all").total, measure(model, x, draws=None).total)
    with pytest.raises(UserError, match="draws='16' must be a whole number, 'all', 'auto' or None"):
        measure(model, x, draws="16")
    with pytest.raises(UserError, match=r"draws=1\.5 must be a whole number"):
        measure(model, x, draws=1.5)
    with pytest.raises(UserError, match="levels='5' must be a whole number"):
        measure(model, x, levels="5")
