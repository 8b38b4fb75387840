"""What popular models cost: a peer and ours end to end on the digits, and the page made from the record."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks import one another as scripts do."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


@pytest.mark.slow
def test_a_peer_and_ours_are_trained_and_measured_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("diffusers")
    import pages
    import popular

    monkeypatch.setitem(popular.OURS, "markovae", ["network.width=8", "network.blocks=1", "schedule.num_levels=30"])
    out = tmp_path / "record.json"
    words = ["digits", "--steps", "1", "--images", "4", "--draws", "1", "--peers", str(tmp_path), "--only"]
    assert popular.main([*words, "diffusers", "markovae", "--out", str(tmp_path / "runs"), "--record", str(out)]) == 0
    record = json.loads(out.read_text())
    first, second = record["rows"]
    assert {first["name"], second["name"]} == {"diffusers", "markovae"}
    assert first["bits_per_dim"]["mean"] <= second["bits_per_dim"]["mean"]
    assert second["more_than_first"]["mean"] == pytest.approx(
        second["bits_per_dim"]["mean"] - first["bits_per_dim"]["mean"]
    )
    assert {row["name"]: row["images_seen"] for row in record["rows"]} == {"diffusers": 16, "markovae": 32}
    text = pages.pages({"popular_digits": record})[pages.DOCS / "popular.md"].decode()
    assert f"{second['bits_per_dim']['mean']:.3f}" in text


def test_an_unknown_recipe_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import popular

    words = ["digits", "--peers", str(tmp_path), "--out", str(tmp_path / "runs"), "--only", "best"]
    assert popular.main(words) == 2
    assert "recipe 'best' is unknown" in capsys.readouterr().err


@pytest.mark.parametrize("horizon", ["example_horizon", "trainer_horizon"])
def test_an_average_looks_further_back_the_longer_the_run(horizon: str) -> None:
    import popular

    decays = [getattr(popular, horizon)(step) for step in (1, 150, 1_000, 100_000, 10_000_000)]
    assert decays == sorted(decays)
    assert 0 <= decays[0] < decays[-1] < 1
