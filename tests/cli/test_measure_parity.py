"""`markovae measure --json` is the record of `mv.measure`, `mv.compare` and the rest for equal arguments."""

from typing import Any

import pytest

import markovae as mv
from markovae.errors import UserError

LEFT_OUT = ("seconds", "data", "checkpoint")
FIT = {"--fit-images": 12}


def of_library(found: Any) -> dict[str, Any]:
    """A record without times and places."""
    return {name: value for name, value in found.to_dict().items() if name not in LEFT_OUT}


def of_command(record: dict[str, Any]) -> dict[str, Any]:
    against = {name: value for name, value in record.get("against", {}).items() if name != "checkpoint"}
    kept = {name: value for name, value in record.items() if name not in LEFT_OUT}
    return kept | ({"against": against} if against else {})


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"draws": 3, "seed": 5, "batch": 7},
        {"draws": "all"},
        {"estimator": "full"},
        {"estimator": "importance", "draws": 3, "replicates": 2},
        {"levels": 4},
        {"levels": 4, "grid": "optimal"},
        {"levels": 4, "variance": "diagonal", "draws": 2},
    ],
    ids=str,
)
def test_measure(digits_run, json_of, asked):
    words = [str(word) for name, value in asked.items() for word in (f"--{name}", value)]
    fits = {"importance", "optimal", "diagonal"} & set(map(str, asked.values()))
    record = json_of("measure", "measure", digits_run, "--limit", 6, *words, *(["--fit-images", 12] if fits else ()))
    data = mv.load_data("digits")
    fit = {"fit": data.validation.images[:12], "fit_labels": data.validation.labels[:12]} if fits else {}
    found = mv.measure(mv.load(digits_run), data.test.images, data.test.labels, limit=6, **asked, **fit)
    assert of_library(found) == of_command(record)
    assert record["data"] == {"source": "digits", "split": "test", "matches_run": True}


def test_all_of_the_test_part_is_the_default(digits_run, json_of):
    test = mv.load_data("digits").test
    found = mv.measure(mv.load(digits_run), test.images, test.labels, draws=1)
    assert of_library(found) == of_command(json_of("measure", "measure", digits_run, "--draws", 1))


def test_compare(digits_run, json_of):
    test = mv.load_data("digits").test
    found = mv.compare(mv.load(digits_run), mv.load(digits_run), test.images, test.labels, limit=6, levels=5)
    words = ["--against", digits_run, "--limit", 6, "--levels", 5]
    assert of_library(found) == of_command(json_of("measure", "measure", digits_run, *words))


def test_the_continuous_bound_and_the_flow(digits_run, json_of):
    test, model = mv.load_data("digits").test, mv.load(digits_run)
    words = ["--continuous", "--ode", "--ode-steps", 2, "--probes", 2, "--dequantize", "normal"]
    record = json_of("measure", "measure", digits_run, "--limit", 1, *words)
    few = test.images[:1], test.labels[:1]
    limit = mv.continuous_bound(model, *few).figures()
    assert record["continuous"] == {name: limit[name] for name in record["continuous"]}
    flow = mv.ode_likelihood(model, *few, integrator=2, probes=2, dequantization="normal", limit=1)
    assert record["ode"] == flow.to_dict()


@pytest.mark.slow
@pytest.mark.parametrize(("words", "asked"), [([], {}), (["--ode-steps", 2, "--probes", "exact"], {"integrator": 2})])
def test_the_flow_by_default_and_by_exact_traces(digits_run, json_of, words, asked):
    test, probes = mv.load_data("digits").test, {"probes": "exact"} if words else {}
    flow = mv.ode_likelihood(mv.load(digits_run), test.images[:1], test.labels[:1], **asked, **probes)
    assert json_of("measure", "measure", digits_run, "--limit", 1, "--ode", *words)["ode"] == flow.to_dict()


CONTRADICTIONS = [
    {"draws": "all", "estimator": "importance"},
    {"draws": 3, "estimator": "full"},
    {"grid": "optimal"},
    {"levels": 99},
    {"draws": 0},
    {"estimator": "control"},
    {"variance": "large"},
]


@pytest.mark.parametrize("asked", CONTRADICTIONS, ids=str)
def test_both_refuse(digits_run, refused, asked):
    words = [str(word) for name, value in asked.items() for word in (f"--{name}", value)]
    assert refused("measure", digits_run, *words)
    test = mv.load_data("digits").test
    for verb in (mv.measure, lambda model, *given, **how: mv.compare(model, model, *given, **how)):
        with pytest.raises(UserError):
            verb(mv.load(digits_run), test.images[:2], test.labels[:2], **asked)


def test_images_to_fit_on_that_nothing_uses_are_refused(digits_run, refused):
    assert "needs something to fit" in refused("measure", digits_run, "--fit-images", 12)
    test = mv.load_data("digits").test
    with pytest.raises(UserError, match="nothing is fitted"):
        mv.measure(mv.load(digits_run), test.images[:2], test.labels[:2], fit=test.images[2:9])


def test_a_model_of_classes_without_labels_takes_its_null_only_if_that_was_trained(digits_run, capsys):
    images, model = mv.load_data("digits").test.images[:2], mv.load(digits_run)
    assert mv.measure(model, images, draws=1).bits_per_dim.value > 0
    assert "the model's learned null" in capsys.readouterr().err
    model.null_trained = False
    for verb in (mv.measure, mv.continuous_bound, mv.ode_likelihood):
        with pytest.raises(UserError, match="never trained without labels"):
            verb(model, images)


def test_records_show_themselves_shortly(digits_run):
    test, model = mv.load_data("digits").test, mv.load(digits_run)
    found = mv.measure(model, test.images, test.labels, limit=3, draws=1)
    assert float(found.bits_per_dim) == found.bits_per_dim.value
    assert repr(found) == f"Measurement({found.bits_per_dim} bits/dim, 3 images, stratified)"
    assert "<th>reconstruction</th>" in found._repr_html_()
    pair = mv.compare(model, model, test.images, test.labels, limit=3, draws=1)
    assert len(repr(pair)) < 100
    assert "difference" in pair._repr_html_()
