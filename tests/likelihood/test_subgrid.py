"""The best sub-grids: brute force, the truth of Gaussian data, and what measuring on them finds."""

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from markovae.diffusion.reverse import IsotropicVariance
from markovae.errors import UserError
from markovae.likelihood.fitting import fit_reverse
from markovae.likelihood.measuring import measure
from markovae.likelihood.subgrid import diagonal_costs, isotropic_costs, search
from markovae.randomness import generator


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.01, 3), min_size=2, max_size=8), st.lists(st.floats(0.05, 4), min_size=8, max_size=8))
def test_search_finds_what_brute_force_finds(errors, drops):
    count = len(errors)
    logsnr = torch.tensor([torch.inf, *(5 - torch.tensor(drops[:count]).cumsum(0)).tolist()], dtype=torch.float64)
    costs = isotropic_costs(torch.tensor(errors, dtype=torch.float64), logsnr, 3)
    found = search(costs, count)
    for k in range(2, count + 1):
        grids = [(0, *middle, count - 1) for middle in combinations(range(1, count - 1), k - 2)]
        totals = [sum(float(costs[a, b]) for a, b in pairwise(g)) for g in grids]
        assert float(found.nats[k - 1]) == pytest.approx(min(totals), rel=1e-12)
        levels = (found.levels(k) - 1).tolist()
        assert levels[0] == 0
        assert levels[-1] == count - 1
        mine = sum(float(costs[a, b]) for a, b in pairwise(levels))
        assert mine == pytest.approx(min(totals), rel=1e-12)


def test_exact_denoiser_is_monotone_and_above_the_information(gauss):
    model = gauss.model(levels=300)
    errors = gauss.errors(model, model.schedule.logsnr[1:])
    for costs in (
        isotropic_costs(errors.mean(1), model.schedule.logsnr, 4),
        diagonal_costs(errors, model.schedule.logsnr),
    ):
        nats = search(costs, 300).nats[1:]
        assert bool((nats.diff() <= 1e-12).all())
        assert float(nats.min()) >= gauss.information(model) - 1e-9
    # Independent coordinates: the diagonal variance is the truth, at any stride.
    assert float(nats.max()) > float(nats.min())
    exact = search(diagonal_costs(errors, model.schedule.logsnr), 2).nats[-1]
    assert float(exact) == pytest.approx(gauss.information(model), rel=1e-10)


def test_excess_is_far_below_that_of_even_strides(gauss):
    model = gauss.model(levels=300, ends=(13.3, -10.0))
    logsnr = model.schedule.logsnr
    error = gauss.errors(model, logsnr[1:]).mean(1)
    best = isotropic_costs(error, logsnr, 4)
    full = float(best.diagonal(1).sum())
    even = (model.schedule.sublevels(25) - 1).tolist()
    snr = logsnr[1:].exp()
    strided = sum(float(2 * (snr[a] - snr[b]) * error[b]) for a, b in pairwise(even))  # with the variance β̃
    assert (strided - full) / (float(search(best, 25).nats[-1]) - full) > 50


def test_measuring_on_the_grid_costs_what_was_predicted(gauss):
    model = gauss.model(factor=0.9, levels=60, reverse=IsotropicVariance(60))
    found = fit_reverse(model, gauss.data(2000, generator(0, "x")), knots=60, batch=4096)
    grids = search(isotropic_costs(found.errors_at(model.schedule.logsnr[1:]), model.schedule.logsnr, 4), 12)
    levels = grids.levels(12).tolist()
    measured = measure(model, gauss.data(2500, generator(1, "x")), draws=None, levels=levels, batch=4096)
    assert measured.num_levels == 12
    stderr = float(measured.levels.std()) / 50
    assert float(measured.levels.mean()) == pytest.approx(float(grids.nats[-1]), abs=4 * stderr)
    assert [p.logsnr for p in measured.per_level] == model.schedule.logsnr[levels][1:].tolist()


def test_one_level_is_level_l():
    costs = torch.full((5, 5), 1.0, dtype=torch.float64).triu(1)
    costs = torch.where(costs > 0, costs, torch.inf)
    assert search(costs, 3).levels(1).tolist() == [5]


@pytest.mark.parametrize("levels", [0, -1, 6])
def test_bad_numbers_are_one_sentence(levels):
    with pytest.raises(UserError, match=f"levels={levels}"):
        search(torch.zeros(5, 5), levels)
    with pytest.raises(UserError, match=f"levels={levels}"):
        search(torch.zeros(5, 5), 5).levels(levels)


def test_bad_lists_of_levels(gauss):
    x = gauss.data(2, generator(0, "x"))
    for levels, sentence in (([1, 99], "99"), ([3, 2], "increase"), ([], "must lie")):
        with pytest.raises(UserError, match=sentence):
            measure(gauss.model(), x, levels=levels)


def test_levels_come_as_arrays_and_tensors_too(gauss):
    x, model = gauss.data(3, generator(0, "x")), gauss.model()
    wanted = measure(model, x, levels=[2, 7, 33]).nats.value
    for levels in (torch.tensor([2, 7, 33]), np.array([2, 7, 33])):
        assert measure(model, x, levels=levels).nats.value == wanted
    five = measure(model, x, levels=5).to_dict()
    for number in (np.int64(5), torch.tensor(5)):
        assert {**measure(model, x, levels=number).to_dict(), "seconds": five["seconds"]} == five
    assert five["grid"] == {"kind": "even", "levels": [1, 9, 17, 25, 33]}
    optimal = measure(model, x, levels=np.int32(5), grid="optimal", fit=gauss.data(20, generator(1, "x")))
    assert optimal.grid == "optimal"
    with pytest.raises(UserError, match="whole numbers"):
        measure(model, x, levels=[1.5, 33.0])
