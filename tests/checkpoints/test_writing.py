import errno
import shutil
from pathlib import Path

import pytest
import torch
from tests.reliability.disks import Failing, WatchedDisk

from markovae.checkpoints.manifest import verify_bundle
from markovae.checkpoints.reading import load, open_checkpoint
from markovae.checkpoints.writing import checkpoints_in, export_weights, prune, save_checkpoint, set_aside
from markovae.config import Config
from markovae.errors import UserError

STATE = {"step": 0, "shape": [1, 4, 4], "bins": 256, "class_names": [], "data": {}}


def test_the_bundle_has_its_files_and_nothing_more(saved: Path):
    checkpoint = saved / "checkpoints" / "step-00000004"
    names = {path.name for path in checkpoint.iterdir()}
    assert names == {
        "model.safetensors",
        "ema.safetensors",
        "optimizer.safetensors",
        "state.json",
        "config.toml",
        "manifest.json",
    }
    assert set(verify_bundle(checkpoint)) == names
    assert sorted(path.name for path in checkpoint.parent.iterdir()) == ["step-00000002", "step-00000004"]


def test_prune_keeps_the_newest_and_what_it_is_told(saved: Path, tiny_config: Config):
    folder = saved / "checkpoints"
    for step in (100_000_000, 30, 6):
        save_checkpoint(folder, step, {"ema": {"w": torch.ones(1)}}, STATE, tiny_config)
    names = [path.name for path in checkpoints_in(folder)]
    assert names == ["step-100000000", "step-00000030", "step-00000006", "step-00000004", "step-00000002"]
    prune(folder, 2, every=4)
    assert [path.name for path in checkpoints_in(folder)] == ["step-100000000", "step-00000030", "step-00000004"]
    prune(folder, 1)
    assert [path.name for path in folder.iterdir()] == ["step-100000000"]


def test_a_checkpoint_that_cannot_be_deleted_stays_and_is_told(saved: Path, capsys: pytest.CaptureFixture[str]):
    prune(saved / "checkpoints", 1, disk=WatchedDisk(Failing(1, errno.EACCES)))
    assert "step-00000002 could not be deleted (Permission denied): it stays" in capsys.readouterr().err
    assert open_checkpoint(saved / "checkpoints" / "step-00000002").step == 2


def test_what_is_set_aside_is_no_checkpoint_and_is_kept(saved: Path):
    path = saved / "checkpoints" / "step-00000004"
    for number in (1, 2):
        aside = set_aside(path)
        assert aside.name == f"damaged-step-00000004-{number}"
        assert (aside / "manifest.json").exists()
        assert open_checkpoint(saved).step == 2
        shutil.copytree(aside, path)


def test_numbers_that_json_has_no_word_for_are_not_written(tmp_path: Path, tiny_config: Config):
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(tmp_path, 1, {}, {"loss": float("nan")}, tiny_config)
    assert list(tmp_path.iterdir()) == []


def test_exported_weights_are_half_as_large_and_load_close(saved: Path, tmp_path: Path):
    checkpoint = open_checkpoint(saved)
    target = export_weights(tmp_path / "small", checkpoint.tensors("ema"), checkpoint.state, checkpoint.config)
    assert {path.name for path in target.iterdir()} == {"ema.safetensors", "state.json", "config.toml", "manifest.json"}
    size = (target / "ema.safetensors").stat().st_size
    assert size < 0.7 * (checkpoint.path / "ema.safetensors").stat().st_size
    for exact, half in zip(load(saved).parameters(), load(target).parameters(), strict=True):
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, exact, rtol=1e-3, atol=1e-6)


def test_a_weight_beyond_half_precision_is_refused(saved: Path, tmp_path: Path):
    checkpoint = open_checkpoint(saved)
    tensors = {name: value + 1e5 for name, value in checkpoint.tensors("ema").items()}
    with pytest.raises(UserError, match="exceeds 65,504"):
        export_weights(tmp_path / "small", tensors, checkpoint.state, checkpoint.config)
    assert not (tmp_path / "small").exists()
