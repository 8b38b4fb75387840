"""The curve of a table of nats says what repeated measuring would (`benchmarks/nats_table.py`)."""

import math
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
import torch

from markovae.likelihood.estimators import LevelDistribution
from markovae.likelihood.measuring import measure
from markovae.randomness import generator


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return import_module("nats_table")


def drawn(tables, gauss, model, n: int, key: int = 0):
    return tables.NatsTable(*gauss.table(model, gauss.data(n, generator(key, "x")), generator(key, "noise")))


def test_curve_falls_to_the_full_sum(tables, gauss):
    model = gauss.model(factor=0.9)
    table = drawn(tables, gauss, model, 400)
    curve = tables.cost_curve(table, LevelDistribution.uniform(33), [1, 2, 4, 8, 16, 32])
    assert [row.calls for row in curve] == [2, 3, 5, 9, 17, 33]
    assert all(a.stderr > b.stderr for a, b in pairwise(curve))
    assert curve[-1].added == pytest.approx(0, abs=1e-9)
    # Against measuring afresh: the standard error that a measurement of the same images states.
    stated = measure(model, gauss.data(400, generator(0, "x")), draws=8, batch=4096).density_nats.stderr
    assert curve[3].stderr == pytest.approx(stated, rel=0.2)


def test_importance_never_needs_more_than_uniform_where_it_matters(tables, gauss):
    model = gauss.model(factor=0.9)
    other = drawn(tables, gauss, model, 400, 1)
    distribution = LevelDistribution.importance((other.nats**2).mean(0))
    table = drawn(tables, gauss, model, 400)
    uniform, importance = (tables.cost_curve(table, p, [4])[0] for p in (LevelDistribution.uniform(33), distribution))
    assert importance.added < uniform.added


def test_coverage_of_a_known_table(tables):
    # Alike at every level: the estimate is exact, and the interval is that of the images' own spread.
    values = torch.randn(5000, generator=generator(0, "known"), dtype=torch.float64)
    table = tables.NatsTable(values[:, None].expand(-1, 8) / 8, torch.zeros(5000, dtype=torch.float64))
    assert tables.population_coverage(table, LevelDistribution.uniform(9), 3, 200, repeats=1000) == pytest.approx(
        0.95, abs=0.02
    )
    assert tables.cost_curve(table, LevelDistribution.uniform(9), [3])[0].added == pytest.approx(0, abs=1e-9)
    assert math.isclose(float(table.full().sum()), float(values.sum()), abs_tol=1e-9)


@pytest.mark.slow
def test_coverage_of_the_noise_alone_of_fixed_images(tables):
    # Images differ widely, their draws little: an interval that mistook one for the other would never miss.
    centre = 100 * torch.randn(12, 1, generator=generator(0, "centre"), dtype=torch.float64)
    zero = torch.zeros(12, dtype=torch.float64)
    several = [
        tables.NatsTable(centre + torch.randn(12, 8, generator=generator(k, "draw"), dtype=torch.float64), zero)
        for k in range(40)
    ]
    assert tables.noise_coverage(several, LevelDistribution.uniform(9), 8, repeats=1000) == pytest.approx(
        0.95, abs=0.02
    )
    assert tables.noise_coverage(several, LevelDistribution.uniform(9), 3, repeats=1000) == pytest.approx(
        0.95, abs=0.02
    )
