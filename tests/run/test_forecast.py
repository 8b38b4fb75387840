"""The forecast before a training: what samples show after so many images seen, and never more than was measured."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from markovae.data.images import ImageData
from markovae.run.forecast import DRAWN, PHOTOGRAPHIC, forecast

RECORD = Path(__file__).parents[2] / "docs" / "results" / "forecast.json"
ROWS = {"drawn": DRAWN, "photographic": PHOTOGRAPHIC, "unknown": PHOTOGRAPHIC}


def images(kind: str, side: int, count: int = 50) -> ImageData:
    """Flat areas, sums of noise along both axes (every pixel differs and is like its neighbours), or noise."""
    noise = np.random.default_rng(0).normal(size=(count, 3, side, side))
    smooth = noise.cumsum(2).cumsum(3)
    scaled = {"drawn": 0 * noise, "photographic": 40 * smooth / smooth.std(), "unknown": 40 * noise}[kind]
    return ImageData(np.clip(128 + scaled, 0, 255).astype(np.uint8))


BETTER = "rough shapes; shapes with rough edges: from 33,000 images seen, here about 17 min 11 s"
TEXTURES = "textures and colors, no objects; one kind of object, such as flowers: from 2,600,000 images seen"


@pytest.mark.parametrize(
    ("kind", "side", "octaves", "steps", "said"),
    [
        ("drawn", 32, 0, 100, "noise; rough shapes: from 9,600 images seen, here about 5 min 0 s"),
        ("drawn", 32, 0, 300, BETTER),
        ("drawn", 64, 0, 300, "noise; rough shapes: from 38,400 images seen, here about 20 min 0 s"),
        ("drawn", 64, 1, 300, BETTER),
        ("drawn", 32, 0, 2400, "clean shapes"),
        ("photographic", 32, 0, 300, "colored noise; textures and colors, no objects: from 21,000 images seen"),
        ("photographic", 32, 0, 2666, TEXTURES),
        ("unknown", 32, 0, 2666, TEXTURES),
        ("photographic", 32, 0, 4_000_000, "objects of several kinds"),
    ],
)
def test_a_forecast_is_plain(kind: str, side: int, octaves: int, steps: int, said: str):
    passes, expected = forecast(steps, 32, images(kind, side), octaves, 1.0).split(": expect ")
    assert passes == f"{steps * 32 / 50:,.0f} passes over your images"
    assert expected.startswith(said)
    assert (": from " in expected) == (": from " in said)


@pytest.mark.parametrize("kind", ROWS)
def test_nothing_is_promised_before_a_training_of_that_size_reached_it(kind: str):
    for side, octaves in ((16, 0), (32, 0), (64, 0), (64, 1), (128, 2)):
        data = images(kind, side)
        base = side >> octaves
        for row, share in product(ROWS[kind][1:], (0.1, 0.99)):
            least = row.seen * max(1, base**2 / row.side**2)
            expected = forecast(int(share * least) // 32, 32, data, octaves, 1.0).partition(";")[0]
            assert not expected.endswith(row.shows)


def test_the_rows_are_those_of_the_record():
    rows = json.loads(RECORD.read_text("utf-8"))["rows"]
    measured = {kind: [row["seen"] for row in rows if row["kind"] == kind] for kind in ("drawn", "photographic")}
    for row in (*DRAWN[1:], PHOTOGRAPHIC[1]):
        near = measured["drawn" if row in DRAWN else "photographic"]
        assert min(abs(seen / row.seen - 1) for seen in near) < 0.025
