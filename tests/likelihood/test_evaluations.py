"""The list of evaluations: every image once a replicate, and no noise used twice."""

import pytest
import torch

from markovae.likelihood.estimators import Estimator, LevelDistribution


def test_every_level_is_every_pair_once():
    found = Estimator(None).evaluations(5, 3, seed=0)
    pairs = list(zip(found.image.tolist(), found.level.tolist(), strict=True))
    assert sorted(pairs) == [(i, level) for i in range(3) for level in range(1, 6)]
    assert not found.repeat.any()
    assert bool((found.weight == 1).all())


def test_noise_is_never_used_twice():
    distribution = LevelDistribution(torch.tensor([0.9, 0.05, 0.05], dtype=torch.float64))
    found = Estimator(6, distribution, 3).evaluations(4, 4, seed=0)
    names = found.noise(0).indices
    assert len(set(names)) == len(found)
    assert int(found.repeat.max()) > 0
    # Repetitions count from 0 for each image and level.
    for image in range(4):
        for level in range(1, 5):
            here = found.repeat[(found.image == image) & (found.level == level)]
            assert sorted(here.tolist()) == list(range(len(here)))


def test_the_first_evaluation_has_the_noise_of_the_full_sum():
    full, few = Estimator(None).evaluations(9, 2, seed=0), Estimator(3).evaluations(9, 2, seed=0)
    everywhere = set(full.noise(7).indices)
    assert set(few.noise(7).indices) <= everywhere


@pytest.mark.parametrize("replicates", [1, 3])
def test_each_replicate_reconstructs_each_image_once(replicates):
    found = Estimator(3, None, replicates).evaluations(9, 5, seed=0)
    first = found.level == 1
    assert sorted(zip(found.replicate[first].tolist(), found.image[first].tolist(), strict=True)) == [
        (r, i) for r in range(replicates) for i in range(5)
    ]
    assert torch.equal(torch.bincount(found.image), torch.full((5,), 4 * replicates))
