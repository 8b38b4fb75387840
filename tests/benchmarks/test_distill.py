"""Students beside their teacher: the benchmark end to end, and the page that its records make."""

import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


def test_the_page_says_how_good_and_how_stable_students_are():
    pages = importlib.import_module("pages")
    judged = {"kid": 0.02, "stderr": 0.004, "floor": -0.001, "precision": 0.9, "recall": 0.75}
    beside = {
        "processor": "a processor",
        "minutes": 5.0,
        "n": 1000,
        "settings": ["distill.substeps=8"],
        "models": {
            "teacher, 20": judged | {"sampler": "heun"},
            "student, 1": judged | {"steps": 1500, "seconds": 249.2},
        },
        "chains": {"teacher": {"4, optimal, isotropic": {"mean": 3.25, "stderr": 0.01}}, "student, 1": {}},
    }
    rows = [judged | {"seed": k, "rates": 0.5 + k, "kid": kid} for k, kid in enumerate((0.03, 0.02, 0.05))]
    stable = {"students": rows, "steps": 60, "n": 300, "finite": 3}
    stable |= {"within_1.5_of_the_best": 2, "not_beyond_1.5_by_two_errors": 3}
    text = pages.pages({"students_a": beside, "students_b": stable})[pages.DOCS / "results.md"].decode()
    assert "| teacher, 20 evaluations, `heun` | 20.00 ± 4.00 | 0.75 | 0.90 |  |  |" in text
    assert "| student, 1 evaluation | 20.00 ± 4.00 | 0.75 | 0.90 | 1,500 | 249 |" in text
    assert "--minutes 5 --set distill.substeps=8`" in text
    assert "| 4, optimal, isotropic | 3.250 ± 0.010 |  |" in text
    assert "3 of 3 end finite; 2 are within 1.5 times the best, 3 not beyond it by two standard errors" in text
    assert "rates 0.50 to 2.50 times the default, 0 in bfloat16" in text
    assert "best 20.0 ± 4.0, median 30.0, worst 50.0" in text


@pytest.mark.slow
def test_a_long_comparison_can_be_done_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    distill = importlib.import_module("distill")
    words = ["--folder", str(tmp_path), "--teacher-steps", "20", "--steps", "4", "--n", "100", "--images", "8"]
    for more in (["--teacher", "4", "--calls", "2"], ["--teacher", "--calls", "2", "1", "--levels"]):
        monkeypatch.setattr(sys, "argv", ["distill.py", *words, "--known", "16", "--levels", "4", *more])
        distill.main()
    record = json.loads((tmp_path / "record.json").read_text())
    assert list(record["models"]) == ["teacher, 4", "student, 2", "student, 1"]
    assert set(record["chains"]["student, 2"]) == set(record["chains"]["teacher"])
    assert {path.name for path in tmp_path.glob("*.png")} == {"teacher-4.png", "student-2.png", "student-1.png"}
    monkeypatch.setattr(sys, "argv", ["distill.py", *words, "--calls", "2", "--stability", "2"])
    distill.main()
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["finite"] == 2
    assert record["students"][0]["rates"] == pytest.approx(3**-0.5)
