"""The bound of a cascade by every estimator: terms of its bands, sub-grids, fits, comparisons, intervals."""

import math
from functools import partial
from itertools import combinations, pairwise
from types import SimpleNamespace

import pytest
import torch
from tests.diffusion.exact_cascade import draw, exact_cascade, expected_nats
from tests.training.test_cascade_training import cascade, config, images

import markovae as mv
from markovae.build import create
from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.likelihood.measuring import measure, optimal_levels, prepare
from markovae.likelihood.method import Method
from markovae.likelihood.subgrid import isotropic_costs
from markovae.randomness import Streams


def test_every_level_is_the_bound_itself():
    model, x = cascade(), torch.from_numpy(images(3))
    found = measure(model, x, draws="all")
    assert found.network_calls_per_example == model.num_levels
    torch.testing.assert_close(found.prior, model.prior_nats(model.to_x(x)))
    torch.testing.assert_close(found.band_levels.sum(1), found.levels)
    torch.testing.assert_close(found.band_tops.sum(1), found.prior)
    record = found.to_dict()
    assert [band["size"] for band in record["bands"]] == [[8, 8], [8, 8]]
    total = sum(band["prior"] + band["levels"] for band in record["bands"])
    terms = record["terms_bits_per_dim"]
    assert total == pytest.approx(terms["prior"] + terms["levels"])
    assert len(record["per_level"]) == model.num_levels - 1


def test_draws_have_the_closed_forms_mean():
    model, cov = exact_cascade(4, 1, 12)
    x, truth = draw(cov, 300), float(expected_nats(model, cov))
    for options in ({"draws": 4}, {"draws": 4, "replicates": 2}):
        found = measure(model, x, **options)
        assert abs(found.density_nats.value - truth) < 4 * found.density_nats.stderr


def test_intervals_hold_the_truth():
    model, cov = exact_cascade(4, 1, 8)
    truth, hits, repeats, n = float(expected_nats(model, cov)), 0, 300, 40
    pool = draw(cov, 4000, seed=5)
    x = model.to_x(pool)
    source = torch.Generator().manual_seed(0)
    levels = torch.stack([model.level_nats(x, torch.full((len(x),), i), source) for i in range(2, 16)], 1)
    rest = model.prior_nats(x) + model.reconstruction_nats(x, source)
    for _ in range(repeats):
        rows = torch.randint(len(x), (n,), generator=source)
        drawn = torch.randint(14, (n,), generator=source)
        total = rest[rows] + 14 * levels[rows, drawn]
        half = 2.02 * float(total.std()) / math.sqrt(n)
        hits += abs(float(total.mean()) - truth) <= half
    assert 0.91 <= hits / repeats <= 0.98


def test_a_band_alone_measures_as_its_model():
    alone, cov = exact_cascade(4, 0, 12)
    x = draw(cov, 5)
    ours, theirs = (measure(model, x, draws=3) for model in (alone, alone.base))
    assert torch.equal(ours.total, theirs.total)


def test_sub_grids_share_the_levels_out():
    model = cascade("cascade.stages=3", side=32)
    short = model.on_levels(11)
    assert short.num_levels == 11
    assert [stage.num_levels for stage in short.stages] == [5, 5, 3] or sum(
        s.num_levels - 1 for s in short.stages
    ) == 10
    kept = model.sublevels(11)
    assert len(kept) == 11
    assert {1, 12, 23, 34} <= set(kept.tolist())
    torch.testing.assert_close(short.level_logsnr[1:], model.level_logsnr[kept])
    found = measure(model, torch.from_numpy(images(2, 32)), levels=11, draws=2)
    assert found.grid_levels == tuple(kept.tolist())
    for levels, message in ((3, "must lie in 4…34"), (35, "must lie in 4…34"), ([1, 2], "levels by name")):
        with pytest.raises(UserError, match=message):
            measure(model, torch.from_numpy(images(2, 32)), levels=levels)


