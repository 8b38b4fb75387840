import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from markovae.errors import UserError
from markovae.report import subject
from markovae.report.subject import open_subject, own_precision


def test_a_run_with_classes_and_one_without(digits_run: Path, colour_run: Path):
    digits, colour = (open_subject(run, torch.device("cpu")) for run in (digits_run, colour_run))
    assert (digits.bins, digits.num_classes, colour.bins, colour.num_classes) == (17, 10, 256, 0)
    assert digits.conditions(12).label.tolist() == [*range(10), 0, 1]
    assert colour.conditions(12) is None
    assert digits.labels(digits.splits.test) is digits.splits.test.labels
    assert digits.pace > 0


@pytest.mark.parametrize(
    ("trained", "native", "chosen"),
    [("bfloat16", True, torch.bfloat16), ("bfloat16", False, torch.float32), ("float32", True, torch.float32)],
)
def test_precision_is_that_of_the_training_where_the_device_has_it(monkeypatch, trained, native, chosen):
    monkeypatch.setattr(subject, "has_bfloat16", lambda device: native)
    checkpoint = SimpleNamespace(state={"precision": trained})
    assert own_precision(checkpoint, torch.device("cpu")) is chosen


def test_data_that_changed_are_refused(colour_run: Path, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(colour_run, run)
    for path in run.glob("checkpoints/*"):
        shutil.rmtree(path)
    with pytest.raises(UserError):
        open_subject(run, torch.device("cpu"))
