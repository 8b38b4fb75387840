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
from markovae.report import report_data as findings
from markovae.report.subject import Subject, open_subject


@pytest.fixture(params=["digits_run", "colour_run"])
def run(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture
def subject(run: Path) -> Subject:
    return open_subject(run, torch.device("cpu"))


def record_of(run: Path) -> dict:
    return json.loads((run / "report.json").read_text(encoding="utf-8"))


def test_the_measurement_is_that_of_measure_on_the_test_images(subject: Subject):
    record = record_of(subject.path)["measurement"]
    test, n = subject.splits.test, record["n"]
    own = measure(
        subject.model,
        np.asarray(test.images[:n]),
        test.labels[:n] if subject.num_classes else None,
        draws=record["network_calls_per_example"] - 1,
        seed=record["seed"],
        batch=findings.MEASURE_BATCH,
    ).figures()
    assert record.pop("split") == "test"
    assert own.pop("per_level") == record.pop("per_level")
    assert own == record
    assert n == len(test)


@pytest.mark.parametrize("pace", [0.1, 3.0, 20.0, 100.0, 1e6])
def test_a_slow_machine_measures_fewer_images_and_then_fewer_draws(subject: Subject, monkeypatch, pace: float):
    monkeypatch.setattr(findings, "LEAST_IMAGES", 4)
    measured = findings.measured_part(replace(subject, pace=pace))
    n, calls = len(measured.total), measured.network_calls_per_example
    assert min(4, len(subject.splits.test)) <= n <= len(subject.splits.test)
    assert findings.LEAST_DRAWS + 1 <= calls <= findings.MOST_DRAWS + 1
    floor = (findings.LEAST_DRAWS + 1) * 4
    assert n * calls <= max(findings.MEASURE_SECONDS * pace, floor)
    if pace == 1e6:
        assert (n, calls) == (len(subject.splits.test), 17)


@pytest.mark.parametrize("value", [math.nan, 1e30])
def test_a_model_without_numbers_gets_no_report(subject: Subject, value: float):
    with torch.no_grad():
        for weight in subject.model.network.parameters():
            weight.fill_(value)
    with pytest.raises(UserError, match="the model's weights"):
        findings.measured_part(subject)


def test_neighbours_are_those_of_a_plain_search(subject: Subject):
    record = record_of(subject.path)["neighbours"]
    scale = 255 / (subject.bins - 1)
    train = subject.splits.train.images.astype(np.float64) * scale
    test = subject.splits.test.images[: findings.YARDSTICK].astype(np.float64) * scale
    best = [math.sqrt(((train - x) ** 2).mean((1, 2, 3)).min()) for x in test]
    assert record["real"]["n"] == len(test)
    assert record["real"]["median"] == pytest.approx(np.median(best), rel=1e-9)
    assert record["real"]["lowest_5_percent"] == pytest.approx(np.quantile(best, 0.05), rel=1e-9)
    assert record["searched"] == len(train)
    assert len(record["samples"]) == findings.SHOWN_NEIGHBOURS
    samples = findings.drawn(subject)[0][: findings.SHOWN_NEIGHBOURS].astype(np.float64) * scale
    for row, x in zip(record["samples"], samples, strict=True):
        squares = ((train - x) ** 2).mean((1, 2, 3))
        assert row["train_index"] == squares.argmin()
        assert row["distance"] == pytest.approx(math.sqrt(squares.min()), rel=1e-9)
    assert record["samples_median"] == pytest.approx(np.median([row["distance"] for row in record["samples"]]))


def test_channel_means_are_plain_means(subject: Subject):
    samples = np.random.default_rng(0).integers(0, subject.bins, (30, *subject.splits.train.shape))
    rows = findings.channel_facts(subject, samples)
    assert [row["channel"] for row in rows] == (["grey"] if len(rows) == 1 else ["red", "green", "blue"])
    scale = 255 / (subject.bins - 1)
    for i, row in enumerate(rows):
        assert row["data"] == pytest.approx(subject.splits.train.images[:, i].mean() * scale)
        assert row["samples"] == pytest.approx(samples[:, i].mean() * scale)
        each = samples[:, i].mean((1, 2)) * scale
        assert row["stderr"] == pytest.approx(each.std(ddof=1) / math.sqrt(30))


def test_run_facts_are_those_of_the_checkpoint(subject: Subject):
    facts, state = record_of(subject.path)["run"], subject.checkpoint.state
    assert (facts["step"], facts["images_seen"], facts["levels"]) == (12, 96, 50)
    assert facts["seconds"] == state["seconds"]
    assert facts["images_per_second"] == pytest.approx(96 / state["seconds"])
    assert facts["parameters"] == sum(w.numel() for w in subject.model.network.parameters())
    assert facts["versions"]["torch"] == str(torch.__version__)
    assert facts["training_precision"] == "float32"


def test_fewer_samples_where_the_network_is_slow(subject: Subject):
    least, columns = findings.drawn(replace(subject, pace=0.1))
    assert len(least) in (16, 10)
    assert len(least) % columns == 0
    assert findings.sample_facts(subject, len(least), columns)["columns"] == columns
    # The same numbers of the same seed.
    most, _ = findings.drawn(subject)
    assert np.abs(least.astype(int) - most[: len(least)].astype(int)).max() <= 1


@given(st.sampled_from([16, 36, 64]), st.integers(0, 300))
def test_sheets_have_whole_rows_and_one_class_a_column_where_classes_fit(n: int, classes: int):
    columns = findings.sheet_columns(n, classes)
    assert 1 <= columns <= 2 * math.isqrt(n)
    assert n - n % columns > n / 2
    if 1 < classes <= math.isqrt(n):
        assert columns % classes == 0
