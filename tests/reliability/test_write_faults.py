"""Write faults: whichever call fails, what was saved before is untouched, and the sentence says what it needed."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tests.reliability import trainers
from tests.reliability.conftest import many
from tests.reliability.disks import DELETES, WRITES, Failing, WatchedDisk
from tests.reliability.forkserver import ForkServer
from tests.reliability.outcome import outcome

from markovae.checkpoints.manifest import CheckpointError, verify_bundle
from markovae.checkpoints.reading import newest_checkpoint
from markovae.checkpoints.writing import save_checkpoint
from markovae.config import Config
from markovae.errors import StoppedRun, UserError
from markovae.run.start import resume_run, train_run
from markovae.run.surroundings import Surroundings

CODES = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS)
SENTENCE = r"^\S+ could not be written \(.+\): it needs [\d,]+ bytes and [\d,]+ are free; .+$"


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
def test_whichever_call_of_a_save_fails(
    memory: Path, tiny_config: Config, code: int, lasting: bool, monkeypatch: pytest.MonkeyPatch
):
    # Bytes are what this is about: stand-in weights make no model.
    monkeypatch.setattr("markovae.checkpoints.reading.require_fit", lambda *bundle: None)
    folder = memory / "checkpoints"
    state = {"step": 0, "shape": [1, 4, 4], "bins": 256, "class_names": []}
    for step in (2, 4):
        save_checkpoint(folder, step, {"ema": {"w": torch.ones(3)}}, {**state, "step": step}, tiny_config)
    before = verify_bundle(folder / "step-00000004")
    calls = (*WRITES, *DELETES) if lasting else WRITES
    for number in range(1, 100):
        watcher, said = Failing(number, code, lasting, calls), None
        tensors = {"ema": {"w": torch.zeros(3)}}
        try:
            save_checkpoint(folder, 6, tensors, {**state, "step": 6}, tiny_config, WatchedDisk(watcher))
        except StoppedRun as error:
            said = str(error)
        if watcher.failed is None:
            break
        assert said is not None, f"{watcher.failed} went unsaid"
        assert re.search(SENTENCE, said), said
        assert f"{folder / 'step-00000006'} could not be written ({os.strerror(code)})" in said
        assert verify_bundle(folder / "step-00000004") == before
        newest = newest_checkpoint(memory)
        # The last flush comes after the rename: by then the checkpoint is whole, and only its name may not be safe.
        assert newest.step == (6 if watcher.failed == ("sync", folder) else 4)
        left = {path.name for path in folder.iterdir()} - {"step-00000002", "step-00000004", "step-00000006"}
        assert lasting or not left
        for path in folder.iterdir():
            if path.name not in ("step-00000002", "step-00000004"):
                shutil.rmtree(path)
    # A folder, four files of three calls each, the flush of the folder, the rename, the flush above: 16, then success.
    assert number == 17
    assert newest_checkpoint(memory).step == 6


def faulty_run(folder: Path, whole: dict[str, str], number: int, code: int) -> str | None:
    """One run whose disk fails at a call and is well again at the resume; what it said, None when it never failed."""
    out, watcher = folder / "run", Failing(number, code)
    config = trainers.config(str(folder / "images.npz"), "short")
    said = ""
    try:
        train_run(config, out, Surroundings(disk=WatchedDisk(watcher)))
    except (StoppedRun, UserError) as error:
        said = str(error)
        assert "\n" not in said
        assert os.strerror(code) in said, said
        if isinstance(error, StoppedRun):
            assert re.search(SENTENCE, said), said
    if watcher.failed is None:
        shutil.rmtree(out)
        return None
    try:
        newest_checkpoint(out)
        resume_run(out)
    except CheckpointError:
        assert said, "a run without a checkpoint told of success"
        train_run(config, out)
    assert outcome(out) == whole, (number, watcher.failed)
    shutil.rmtree(out)
    return said


def reference(folder: Path) -> dict[str, str]:
    trainers.write_images(folder / "images.npz")
    whole = train_run(trainers.config(str(folder / "images.npz"), "short"), folder / "whole")
    return outcome(whole)


def test_some_calls_of_a_whole_run_fail(memory: Path, capsys):
    whole = reference(memory)
    said = [faulty_run(memory, whole, number, CODES[number % 4]) for number in range(1, 120, 15)]
    assert None not in said
    assert len([text for text in said if text]) >= 7  # what prune cannot delete stops no run


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of its own in memory; the test is skipped where none may be mounted."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_and_is_freed(memory: Path, capsys):
    trainers.write_images(data := memory / "images.npz")
    config = trainers.config(str(data), "plain", "train.keep_every=1", "train.keep=1", "train.grids=0")
    whole = outcome(train_run(config, memory / "whole"))
    with small_disk(memory / "small", 800_000) as small:
        with pytest.raises(StoppedRun, match=SENTENCE) as caught:
            train_run(config, small / "run")
        assert "No space left on device" in str(caught.value)
        assert int(re.search(r"and ([\d,]+) are free", str(caught.value))[1].replace(",", "")) < 60_000
        saved = newest_checkpoint(small / "run")
        assert 3 < saved.step < 24
        with pytest.raises((StoppedRun, UserError), match="bytes"):
            resume_run(small / "run")
        assert newest_checkpoint(small / "run").digest == saved.digest
        for path in sorted((small / "run" / "checkpoints").glob("step-*"))[:-1]:
            shutil.rmtree(path)
        config_file = small / "run" / "config.toml"
        assert config_file.exists()
        shutil.copytree(small / "run", memory / "moved")
    resume_run(memory / "moved")
    assert outcome(memory / "moved") == whole


def test_a_disk_too_small_for_two_bundles_is_refused_before_the_first_step(memory: Path, capsys):
    trainers.write_images(data := memory / "images.npz")
    with small_disk(memory / "small", 65_536) as small:
        with pytest.raises(UserError, match=r"has [\d,]+ bytes free and the run needs [\d,]+ for its checkpoints"):
            train_run(trainers.config(str(data), "plain"), small / "run")
        assert list(small.iterdir()) == []
    assert "step 1 " not in capsys.readouterr().err


@pytest.mark.parametrize("limit", [1000, 12_000])
def test_a_limit_on_the_size_of_files(forkserver: ForkServer, memory: Path, limit: int):
    """RLIMIT_FSIZE: writes are cut short, then refused."""
    trainers.write_images(memory / "images.npz")
    words = trainers.words(str(memory / "images.npz"), str(memory / "run"), "plain")
    code = forkserver.run("limited", memory / "said", arguments=words, limit=limit)
    said = (memory / "said").read_text()
    assert code == 3, said
    last = said.splitlines()[-1].removeprefix("markovae: ")
    assert re.search(SENTENCE, last), said
    assert "File too large" in last
    assert "ulimit -f" in last
    assert not list(memory.rglob("*.safetensors"))
    assert forkserver.run("command", memory / "said", arguments=words) == 0, "something is in the way"


@pytest.mark.slow
def test_every_call_of_a_whole_run_fails_in_every_way(memory: Path, capsys, tell):
    whole, runs, stopped = reference(memory), 0, 0
    stride = round(1 / min(1.0, many(1000) / 1000))
    for code in CODES:
        for number in range(1, 1000, stride):
            said = faulty_run(memory, whole, number, code)
            if said is None:
                break
            runs += 1
            stopped += bool(said)
    assert runs > 400 / stride - 4
    tell(
        4,
        "the k-th open, write, flush, rename or mkdir fails, "
        + ("for every k" if stride == 1 else f"for every {stride}th k"),
        "a run of 3 steps with pruning, evaluation and a grid, through the one seam all files are written by, with "
        "ENOSPC, EIO, EACCES and EROFS; then resumed on a healthy disk",
        f"{runs} of {runs} runs kept every checkpoint they had told of and ended bitwise as the undisturbed one; "
        f"{stopped} stopped with path, bytes needed and bytes free, {runs - stopped} could not delete an old "
        "checkpoint and said so",
        runs=runs,
    )
