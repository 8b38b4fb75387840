"""`markovae verify`: its table, its JSON, its plots, and its exit code."""

from pathlib import Path

import pytest

from markovae.cli.entry import main
from markovae.theory import checks as verify
from markovae.theory.checks import CHECKS
from markovae.theory.rows import Check, Line

HOLDS = Check("DDPM", (Line("yes", "1 = 1", 0.0),), lambda: [(1.0, 1.0)])
FAILS = Check("DDPM", (Line("no", "1 = 2", 0.5),), lambda: [(1.0, 2.0)])
EMPTY = Check("Pixels", (Line("empty", "0 = 0/0", 0.5),), lambda: [(0.0, float("nan"))])


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch):
    """Verify these checks alone."""

    def choose(*chosen: Check) -> None:
        right = verify.check_all
        monkeypatch.setattr(verify, "check_all", lambda: right(chosen))

    return choose


def test_what_passes_is_json(checks, json_of) -> None:
    """Of a few checks: tests/theory/test_checks.py has that each passes."""
    few = CHECKS[::10]
    checks(*few)
    rows = json_of("verify", "verify")["rows"]
    assert [row["name"] for row in rows] == [line.name for check in few for line in check.lines]
    assert all(row["pass"] for row in rows)


def test_a_failed_equation_is_exit_code_1(checks, json_of) -> None:
    checks(HOLDS, FAILS, EMPTY)
    rows = json_of("verify", "verify", code=1)["rows"]
    assert [row["pass"] for row in rows] == [True, False, False]
    assert rows[2]["measured"] is None


def test_the_table_names_slides_and_what_fails(checks, capsys: pytest.CaptureFixture[str]) -> None:
    checks(HOLDS, FAILS, EMPTY)
    assert main(["verify"]) == 1
    told = capsys.readouterr().out
    assert told.count("DDPM") == 1
    assert "holds" in told
    assert "2 of 3 equations FAIL: no, empty" in told
    checks(HOLDS)


def test_the_table_says_when_all_holds(checks, capsys: pytest.CaptureFixture[str]) -> None:
    checks(HOLDS)
    assert main(["verify"]) == 0
    assert "all 1 equations hold" in capsys.readouterr().out


def test_plots_are_written(checks, tmp_path: Path) -> None:
    checks(HOLDS)
    assert main(["verify", "--plots", str(tmp_path / "new" / "plots")]) == 0
    written = sorted(path.name for path in (tmp_path / "new" / "plots").iterdir())
    assert written == ["euler.svg", "gap.svg", "gradients-linear.svg", "gradients.svg", "step.svg", "traps.svg"]


def test_a_folder_that_cannot_be_is_one_sentence(checks, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checks(HOLDS)
    (tmp_path / "file").write_text("")
    assert main(["verify", "--plots", str(tmp_path / "file")]) == 2
    told = capsys.readouterr().err
    assert "--plots" in told
    assert told.count("\n") == 1
