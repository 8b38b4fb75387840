"""Power cuts: every prefix of the calls that write, with whatever was not flushed lost or kept."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
import torch
from tests.reliability.disks import Recording, WatchedDisk
from tests.reliability.powercut import Replay

from markovae.checkpoints.manifest import CheckpointError
from markovae.checkpoints.reading import newest_checkpoint
from markovae.checkpoints.writing import prune, save_checkpoint
from markovae.config import Config
from markovae.system.files import append, clear_stages, staged_folder, sync, write_file, write_synced


@pytest.fixture(autouse=True)
def bytes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cut here are bytes: three numbers stand for the weights of a model."""
    monkeypatch.setattr("markovae.checkpoints.reading.require_fit", lambda *bundle: None)


POLICIES = ("least", "names", "most", "some", "some")
MARK = "saved"


def saves(run: Path, config: Config) -> list[tuple[str, Path, bytes]]:
    """The log of four saves, pruned to two with step 20 a milestone; a mark where each is told of."""
    watcher = Recording()
    disk = WatchedDisk(watcher)
    for step in (10, 20, 30, 40, 50):
        append(run / "metrics.jsonl", b"{}\n", disk)
        tensors = {name: {"w": torch.full((3,), float(step))} for name in ("model", "ema", "optimizer")}
        state = {"step": step, "shape": [1, 4, 4], "bins": 256, "class_names": []}
        save_checkpoint(run / "checkpoints", step, tensors, state, config, disk)
        watcher.log.append((MARK, run, str(step).encode()))
        prune(run / "checkpoints", 2, every=20, disk=disk)
    return watcher.log


def cuts(log: list[tuple[str, Path, bytes]], root: Path, to: Path, seed: int, repeats: int = 1):
    """Yield (marks seen, folder) for every prefix of the log and every policy."""
    chance, replay, marks = random.Random(seed), Replay(root), []
    for call, path, content in [*log, ("end", root, b"")]:
        for policy in POLICIES * repeats:
            replay.write(to, policy, chance)
            yield marks, to
            shutil.rmtree(to)
        if call == MARK:
            marks.append(int(content))
        elif call != "end":
            replay.apply(call, path, content)


def check_saves(tmp_path: Path, config: Config, repeats: int) -> int:
    (tmp_path / "run").mkdir()
    log, count = saves(tmp_path / "run", config), 0
    for told, run in cuts(log, tmp_path / "run", tmp_path / "cut", 5, repeats):
        count += 1
        try:
            checkpoint = newest_checkpoint(run)
        except CheckpointError:
            assert told == [], f"step {told[-1]} was told of and is lost"
            continue
        assert checkpoint.step >= max(told, default=0)
        for name in ("model", "ema", "optimizer"):
            assert checkpoint.tensors(name)["w"].tolist() == [float(checkpoint.step)] * 3
        if 20 in told:
            assert (run / "checkpoints" / "step-00000020" / "manifest.json").exists(), "a milestone is gone"
    return count


def test_a_checkpoint_that_was_told_of_survives_any_power_cut(memory: Path, tiny_config: Config, capsys):
    assert check_saves(memory, tiny_config, repeats=1) > 500


def test_a_file_that_is_replaced_is_the_old_one_or_the_new_one(memory: Path):
    watcher = Recording()
    (root := memory / "run").mkdir()
    write_file(root / "a", b"old", WatchedDisk(watcher))
    watcher.log.append((MARK, root, b"1"))
    write_file(root / "a", b"new", WatchedDisk(watcher))
    watcher.log.append((MARK, root, b"2"))
    for told, folder in cuts(watcher.log, root, memory / "cut", 6, repeats=5):
        clear_stages(folder)
        found = (folder / "a").read_bytes() if (folder / "a").exists() else None
        assert found in ({0: (None, b"old"), 1: (b"old", b"new"), 2: (b"new",)}[len(told)])


def test_a_folder_that_is_replaced_is_the_old_one_or_the_new_one(memory: Path):
    watcher = Recording()
    disk = WatchedDisk(watcher)
    (root := memory / "run").mkdir()
    for number, content in enumerate((b"old", b"new"), start=1):
        with staged_folder(root / "a", disk) as stage:
            write_synced(stage / "x", content, disk)
            write_synced(stage / "y", content, disk)
        watcher.log.append((MARK, root, str(number).encode()))
    for told, folder in cuts(watcher.log, root, memory / "cut", 7, repeats=5):
        clear_stages(folder)
        found = {path.read_bytes() for path in (folder / "a").iterdir()} if (folder / "a").exists() else {None}
        assert found <= ({0: {None, b"old"}, 1: {b"old", b"new"}, 2: {b"new"}}[len(told)])
        assert len(found) == 1


def test_the_replay_can_lose_things(memory: Path):
    """Renamed without a flush: then a file may be empty or absent, and the replay shows both."""
    watcher = Recording()
    disk = WatchedDisk(watcher)
    (root := memory / "run").mkdir()
    handle = disk.open(root / ".tmp", 0o101)
    disk.write(handle, memoryview(b"bytes"))
    disk.close(handle)
    disk.rename(root / ".tmp", root / "a")
    found = set()
    for _, folder in cuts(watcher.log, root, memory / "cut", 8, repeats=20):
        found.add((folder / "a").read_bytes() if (folder / "a").exists() else None)
    assert {None, b"", b"bytes"} <= found
    sync(root, disk)
    assert watcher.log[-1][0] == "sync"


@pytest.mark.slow
def test_many_power_cuts(memory: Path, tiny_config: Config, capsys, tell):
    count = check_saves(memory, tiny_config, repeats=36)
    tell(
        4,
        "power cuts: a checkpoint that was told of is there and whole",
        "the calls of five saves with pruning and a milestone are recorded and every prefix replayed by the letter of "
        "POSIX: a file's bytes are safe once it was flushed, a name once its folder was, and each unflushed change is "
        "lost, kept or cut at random",
        f"{count:,} of {count:,} states of the disk hold the last checkpoint told of, or a newer one, whole",
        states=count,
    )
