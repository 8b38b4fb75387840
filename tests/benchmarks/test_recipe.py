"""The benchmark of recipes at equal wall time, end to end on the digits, and the page made from its record."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The benchmarks import one another as scripts do."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("MARKOVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


@pytest.mark.slow
def test_arms_are_trained_alike_and_compared_on_the_same_images(tmp_path: Path) -> None:
    import pages
    import recipe

    out = tmp_path / "recipe_digits.json"
    small = ["network.width=8", "network.patch=1", "network.blocks=1", "train.steps=3", "schedule.num_levels=30"]
    sets = [word for setting in small for word in ("--set", setting)]
    words = ["digits", "--arms", "bound", "--images", "12", "--draws", "3", *sets, "--out", str(out)]
    assert recipe.main(words) == 0
    record = json.loads(out.read_text())
    assert list(record["arms"]) == ["ho", "bound"]
    assert "--arms ho bound --set" in record["command"]
    ho, bound = record["arms"].values()
    assert ho["less_than_base"]["mean"] == ho["less_than_base"]["stderr"] == 0
    gain = ho["bits_per_dim"]["mean"] - bound["bits_per_dim"]["mean"]
    assert bound["less_than_base"]["mean"] == pytest.approx(gain)
    assert ho["step"] == bound["step"] == 3
    assert ho["n"] == bound["n"] == 12
    text = pages.pages({"recipe_digits": record})[pages.DOCS / "results.md"].decode()
    assert f"{bound['bits_per_dim']['mean']:.4f}" in text
    assert "12 test images" in text


def test_an_unknown_arm_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    import recipe

    assert recipe.main(["digits", "--arms", "best"]) == 2
    assert "arm 'best' is unknown" in capsys.readouterr().err
