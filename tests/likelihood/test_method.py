"""What is fitted before a measurement: on other images, without a trace in the model, and unbiased all the same."""

import math

import pytest
import torch
from torch import nn

from markovae.diffusion.bound import estimate_mean
from markovae.diffusion.decoder import StepDecoder
from markovae.diffusion.model import Diffusion
from markovae.diffusion.pixels import Pixels
from markovae.diffusion.reverse import DiagonalVariance, IsotropicVariance, PosteriorVariance
from markovae.diffusion.schedule import Tabulated
from markovae.diffusion.target import DATA
from markovae.errors import UserError
from markovae.likelihood.comparison import compare
from markovae.likelihood.estimators import evaluate_batches, summarize
from markovae.likelihood.measuring import measure, prepare, prepare_pair
from markovae.likelihood.method import Method
from markovae.randomness import generator


def test_every_estimator_is_unbiased(gauss):
    model = gauss.model(factor=0.85)
    x, other = gauss.data(1500, generator(0, "x")), gauss.data(300, generator(1, "x"))
    for estimator in ("full", "stratified", "importance"):
        fit = other if Method(estimator).needs_fit else None
        draws = None if estimator == "full" else 5
        found = measure(
            model, x, draws=draws, estimator="stratified" if draws is None else estimator, fit=fit, batch=4096
        )
        estimate = found.density_nats
        assert estimate.value == pytest.approx(gauss.truth(model), abs=4 * estimate.stderr), estimator


class Blind(nn.Module):
    """x̂ = 0: a level costs half the fall of the SNR times x², whatever the noise."""

    def forward(self, z, logsnr, condition=None):
        return torch.zeros_like(z)


def test_the_distribution_over_levels_is_independent_of_the_draws_by_it():
    """One bright image among those fitted on: with shared starts the first image measured cost two thirds of it."""
    schedule = Tabulated(torch.linspace(2.0, 0.5, 65, dtype=torch.float64).log())
    decoder = StepDecoder(Pixels(256))
    model = Diffusion(Blind(), schedule, DATA, PosteriorVariance(), decoder, (1, 1, 1))
    image = torch.full((1, 1, 1, 1), 250, dtype=torch.uint8)
    fit = torch.randint(130, 170, (250, 1, 1, 1), generator=generator(0, "fit"), dtype=torch.uint8)
    fit[0] = 255
    snr = schedule.logsnr[1:].exp()
    truth = 0.5 * float(snr[0] - snr[-1]) * float(model.to_x(image)) ** 2
    found = []
    for seed in range(24):
        ready = prepare(model, Method("importance", 16, seed=seed, batch=1000), fit)
        batches = list(evaluate_batches(ready.model, image, estimator=ready.estimator, seed=seed))
        found.append(float(summarize(ready.model, batches, seed, ready.estimator).levels[0]) / truth)
    mean = estimate_mean(torch.tensor(found, dtype=torch.float64))
    assert mean.value == pytest.approx(1, abs=4 * mean.stderr)
    assert mean.stderr < 0.08


def test_a_single_level_has_no_variance_to_fit(gauss):
    model, x, other = gauss.model(levels=1), gauss.data(20, generator(0, "x")), gauss.data(30, generator(1, "x"))
    own = measure(model, x)
    for more in (
        {"variance": "isotropic"},
        {"variance": "diagonal"},
        {"grid": "optimal", "levels": 1, "estimator": "importance"},
    ):
        assert measure(model, x, fit=other, **more).density_nats == own.density_nats


def test_fitted_estimators_leave_less_noise(gauss):
    model = gauss.model(factor=0.85)
    x, other = gauss.data(300, generator(0, "x")), gauss.data(300, generator(1, "x"))
    noise = {
        name: measure(
            model, x, draws=4, estimator=name, replicates=4, fit=other if fit else None, batch=4096
        ).noise_nats.stderr
        for name, fit in (("stratified", False), ("importance", True))
    }
    assert noise["importance"] < 0.9 * noise["stratified"]