@pytest.mark.parametrize("method", [Method(variance="isotropic"), Method("importance", draws=4)])
def test_what_is_fitted_is_fitted_stage_by_stage(method):
    model = cascade()
    ready = prepare(model, method, torch.from_numpy(images(32)))
    assert ready.fit_calls > 0
    assert ready.model.num_levels == model.num_levels
    if method.estimator == "importance":
        assert ready.estimator.distribution.num_levels == model.num_levels
    else:
        assert all(stage.reverse.errors.fitted for stage in ready.model.stages)


def test_the_optimal_grid_is_the_best_of_all_of_its_length():
    """Against every grid of six levels, by the errors that exact denoisers of Gaussian images have."""
    model, _ = exact_cascade(4, 1, 7, start=8.0)

    def exact(network, logsnr):
        return (network.values / (1 + logsnr.exp()[:, None] * network.values)).mean(1)

    found = [SimpleNamespace(errors_at=partial(exact, stage.network)) for stage in model.stages]
    best = optimal_levels(model, found, 6)
    costs = [
        isotropic_costs(each.errors_at(stage.schedule.logsnr[1:]), stage.schedule.logsnr, stage.dims)
        for stage, each in zip(model.stages, found, strict=True)
    ]

    def nats(levels):
        total, (stages, own) = 0.0, model.locate(torch.tensor(levels[1:]))
        for b in (0, 1):
            steps = [1, *own[stages == b].tolist()]
            total += sum(float(costs[b][i - 1, j - 1]) for i, j in pairwise(steps))
        return total

    grids = [sorted((1, 7, 13, *some)) for some in combinations([*range(2, 7), *range(8, 13)], 3)]
    assert nats(best.tolist()) == pytest.approx(min(map(nats, grids)), rel=1e-12)
    assert sorted(best.tolist()) == best.tolist()
    assert nats(best.tolist()) < nats(model.sublevels(6).tolist())
    assert torch.equal(optimal_levels(model, found, 13), torch.arange(1, 14))
    for count in (2, 14):
        with pytest.raises(UserError, match=r"must lie in 3…13"):
            optimal_levels(model, found, count)


def test_measuring_on_the_optimal_grid_of_a_cascade():
    model, few = cascade(), torch.from_numpy(images(8))
    ready = prepare(model, Method(grid="optimal", levels=6), few)
    assert ready.model.num_levels == 6
    torch.testing.assert_close(ready.model.level_logsnr[1:], model.level_logsnr[ready.levels])
    assert all(stage.reverse.errors.fitted for stage in ready.model.stages)
    found = measure(model, few.flip(3)[:2], levels=6, grid="optimal", fit=few, draws=2)
    assert found.grid_levels == tuple(ready.levels.tolist())


def test_a_cascade_and_one_stage_are_compared_on_the_same_images():
    model, x = cascade(), torch.from_numpy(images(6))
    other = create(config("cascade.stages=1"), (3, 16, 16))
    assert isinstance(other, Diffusion)
    found = mv.compare(model, other, x, draws=2)
    assert found.difference_bits_per_dim.value == pytest.approx(
        found.a.bits_per_dim.value - found.b.bits_per_dim.value, abs=1e-9
    )


def test_noise_of_a_draw_depends_on_image_and_level_alone():
    model, x = cascade(), torch.from_numpy(images(4))
    big, small = measure(model, x, draws=3, batch=64), measure(model, x, draws=3, batch=2)
    torch.testing.assert_close(big.total, small.total, rtol=1e-4, atol=1e-3)
    level = torch.tensor([2, 14, 3, 20])
    whole = model.level_nats(model.to_x(x), level, Streams(0, "n", range(4)))
    each = [model.level_nats(model.to_x(x[i : i + 1]), level[i : i + 1], Streams(0, "n", [i])) for i in range(4)]
    torch.testing.assert_close(whole, torch.cat(each), rtol=1e-4, atol=1e-3)


def test_what_is_of_one_stage_alone_says_so():
    model, x = cascade(), torch.from_numpy(images(2))
    with pytest.raises(UserError, match="the continuous bound takes a model of one stage, and this is a cascade of 2"):
        mv.continuous_bound(model, x)
