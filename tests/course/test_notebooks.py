"""The notebooks run, are the same in both forms, and ask for every exercise of their chapter."""

import re
from pathlib import Path
from runpy import run_path

import pytest

from markovae.course import exercises

jupytext = pytest.importorskip("jupytext")  # of the extra `course`
plt = pytest.importorskip("matplotlib.pyplot")

from scripts.notebooks import cells, texts  # noqa: E402


@pytest.mark.parametrize("path", texts(), ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer steps of training than a reader takes."""
    plt.switch_backend("Agg")
    text = re.sub(r"steps=300", "steps=4", path.read_text(encoding="utf-8"))
    shorter = tmp_path / path.name
    shorter.write_text(text, encoding="utf-8")
    try:
        scope = run_path(str(shorter))
    finally:
        plt.close("all")
    chapter = [exercise for exercise in exercises() if exercise.chapter == int(path.stem[:2])]
    assert chapter
    assert all(f"def {exercise.signature}:" in text and exercise.name in scope for exercise in chapter)


@pytest.mark.parametrize("path", texts(), ids=lambda path: path.stem)
def test_the_notebook_beside_the_text_has_the_same_cells(path: Path) -> None:
    assert cells(path) == cells(path.with_suffix(".ipynb")), f"run python -m scripts.notebooks {path.stem}"
