import pytest
import torch

from markovae.build import create
from markovae.config import Config
from markovae.data.images import ImageData
from markovae.likelihood.estimators import Estimator, evaluate_batches, from_table, summarize, to_table
from markovae.system.processes import Rank


@pytest.fixture
def double(tiny_config: Config, tiny_data: ImageData):
    model = create(tiny_config, tiny_data.shape)
    model.double().precision = torch.float64
    with torch.no_grad():
        for weight in model.network.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    return model


@pytest.mark.parametrize(("n", "size"), [(19, 1), (1, 2), (19, 3), (5, 7), (5, 40)])
def test_several_measure_what_one_does_and_every_image_once(double, tiny_data: ImageData, n: int, size: int):
    """To the last bit, at sizes that nothing divides: the batches are the same whoever takes them."""
    images = torch.from_numpy(tiny_data.images[:n])
    estimator = Estimator(draws=3, replicates=2)
    whole = summarize(double, list(evaluate_batches(double, images, estimator=estimator, batch=8)), 0, estimator)
    every = estimator.evaluations(double.num_levels, n, 0)
    tables, times = [], torch.zeros(len(every))
    for rank in range(size):
        batches = list(evaluate_batches(double, images, estimator=estimator, batch=8, rank=Rank(rank, size)))
        tables.append(to_table(batches, len(every)))
        for one in batches:
            times[one.begin : one.begin + len(one.evaluations)] += 1
    assert bool((times == 1).all())
    shared = summarize(double, [from_table(torch.stack(tables).sum(0), every)], 0, estimator)
    assert torch.equal(shared.total, whole.total)
    assert torch.equal(shared.randomizations, whole.randomizations)
    assert shared.to_dict() == whole.to_dict()
    assert len(shared.total) == n
