"""The importance law: it follows the losses, leaves no level out, and goes on to the last bit."""

import json

import pytest
import torch

from markovae.diffusion.objective import bound_objective, uniform_levels
from markovae.diffusion.reverse import PosteriorVariance
from markovae.diffusion.schedule import LogSNRLinear
from markovae.diffusion.target import NOISE
from markovae.randomness import generator
from markovae.training.losses import EVEN, ImportanceDistribution

SCHEDULE = LogSNRLinear(300, 10.0, -10.0)
BOUND = bound_objective(uniform_levels(SCHEDULE), NOISE, SCHEDULE, PosteriorVariance())


def shares(level: torch.Tensor) -> torch.Tensor:
    """Loss of a level times its probability: a bump of the squared error around log-SNR 2, and a dear decoder."""
    logsnr = SCHEDULE.logsnr[level]
    weight = (BOUND.weight * BOUND.probability)[level - 1]
    return torch.where(level == 1, 0.3, weight * torch.exp(-0.5 * ((logsnr - 2) / 2) ** 2))


def taught(steps: int) -> ImportanceDistribution:
    distribution, source = ImportanceDistribution(BOUND), generator(0, "law")
    for _ in range(steps):
        objective = distribution.objective
        level = objective.draw(torch.rand(32, generator=source, dtype=torch.float64))
        noise = 1 + 0.3 * torch.randn(32, generator=source, dtype=torch.float64)
        distribution.note(level, shares(level) / objective.probability[level - 1] * noise, objective)
    return distribution


def test_it_begins_as_the_weights_say_and_ends_at_the_law_of_least_variance():
    first = ImportanceDistribution(BOUND).objective.probability
    weight = BOUND.weight / BOUND.weight.sum()
    torch.testing.assert_close(first, (1 - EVEN) * weight + EVEN / 300)
    found = taught(400).objective.probability
    best = shares(torch.arange(1, 301))
    expected = (1 - EVEN) * best / best.sum() + EVEN / 300
    assert float(found.sum()) == pytest.approx(1, abs=1e-12)
    assert float(found.min()) >= EVEN / 300
    assert float((found - expected).abs().sum()) < 0.1
    assert float(found[0]) == pytest.approx(float(expected[0]), rel=0.15)


def test_whatever_the_law_the_objective_stays_what_it_is():
    objective = taught(50).objective
    torch.testing.assert_close(objective.probability * objective.weight, BOUND.probability * BOUND.weight)
    assert objective.nats == BOUND.nats


def test_a_draw_varies_less_than_under_the_uniform_law():
    """Σ_ℓ share_ℓ by one draw: second moment Σ share²/p, against (Σ share)² for the best law."""
    share = shares(torch.arange(1, 301)).double()
    moments = {
        name: float((share**2 / p).sum() / share.sum() ** 2)
        for name, p in (("law", taught(400).objective.probability), ("uniform", BOUND.probability))
    }
    assert moments["law"] < 1.2
    assert moments["uniform"] > 10 * moments["law"]


def test_it_goes_on_bit_for_bit_through_json():
    distribution = taught(20)
    other = ImportanceDistribution(BOUND)
    other.restore(json.loads(json.dumps(distribution.capture())))
    assert torch.equal(other.objective.probability, distribution.objective.probability)
    assert other.capture() == distribution.capture()


def test_short_grids_have_a_band_a_level():
    schedule = LogSNRLinear(2)
    distribution = ImportanceDistribution(
        bound_objective(uniform_levels(schedule), NOISE, schedule, PosteriorVariance())
    )
    distribution.note(torch.tensor([1, 2]), torch.tensor([0.0, 5.0]), distribution.objective)
    assert float(distribution.objective.probability[0]) < 0.5


@pytest.mark.parametrize("record", [None, {}, {"moment": [1.0], "visits": [1.0]}, {"moment": "no", "visits": []}])
def test_what_is_no_record_is_refused(record):
    with pytest.raises(ValueError, match="its distribution of levels has no moment for 65 bands"):
        ImportanceDistribution(BOUND).restore(record)


def test_a_record_of_no_numbers_is_refused():
    record = ImportanceDistribution(BOUND).capture()
    with pytest.raises(ValueError, match="negative, NaN or Inf"):
        ImportanceDistribution(BOUND).restore({**record, "visits": [float("nan")] * 65})
