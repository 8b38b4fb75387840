"""The 95 % intervals hold the truth in 93–97 % of 1,000 repeats, resampled from a table of nats[image, level]."""

import pytest
import torch

from markovae.diffusion.bound import Estimate
from markovae.likelihood.estimators import LevelDistribution
from markovae.likelihood.measurement import Measurement
from markovae.randomness import generator

REPEATS = 1000


def measurement(total, randomizations=None) -> Measurement:
    zero = torch.zeros_like(total)
    return Measurement(zero, total, zero, (), 4, 33, 9, 0, discrete=False, randomizations=randomizations)


def holds(estimate: Estimate, truth: float) -> bool:
    """Whether the interval holds the truth; what lies within 1.95 standard errors does for any degrees of freedom."""
    if abs(estimate.value - truth) <= 1.95 * estimate.stderr:
        return True
    low, high = estimate.ci95
    return low <= truth <= high


def laws(gauss, model) -> dict[str, LevelDistribution]:
    other, _ = gauss.table(model, gauss.data(500, generator(1, "other")), generator(1, "noise"))
    return {"stratified": LevelDistribution.uniform(33), "importance": LevelDistribution.importance((other**2).mean(0))}


@pytest.mark.parametrize("name", ["stratified", "importance"])
def test_population_interval(gauss, name):
    model = gauss.model(factor=0.85)
    distribution, truth = laws(gauss, model)[name], gauss.truth(model)
    pool, n = 40_000, 400
    x = gauss.data(pool, generator(0, "pool"))
    nats, rest = gauss.table(model, x, generator(0, "noise"))
    hits, source = 0, generator(0, "repeats")
    for _ in range(REPEATS):
        image = torch.randint(pool, (n,), generator=source)
        level, share = distribution.draw(torch.rand(n, generator=source, dtype=torch.float64), 8)
        total = rest[image] + (share * nats[image[:, None], level - 2]).sum(1)
        hits += holds(measurement(total).density_nats, truth)
    assert 0.93 <= hits / REPEATS <= 0.97, hits / REPEATS


@pytest.mark.parametrize("name", ["stratified", "importance"])
def test_noise_only_interval_of_fixed_images(gauss, name):
    model = gauss.model(factor=0.85)
    distribution, n, depth, times = laws(gauss, model)[name], 60, 500, 2
    x = gauss.data(n, generator(2, "fixed"))
    nats, rest = gauss.table(model, x.repeat_interleave(depth, 0), generator(0, "depth"))
    nats, rest = nats.reshape(n, depth, -1), rest.reshape(n, depth)
    truth = float((nats.mean(1).sum(1) + rest.mean(1)).mean())
    hits, source, image = 0, generator(0, "repeats"), torch.arange(n)[:, None]
    for _ in range(REPEATS):
        level, share = distribution.draw(torch.rand(n, times, generator=source, dtype=torch.float64), 8)
        pick = torch.randint(depth, level.shape, generator=source)
        each = (share * nats[image[..., None], pick, level - 2]).sum(2)
        each = each + rest[image, torch.randint(depth, (n, times), generator=source)]
        hits += holds(measurement(each.mean(1), each).noise_nats, truth)
    assert 0.93 <= hits / REPEATS <= 0.97, hits / REPEATS


def test_noise_only_interval_of_very_few_images():
    scale = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)[:, None]
    draws = scale * torch.randn(REPEATS, 3, 2, generator=generator(0, "few"), dtype=torch.float64)
    hits = [holds(measurement(each.mean(1), each).noise_nats, 0) for each in draws]
    assert 0.93 <= sum(hits) / REPEATS <= 0.97, sum(hits) / REPEATS
    assert measurement(draws[0, :1].mean(1), draws[0, :1]).noise_nats.dof == pytest.approx(1)
