import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from markovae.errors import UserError
from markovae.likelihood.measuring import measure
from markovae.report import report_data
from markovae.report.reported_run import ReportedRun, load_reported_run


@pytest.fixture(params=["digits_run", "colour_run"])
def run(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture
def reported(run: Path) -> ReportedRun:
    return load_reported_run(run, torch.device("cpu"))


def record_of(run: Path) -> dict:
    return json.loads((run / "report.json").read_text(encoding="utf-8"))


def test_the_measurement_is_that_of_measure_on_the_test_images(reported: ReportedRun):
    record = record_of(reported.path)["measurement"]
    test, n = reported.splits.test, record["n"]
    own = measure(
        reported.model,
        np.asarray(test.images[:n]),
        test.labels[:n] if reported.num_classes else None,
        draws=record["network_calls_per_example"] - 1,
        seed=record["seed"],
        batch=report_data.MEASURE_BATCH,
    ).figures()
    assert record.pop("split") == "test"
    assert own.pop("per_level") == record.pop("per_level")
    assert own == record
    assert n == len(test)


@pytest.mark.parametrize("pace", [0.1, 3.0, 20.0, 100.0, 1e6])
def test_a_slow_machine_measures_fewer_images_and_then_fewer_draws(reported: ReportedRun, monkeypatch, pace: float):
    monkeypatch.setattr(report_data, "LEAST_IMAGES", 4)
    monkeypatch.setattr(report_data, "FEWEST_IMAGES", 4)
    measured = report_data.measure_test_images(replace(reported, pace=pace))
    n, calls = len(measured.total), measured.network_calls_per_example
    assert min(4, len(reported.splits.test)) <= n <= len(reported.splits.test)
    assert report_data.LEAST_DRAWS + 1 <= calls <= report_data.MOST_DRAWS + 1
    floor = (report_data.LEAST_DRAWS + 1) * 4
    assert n * calls <= max(report_data.MEASURE_SECONDS * pace, floor)
    if pace == 1e6:
        assert (n, calls) == (len(reported.splits.test), 17)


@pytest.mark.parametrize("value", [math.nan, 1e30])
def test_a_model_without_numbers_gets_no_report(reported: ReportedRun, value: float):
    with torch.no_grad():
        for weight in reported.model.network.parameters():
            weight.fill_(value)
    with pytest.raises(UserError, match="the model's weights"):
        report_data.measure_test_images(reported)


def test_neighbours_are_those_of_a_plain_search(reported: ReportedRun):
    record = record_of(reported.path)["neighbours"]
    scale = 255 / (reported.bins - 1)
    train = reported.splits.train.images.astype(np.float64) * scale
    test = reported.splits.test.images[: report_data.YARDSTICK].astype(np.float64) * scale
    best = [math.sqrt(((train - x) ** 2).mean((1, 2, 3)).min()) for x in test]
    assert record["real"]["n"] == len(test)
    assert record["real"]["median"] == pytest.approx(np.median(best), rel=1e-9)
    assert record["real"]["lowest_5_percent"] == pytest.approx(np.quantile(best, 0.05), rel=1e-9)
    assert record["searched"] == len(train)
    assert len(record["samples"]) == report_data.SHOWN_NEIGHBOURS
    samples = report_data.draw_samples(reported)[0][: report_data.SHOWN_NEIGHBOURS].astype(np.float64) * scale
    for row, x in zip(record["samples"], samples, strict=True):
        squares = ((train - x) ** 2).mean((1, 2, 3))
        assert row["train_index"] == squares.argmin()
        assert row["distance"] == pytest.approx(math.sqrt(squares.min()), rel=1e-9)
    assert record["samples_median"] == pytest.approx(np.median([row["distance"] for row in record["samples"]]))


def test_channel_means_are_plain_means(reported: ReportedRun):
    samples = np.random.default_rng(0).integers(0, reported.bins, (30, *reported.splits.train.shape))
    rows = report_data.channel_facts(reported, samples)
    assert [row["channel"] for row in rows] == (["grey"] if len(rows) == 1 else ["red", "green", "blue"])
    scale = 255 / (reported.bins - 1)
    for i, row in enumerate(rows):
        assert row["data"] == pytest.approx(reported.splits.train.images[:, i].mean() * scale)
        assert row["samples"] == pytest.approx(samples[:, i].mean() * scale)
        each = samples[:, i].mean((1, 2)) * scale
        assert row["stderr"] == pytest.approx(each.std(ddof=1) / math.sqrt(30))


def test_run_facts_are_those_of_the_checkpoint(reported: ReportedRun):
    facts, state = record_of(reported.path)["run"], reported.checkpoint.state
    assert (facts["step"], facts["images_seen"], facts["levels"]) == (12, 96, 50)
    assert facts["seconds"] == state["seconds"]
    assert facts["images_per_second"] == pytest.approx(96 / state["seconds"])
    assert facts["parameters"] == sum(w.numel() for w in reported.model.network.parameters())
    assert facts["versions"]["torch"] == str(torch.__version__)
    assert facts["training_precision"] == "float32"


def test_fewer_samples_where_the_network_is_slow(reported: ReportedRun):
    least, columns = report_data.draw_samples(replace(reported, pace=0.1))
    assert len(least) in (4, 10)
    assert len(least) % columns == 0
    assert report_data.sample_facts(reported, len(least), columns)["columns"] == columns
    # The same numbers of the same seed.
    most, _ = report_data.draw_samples(reported)
    assert np.abs(least.astype(int) - most[: len(least)].astype(int)).max() <= 1


@given(st.sampled_from([16, 36, 64]), st.integers(0, 300))
def test_sheets_have_whole_rows_and_one_class_a_column_where_classes_fit(n: int, classes: int):
    columns = report_data.sheet_columns(n, classes)
    assert 1 <= columns <= 2 * math.isqrt(n)
    assert n - n % columns > n / 2
    if 1 < classes <= math.isqrt(n):
        assert columns % classes == 0
