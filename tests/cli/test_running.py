"""What opening a run promises: the precision asked for is the precision worked in."""

import pytest
import torch

from markovae.checkpoints.reading import load
from markovae.data.loading import load_data
from markovae.likelihood.measuring import measure


def test_a_measurement_can_be_repeated_in_float64(digits_run, json_of):
    words = ["measure", digits_run, "--limit", "6", "--draws", "3"]
    plain, whole = (json_of("measure", *words, "--precision", name) for name in ("float32", "float64"))
    assert (plain["precision"], whole["precision"]) == ("float32", "float64")
    assert whole["nats"]["mean"] != plain["nats"]["mean"]
    assert whole["nats"]["mean"] == pytest.approx(plain["nats"]["mean"], rel=1e-4)
    model, test = load(digits_run).double(), load_data("digits").test
    model.precision = torch.float64
    expected = measure(model, test.images, test.labels, draws=3, limit=6)
    assert whole["nats"]["mean"] == expected.nats.value


def test_training_is_not_offered_in_float64(refused):
    said = refused("train", "digits", "--out", "x", "--precision", "float64")
    assert "'float64' must be one of auto, float32, bfloat16" in said
