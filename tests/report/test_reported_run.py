import shutil
from pathlib import Path

import pytest
import torch

from markovae.errors import UserError
from markovae.report.reported_run import load_reported_run


def test_a_run_with_classes_and_one_without(digits_run: Path, colour_run: Path):
    digits, colour = (load_reported_run(run, torch.device("cpu")) for run in (digits_run, colour_run))
    assert (digits.bins, digits.num_classes, colour.bins, colour.num_classes) == (17, 10, 256, 0)
    assert digits.conditions(12).label.tolist() == [*range(10), 0, 1]
    assert colour.conditions(12) is None
    assert digits.labels(digits.splits.test) is digits.splits.test.labels
    assert digits.pace > 0


def test_data_that_changed_are_refused(colour_run: Path, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(colour_run, run)
    for path in run.glob("checkpoints/*"):
        shutil.rmtree(path)
    with pytest.raises(UserError):
        load_reported_run(run, torch.device("cpu"))
