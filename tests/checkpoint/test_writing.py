import errno
import os
import re
from pathlib import Path

import pytest
import torch

from markovae import files
from markovae.checkpoint import export_weights, load, open_checkpoint, prune, save_checkpoint
from markovae.checkpoint.manifest import verify_bundle
from markovae.checkpoint.writing import checkpoints_in
from markovae.config import Config
from markovae.errors import StoppedRun, UserError

STATE = {"shape": [1, 4, 4], "bins": 256, "class_names": [], "data": {}}


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
    assert set(verify_bundle(checkpoint)) == names - {"manifest.json"}
    assert sorted(path.name for path in checkpoint.parent.iterdir()) == ["step-00000002", "step-00000004"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS])
def test_whichever_write_fails_the_older_checkpoint_stays_and_nothing_is_half_there(
    saved: Path, tiny_config: Config, monkeypatch: pytest.MonkeyPatch, code: int
):
    folder, older = saved / "checkpoints", verify_bundle(saved / "checkpoints" / "step-00000004")
    calls = 0

    def counted(call, limit: int):
        def wrapped(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == limit:
                raise OSError(code, os.strerror(code))
            return call(*args, **kwargs)

        return wrapped

    failures = 0
    for limit in range(1, 100):
        calls = 0
        with monkeypatch.context() as patch:
            for owner, name in ((files.os, "fsync"), (Path, "open"), (Path, "rename"), (Path, "mkdir")):
                patch.setattr(owner, name, counted(getattr(owner, name), limit))
            try:
                save_checkpoint(folder, 6, {"ema": {"w": torch.ones(3)}}, STATE, tiny_config)
                break
            except StoppedRun as error:
                message = str(error)
        failures += 1
        assert re.search(r"step-00000006 could not be written .* needs [\d,]+ bytes and [\d,]+ are free", message)
        assert verify_bundle(folder / "step-00000004") == older
        # The last fsync comes after the rename: then the checkpoint is whole, only its name may not be on the disk yet.
        assert {path.name for path in folder.iterdir()} - {"step-00000006"} == {"step-00000002", "step-00000004"}
        if (folder / "step-00000006").exists():
            verify_bundle(folder / "step-00000006")
    assert failures >= 8
    assert open_checkpoint(folder / "step-00000006").contents


def test_a_kill_before_the_rename_leaves_a_stage_that_nobody_reads(
    saved: Path, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
):
    class Kill(BaseException):
        pass

    def kill(*_args: object):
        raise Kill

    monkeypatch.setattr(Path, "rename", kill)
    monkeypatch.setattr(files.shutil, "rmtree", lambda *_args, **_kwargs: None)
    with pytest.raises(Kill):
        save_checkpoint(saved / "checkpoints", 6, {"ema": {"w": torch.ones(3)}}, STATE, tiny_config)
    monkeypatch.undo()
    assert any(path.name.startswith(".tmp-step-00000006") for path in (saved / "checkpoints").iterdir())
    assert open_checkpoint(saved).step == 4
    files.clear_stages(saved / "checkpoints")
    assert len(list((saved / "checkpoints").iterdir())) == 2


def test_prune_keeps_the_newest_and_what_it_is_told(saved: Path, tiny_config: Config):
    folder = saved / "checkpoints"
    for step in (100_000_000, 30, 6):
        save_checkpoint(folder, step, {"ema": {"w": torch.ones(1)}}, STATE, tiny_config)
    names = [path.name for path in checkpoints_in(folder)]
    assert names == ["step-100000000", "step-00000030", "step-00000006", "step-00000004", "step-00000002"]
    prune(folder, 2, also=[folder / "step-00000004"])
    assert [path.name for path in checkpoints_in(folder)] == ["step-100000000", "step-00000030", "step-00000004"]


def test_numbers_that_json_has_no_word_for_are_not_written(tmp_path: Path, tiny_config: Config):
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(tmp_path, 1, {}, {"loss": float("nan")}, tiny_config)
    assert list(tmp_path.iterdir()) == []


def test_exported_weights_are_half_as_large_and_load_close(saved: Path, tmp_path: Path):
    checkpoint = open_checkpoint(saved)
    target = export_weights(tmp_path / "small", checkpoint.tensors("ema"), checkpoint.state, checkpoint.config)
    assert {path.name for path in target.iterdir()} == {"ema.safetensors", "state.json", "config.toml", "manifest.json"}
    assert not open_checkpoint(target).resumable
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
