import math

import numpy as np
import pytest
import torch

from markovae.likelihood.measurement import LevelNats, Measurement
from markovae.report.curves import LEVEL_POINTS, POINTS, heldout_curve, level_curve, training_curve


def train_rows(n: int) -> list[dict]:
    return [
        {"kind": "train", "step": 10 * i, "seconds": float(i), "loss": 1 / (i + 1), "nats": 7.0 * i} for i in range(n)
    ]


def test_short_runs_are_drawn_row_by_row():
    rows = train_rows(5)
    curve = training_curve([*rows, {"kind": "heldout", "step": 1}, {}])
    assert [(p["step"], p["seconds"], p["loss"], p["nats"]) for p in curve] == [
        (r["step"], r["seconds"], r["loss"], r["nats"]) for r in rows
    ]
    assert training_curve([]) == []


def test_long_runs_are_averaged_over_stretches_that_leave_nothing_out():
    rows = train_rows(3 * POINTS)
    curve = training_curve(rows)
    assert len(curve) == POINTS
    assert curve[0]["loss"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert curve[-1]["step"] == rows[-1]["step"]
    assert sum(p["nats"] for p in curve) * 3 == pytest.approx(sum(r["nats"] for r in rows))


def test_the_heldout_curve_keeps_figures_that_do_not_exist():
    row = {"kind": "heldout", "step": 4, "seconds": 1.5, "n": 2, "bits_per_dim": {"mean": 3.0, "stderr": None}}
    assert heldout_curve([row, *train_rows(2)]) == [{"step": 4, "seconds": 1.5, "mean": 3.0, "stderr": None}]


def measurement(levels: list[LevelNats]) -> Measurement:
    zero = torch.zeros(2, dtype=torch.float64)
    return Measurement(zero, zero, zero, tuple(levels), 4, 100, 17, 0)


def test_stretches_average_by_draws_and_lose_none():
    rng = np.random.default_rng(0)
    levels = [
        LevelNats(i, 10 - 0.05 * i, float(rng.normal(2.0, 0.3)), math.nan, int(rng.integers(1, 9)))
        for i in range(2, 400)
    ]
    curve = level_curve(measurement(levels))
    assert len(curve) == LEVEL_POINTS
    assert sum(p["levels"] for p in curve) == len(levels)
    logsnr = [p["logsnr"] for p in curve]
    assert logsnr == sorted(logsnr, reverse=True)
    first = levels[: curve[0]["levels"]]
    draws = sum(level.draws for level in first)
    assert curve[0]["nats"] == pytest.approx(sum(level.nats * level.draws for level in first) / draws)
    # The scatter is all there is: each error is about 0.3/√levels, and the truth mostly within two of them.
    for point in curve:
        assert 0.3 < point["stderr"] / (0.3 / math.sqrt(point["levels"])) < 2.5
    assert sum(abs(point["nats"] - 2.0) < 2 * point["stderr"] for point in curve) > 0.8 * len(curve)


def test_a_single_level_has_no_error_and_none_has_no_curve():
    (point,) = level_curve(measurement([LevelNats(2, 1.0, 0.5, 0.1, 3)]))
    assert point == {"logsnr": 1.0, "nats": 0.5, "stderr": None, "levels": 1}
    assert level_curve(measurement([])) == []
