import copy
import json
import re
from pathlib import Path

import pytest

from markovae.report import page as sections


@pytest.fixture
def record(colour_run: Path) -> dict:
    return json.loads((colour_run / "report.json").read_text(encoding="utf-8"))


def test_bars_are_in_proportion(record: dict):
    record["codecs"] = [
        {"name": "PNG", "per_image_bits_per_dim": 16.0, "tiled_bits_per_dim": 4.0, "tiled_images": 1},
        {"name": "WebP", "per_image_bits_per_dim": None, "tiled_bits_per_dim": None, "tiled_images": 0},
    ]
    record["measurement"]["bits_per_dim"] = {"mean": 2.0, "stderr": 0.1, "ci95": [1.8, 2.2]}
    text = sections.cost(record)
    for width in ("12.5", "100.0", "25.0", "50.0"):
        assert f"width:{width}%" in text
    assert "88% less than that" in text
    assert "(1 images fill the rectangle)" in text
    assert "WebP, one" not in text


def test_a_single_image_has_no_interval(record: dict):
    record["measurement"]["bits_per_dim"] = {"mean": 2.0, "stderr": None, "ci95": [None, None]}
    assert "a single image has no interval" in sections.cost(record)
    assert sections.plus_minus(record["measurement"]["bits_per_dim"], 3) == "2.000"


def test_curves_that_do_not_exist_are_said_to(record: dict):
    bare = copy.deepcopy(record)
    bare["curves"] = {"training": [], "heldout": [], "levels": []}
    for part in (sections.levels, sections.heldout, sections.training):
        assert "<svg" in part(record)
        assert "<svg" not in part(bare)
        assert '<p class="meaning">' in part(bare)


def test_differences_carry_their_sign(record: dict):
    record["channels"] = [
        {"channel": "red", "samples": 100.0, "stderr": None, "data": 102.5},
        {"channel": "green", "samples": 100.0, "stderr": 1.25, "data": 98.0},
    ]
    text = sections.channels(record)
    assert "−2.5" in text
    assert "+2.0" in text
    assert "100.0 ± 1.2" in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "unknown"), (49.4, "49 s"), (119.6, "2 min 0 s"), (9000, "2 h 30 min")]
)
def test_durations(seconds: float | None, text: str):
    assert sections.trained_for({"seconds": seconds}) == text


def test_a_short_run_is_not_smoothed_away(record: dict):
    record["curves"]["training"] = [{"step": i, "seconds": 1.0, "loss": float(i % 3), "nats": 1.0} for i in range(9)]
    thick, thin = (
        re.search(f'class="{kind}" points="([^"]*)"', sections.training(record)) for kind in ("line", "faint")
    )
    assert thick[1] == thin[1]


def test_the_untrained_bound_does_not_flatten_the_rest(record: dict):
    points = [{"step": i, "seconds": 1.0, "mean": 9.0 - i, "stderr": None} for i in range(3)]
    record["curves"]["heldout"] = points
    trained = sections.heldout(record)
    record["curves"]["heldout"] = points[1:]
    assert sections.heldout(record) == trained
    record["curves"]["heldout"] = points[:2]
    assert sections.heldout(record).count("<circle") == 2, "nor is a lone point left of two"
