"""What training on would bring: laws that are known are found, intervals cover, and what cannot be told is not."""

from typing import Any

import numpy as np
import pytest

from markovae.run.outlook import Outlook, outlook

DECAY = 0.5


def rate(share: float) -> float:
    """The learning rate at a share of the run: constant, then falling to 0."""
    return 1e-3 * min(1.0, (1 - share) / DECAY)


def law(
    total: float, count: int, power: float = 0.4, floor: float = 3.0, size: float = 0.5, anneal: float = 0.0
) -> list[float]:
    """Bounds at `count` even places of a run `total` times as long as one whose area is 1."""
    shares = np.arange(1, count + 1) / count
    area = np.where(shares <= DECAY, shares, shares - (shares - DECAY) ** 2 / (2 * (1 - DECAY))) / (1 - DECAY / 2)
    annealed = np.array([1 - 1e3 * rate(share) for share in shares])
    return list(floor + size * (total * area) ** -power - anneal * annealed)


def rows(bounds: list[float], seconds: float = 3600.0, loss: float = -1.0) -> list[dict[str, Any]]:
    """metrics.jsonl of a run of 1,000 steps; `loss` is its slope."""
    found: list[dict[str, Any]] = [heldout(0, 0.5, 9.0)]
    for step in range(10, 1001, 10):
        share = step / 1000
        found.append({"kind": "train", "step": step, "lr": rate(share) + 1e-12, "loss": 5 + loss * share})
        for number, bound in enumerate(bounds, 1):
            if step == 10 * round(100 * number / len(bounds)):
                found.append(heldout(step, share * seconds, bound))
    return found


def heldout(step: int, seconds: float, bound: float) -> dict[str, Any]:
    return {"kind": "heldout", "step": step, "seconds": seconds, "bits_per_dim": {"mean": bound, "stderr": 0.1}}


def told(bounds: list[float], **options: Any) -> Outlook:
    found = outlook(rows(bounds, **options))
    assert found is not None
    return found


@pytest.mark.parametrize("power", [0.2, 0.5, 1.0])
def test_a_law_without_noise_is_extrapolated(power: float) -> None:
    found = told(law(1.0, 20, power))
    (truth,) = law(2.0, 1, power)
    assert found.seconds == 3600
    assert found.bits_per_dim == pytest.approx(truth, abs=0.01)
    assert found.sentence().startswith("another hour: held-out bound 3.")


def test_the_fall_of_the_learning_rate_is_not_taken_for_the_end_of_learning() -> None:
    # Against time the bounds of the second half flatten; against the area they follow the same law.
    found = told(law(1.0, 10, power=0.3))
    assert found.ci95 is not None
    assert found.ci95[1] < law(1.0, 10, power=0.3)[-1] - 0.05


@pytest.mark.parametrize("count", [5, 10])
def test_intervals_cover(count: int) -> None:
    chance, covered, runs = np.random.default_rng(1), 0, 60
    for _ in range(runs):
        shape = {"power": chance.uniform(0.15, 0.8), "floor": chance.uniform(2.5, 3.5), "size": chance.uniform(0.2, 1)}
        shape["anneal"] = chance.uniform(0, 0.06)
        found = told([bound + chance.normal(0, 0.004) for bound in law(1.0, count, **shape)])
        assert found.ci95 is not None
        covered += found.ci95[0] <= law(2.0, 1, **shape)[0] <= found.ci95[1]
    assert covered >= 0.87 * runs


def test_few_bounds_and_a_curve_without_direction_tell_nothing() -> None:
    assert told(law(1.0, 3)).bits_per_dim is None
    assert "cannot be told from 3 held-out bounds" in told(law(1.0, 3)).sentence()
    zigzag = [3.6, 3.5, 3.62, 3.48, 3.61, 3.55]
    assert told(zigzag).bits_per_dim is None
    assert told([3.5, 3.5, 3.5, 3.5, 3.5]).bits_per_dim is None


def test_a_rising_bound_while_the_loss_falls_is_memorizing() -> None:
    rising = [4.0, 3.8, 3.75, 3.8, 3.9]
    found = told(rising)
    assert (found.rise, found.best_step) == (pytest.approx(0.15), 600)
    assert "risen by 0.150 bits/dim since step 600" in found.sentence()
    assert told(rising, loss=1.0).rise == 0, "a loss that rises too is no memorizing"
    assert told([4.0, 3.8, 3.75, 3.755]).rise == 0, "one bound is no rise"


def test_a_short_run_is_asked_about_as_long_again() -> None:
    found = told(law(1.0, 10), seconds=480.0)
    assert found.seconds == 480
    assert found.sentence().startswith("another 8 min")


@pytest.mark.parametrize(
    "spoilt",
    [
        [],
        [heldout(0, 0.5, 9.0)],
        [{**row, "lr": "fast"} for row in rows(law(1.0, 5))],
        [{**row, "lr": 0} for row in rows(law(1.0, 5))],
        [*rows(law(1.0, 5)), *rows(law(1.0, 5))],
        [{**row, "seconds": -1.0} for row in rows(law(1.0, 5))],
    ],
)
def test_rows_that_tell_nothing_give_none(spoilt: list[dict[str, Any]]) -> None:
    assert outlook(spoilt) is None


def test_absurd_figures_are_no_error() -> None:
    for scale in (1e-90, 1e90):
        bounds = [scale * bound for bound in law(1.0, 6)]
        assert outlook(rows(bounds)) is not None