def test_an_optimal_grid_beats_even_strides_and_changes_nothing_of_the_model(gauss):
    model = gauss.model()
    x, other = gauss.data(400, generator(0, "x")), gauss.data(400, generator(1, "x"))
    before = model.reverse, model.schedule.logsnr.clone()
    prepared = prepare(model, Method(levels=7, grid="optimal", batch=4096), other)
    assert isinstance(prepared.model.reverse, IsotropicVariance)
    assert isinstance(model.reverse, PosteriorVariance)
    assert model.reverse is before[0]
    assert torch.equal(model.schedule.logsnr, before[1])
    assert prepared.levels is not None
    assert (prepared.fitted_on, len(prepared.levels)) == (400, 7)
    assert prepared.fit_calls == 400 * 16
    grid = gauss.model().schedule.logsnr
    assert torch.equal(prepared.model.schedule.logsnr[1:], grid[prepared.levels])

    best, even, own = (
        measure(model, x, draws=None, levels=7, fit=other if words else None, **words, batch=4096).density_nats.value
        for words in ({"grid": "optimal"}, {"variance": "isotropic"}, {})
    )
    assert best < even < own
    entropy = 0.5 * float((2 * math.pi * math.e * gauss.variance).log().sum())
    assert best > entropy, "an exact denoiser's bound is never below"


def test_diagonal_variances_of_these_axes_beat_isotropic_ones(gauss):
    model = gauss.model()
    x, other = gauss.data(400, generator(0, "x")), gauss.data(400, generator(1, "x"))
    prepared = prepare(model, Method(levels=7, grid="optimal", variance="diagonal", batch=4096), other)
    assert isinstance(prepared.model.reverse, DiagonalVariance)
    isotropic, diagonal = (
        measure(model, x, draws=None, levels=7, grid="optimal", variance=kind, fit=other, batch=4096).density_nats.value
        for kind in ("isotropic", "diagonal")
    )
    assert diagonal < isotropic


def test_levels_by_number_and_all_levels(gauss):
    prepared = prepare(gauss.model(), Method(levels=5))
    assert prepared.levels.tolist() == [1, 9, 17, 25, 33]
    assert prepare(gauss.model(), Method(levels=33)).levels is None
    alone = prepare(gauss.model(), Method("importance", levels=1), gauss.data(20, generator(1, "x")))
    assert alone.model.num_levels == 1


def test_compared_models_share_the_distribution_of_their_levels(gauss):
    a, b = gauss.model(factor=0.9), gauss.model(factor=1.0)
    other = gauss.data(100, generator(1, "x"))
    first, second = prepare_pair(a, b, Method("importance", draws=4), other)
    assert first.estimator.distribution is second.estimator.distribution
    assert first.estimator.distribution is not None
    assert float(first.estimator.distribution.probability.sum()) == pytest.approx(1)
    x = gauss.data(600, generator(0, "x"))
    found = compare(a, b, x, estimator="importance", draws=4, fit=other, batch=4096)
    difference = found.difference_nats
    assert found.same_grid
    assert difference.value == pytest.approx(gauss.truth(a) - gauss.truth(b), abs=4 * difference.stderr)
    grids = prepare_pair(a, b, Method(levels=6, grid="optimal"), other)
    assert all(p.model.num_levels == 6 for p in grids)


def test_images_are_never_measured_and_fitted_on_at_once(gauss):
    x = gauss.data(20, generator(0, "x"))
    with pytest.raises(UserError, match="3 of the images to measure are among"):
        measure(gauss.model(), x, estimator="importance", fit=torch.cat([x[4:7], gauss.data(5, generator(1, "x"))]))
    with pytest.raises(UserError, match="2 of the images"):
        compare(gauss.model(), gauss.model(), x, estimator="importance", fit=x[:2])


def test_refusals_are_one_sentence(gauss):
    x = gauss.data(3, generator(0, "x"))
    with pytest.raises(UserError, match="give images that will not be measured"):
        measure(gauss.model(), x, estimator="importance")
    with pytest.raises(UserError, match=r"levels=\[\[1, 33\]\] must be a number, or a list"):
        measure(gauss.model(), x, levels=[[1, 33]])
    with pytest.raises(UserError, match="levels=34 must lie in 1…33"):
        prepare(gauss.model(), Method(levels=34, grid="optimal"), x)
    with pytest.raises(UserError, match="estimator='best' must be one of"):
        measure(gauss.model(), x, estimator="best")
    with pytest.raises(UserError, match="draws=None takes every level"):
        measure(gauss.model(), x, draws=None, estimator="importance")
    for word in ("grid", "variance"):
        with pytest.raises(UserError, match=word):
            measure(gauss.model(), x, **{word: "odd"})
