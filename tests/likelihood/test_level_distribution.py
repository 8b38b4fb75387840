"""Distributions over levels: unbiased for any curve of nats, whatever the distribution and the number of draws."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from markovae.likelihood.estimators import LevelDistribution, level_starts


@settings(max_examples=40, deadline=None)
@given(
    weights=st.lists(st.floats(0.01, 10), min_size=1, max_size=20),
    draws=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
def test_shares_make_every_sum_unbiased(weights, draws, seed):
    distribution = LevelDistribution.importance(torch.tensor(weights, dtype=torch.float64) ** 2, even=0.02)
    nats = torch.rand(len(weights), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    # The start is uniform; over a fine grid of starts the mean is exact but for the few cells that hold an edge.
    starts = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    level, share = distribution.draw(starts, draws)
    mean = float((share * nats[level - 2]).sum(1).mean())
    slack = float((nats / distribution.probability).max()) * len(weights) / 20_000
    assert mean == pytest.approx(float(nats.sum()), abs=2 * slack)


def test_uniform_distribution_is_stratified():
    level, share = LevelDistribution.uniform(33).draw(level_starts(torch.arange(100), 0), 4)
    assert torch.equal((level - 2) // 8, torch.arange(4).expand(100, 4))
    torch.testing.assert_close(share, torch.full((100, 4), 8.0, dtype=torch.float64))


def test_importance_follows_the_root_of_the_second_moment():
    distribution = LevelDistribution.importance(torch.tensor([1.0, 4.0, 16.0]), even=0.0)
    torch.testing.assert_close(distribution.probability, torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64) / 7)
    mixed = LevelDistribution.importance(torch.tensor([0.0, 1.0]), even=0.1)
    torch.testing.assert_close(mixed.probability, torch.tensor([0.05, 0.95], dtype=torch.float64))


def test_importance_is_the_distribution_of_least_variance_for_one_draw():
    second = torch.tensor([1.0, 9.0, 0.25, 4.0], dtype=torch.float64)
    best = (second / LevelDistribution.importance(second, even=0.0).probability).sum()
    assert float(best) == pytest.approx(float(second.sqrt().sum() ** 2))
    for other in (LevelDistribution.uniform(5), LevelDistribution(second / second.sum())):
        assert float((second / other.probability).sum()) > float(best)


def test_starts_differ_by_image_seed_and_replicate():
    starts = {tuple(level_starts(torch.arange(3), s, r).tolist()) for s in (0, 1) for r in (0, 1)}
    assert len(starts) == 4
    assert all(len(set(each)) == 3 for each in starts)
    assert level_starts(torch.tensor([2]), 0).item() == level_starts(torch.arange(3), 0)[2].item()


@pytest.mark.parametrize("probability", [[0.5, 0.4], [1.0, 0.0], [math.nan, 1.0]])
def test_bad_distributions(probability):
    with pytest.raises(ValueError, match="probabilit"):
        LevelDistribution(torch.tensor(probability, dtype=torch.float64))


def test_a_distribution_from_nothing():
    with pytest.raises(ValueError, match="no distribution follows"):
        LevelDistribution.importance(torch.zeros(4))
