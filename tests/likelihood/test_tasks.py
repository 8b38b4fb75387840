"""The list of draws: every image once a replicate, and no noise used twice."""

import pytest
import torch

from markovae.likelihood.level_sampling import LevelDistribution
from markovae.likelihood.tasks import full_sum, sampled


def test_full_sum_is_every_pair_once():
    task = full_sum(5, 3)
    pairs = list(zip(task.image.tolist(), task.level.tolist(), strict=True))
    assert sorted(pairs) == [(i, level) for i in range(3) for level in range(1, 6)]
    assert not task.visit.any()
    assert bool((task.share == 1).all())


def test_noise_is_never_used_twice():
    distribution = LevelDistribution(torch.tensor([0.9, 0.05, 0.05], dtype=torch.float64))
    task = sampled(distribution, 6, 4, seed=0, replicates=3)
    names = task.streams(0, torch.arange(len(task))).indices
    assert len(set(names)) == len(task)
    assert int(task.visit.max()) > 0
    # Visits count from 0 for each image and level.
    for image in range(4):
        for level in range(1, 5):
            here = task.visit[(task.image == image) & (task.level == level)]
            assert sorted(here.tolist()) == list(range(len(here)))


def test_first_visit_has_the_noise_of_the_full_sum():
    full, few = full_sum(9, 2), sampled(LevelDistribution.uniform(9), 3, 2, seed=0)
    everywhere = set(full.streams(7, torch.arange(len(full))).indices)
    assert set(few.streams(7, torch.arange(len(few))).indices) <= everywhere


@pytest.mark.parametrize("replicates", [1, 3])
def test_each_replicate_reconstructs_each_image_once(replicates):
    task = sampled(LevelDistribution.uniform(9), 3, 5, seed=0, replicates=replicates)
    first = task.level == 1
    assert sorted(zip(task.replicate[first].tolist(), task.image[first].tolist(), strict=True)) == [
        (r, i) for r in range(replicates) for i in range(5)
    ]
    assert torch.equal(torch.bincount(task.image), torch.full((5,), 4 * replicates))
