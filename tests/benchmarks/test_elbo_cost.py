"""The benchmark of the bound on a small checkpoint, its tables against measuring, and the page made from its record."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch

import markovae as mv
from markovae.data.loading import load_data
from markovae.diffusion.reverse import StepVariance
from markovae.likelihood.measuring import measure
from markovae.likelihood.statistics import collect_level_statistics

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "tests" / "fixtures" / "bundles" / "format-4" / "step-00000006"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The benchmarks import one another as scripts do."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("MARKOVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


def test_tables_are_what_measuring_says_and_are_drawn_once(tmp_path, monkeypatch):
    import nats_table

    monkeypatch.setattr(nats_table, "PART", 4)
    model, test = mv.load(BUNDLE).eval(), load_data("digits").test
    labels = test.labels if getattr(model.network, "num_classes", 0) else None
    table = nats_table.table_of(model, "name", test.images[:6], tmp_path, labels=labels, depth=2)
    assert table.nats.shape == (2, 6, model.num_levels - 1)
    given = None if labels is None else labels[:4]
    expected = measure(model, test.images[:4], given, draws=None)
    torch.testing.assert_close(table.draw().full()[:4], expected.total)
    assert not torch.equal(table.nats[0], table.nats[1])

    monkeypatch.setattr(nats_table, "evaluate_batches", None)  # whatever is asked again comes from the cache
    again = nats_table.table_of(model, "name", test.images[:6], tmp_path, labels=labels, depth=2)
    assert torch.equal(again.nats, table.nats)
    with pytest.raises(TypeError):
        nats_table.table_of(model, "other", test.images[:6], tmp_path, labels=labels, depth=2)


def test_costs_of_few_levels_are_what_measuring_says():
    import elbo_levels

    model, test = mv.load(BUNDLE).eval(), load_data("digits").test
    model.precision = torch.float64
    model.double()
    labels = test.labels if getattr(model.network, "num_classes", 0) else None
    given = None if labels is None else labels[:5]
    grid = model.schedule.logsnr
    from markovae.likelihood.estimators import Estimator, evaluate_batches

    drawn = list(evaluate_batches(model, test.images[:5], given, estimator=Estimator(None)))
    level, nats = torch.cat([d.evaluations.level for d in drawn]), torch.cat([d.nats for d in drawn])
    squared = elbo_levels.squared_errors(nats[level > 1].reshape(5, -1), grid)
    found = collect_level_statistics(model, test.images[5:60], None if labels is None else labels[5:60])
    counts = [2, model.num_levels]
    rows = elbo_levels.grid_table(model, found, squared, counts)
    totals = elbo_levels.levels_in_all(model, found, squared)
    bit = 1 / (model.dims * math.log(2))
    own = measure(model, test.images[:5], given, draws=None)
    assert totals["posterior"]["mean"] == pytest.approx(float(own.levels.mean()) * bit)
    wide = measure(model.with_reverse(StepVariance()), test.images[:5], given, draws=None)
    assert totals["step"]["mean"] == pytest.approx(float(wide.levels.mean()) * bit)
    assert rows[-1]["optimal_isotropic"]["mean"] == pytest.approx(0, abs=1e-12)
    assert rows[-1]["even_step"]["mean"] == pytest.approx(totals["step"]["mean"] - totals["isotropic"]["mean"])
    assert rows[0]["optimal_isotropic"]["mean"] <= rows[0]["even_posterior"]["mean"]


def test_a_record_and_its_page(tmp_path, monkeypatch):
    import elbo_cost
    import pages

    out = tmp_path / "elbo_cost_digits.json"
    words = ["--images", "12", "--fit", "40", "--depth-images", "3", "--depth-levels", "4", "--depth", "3"]
    monkeypatch.setattr(elbo_cost, "REPEATS", 20)
    elbo_cost.main([str(BUNDLE), *words, "--precision", "float32", "--out", str(out)])
    record = json.loads(out.read_text())
    assert record["images"] == 12
    assert set(record["cost"]["curves"]) == {"stratified", "importance"}
    made = {path.name: content.decode() for path, content in pages.pages(pages.read_records(tmp_path)).items()}
    assert {"results.md", "elbo_cost_digits.svg"} <= set(made) <= {*made, "few_levels_digits.svg"}
    assert f"{record['bits_per_dim']['mean']:.4f}" in made["results.md"]
    assert pages.pages({})[pages.DOCS / "results.md"] == pages.RESULTS.encode()


def test_the_committed_page_is_what_the_records_say():
    import pages

    assert pages.main(["--check"]) == 0
