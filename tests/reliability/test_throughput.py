"""Data larger than memory: shards on a disk feed the demo's model as fast as images in memory do."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
import pytest

from markovae.build import create
from markovae.cli.entry import main
from markovae.config import Config
from markovae.data.data_config import DataConfig
from markovae.data.loading import load_data
from markovae.training.trainer import Training


@pytest.mark.slow
def test_shards_feed_the_demos_model_as_fast_as_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tell):
    monkeypatch.setenv("MARKOVAE_CACHE", str(tmp_path / "cache"))
    images = np.random.default_rng(0).integers(0, 256, (1500, 32, 32, 3)).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    assert main(["shard", str(tmp_path / "images.npy"), "--out", str(tmp_path / "shards")]) == 0
    config = Config().with_settings(["train.steps=100000", "train.precision=float32"])
    runs, seconds = {}, {"memory": [], "shards": []}
    for name, source in (("memory", "images.npy"), ("shards", "shards")):
        data = load_data(DataConfig(str(tmp_path / source))).train
        runs[name] = Training(create(config, data.shape), data, config.train)
    for _ in range(25):
        for name, run in runs.items():
            began = time.process_time()
            run.advance()
            seconds[name].append(time.process_time() - began)
    memory, shards = (statistics.median(seconds[name][5:]) for name in ("memory", "shards"))
    assert memory / shards > 0.9
    tell(
        9,
        "throughput from shards against images in memory",
        "25 steps of the default network on 32x32 color images, 32 a batch, the two alternating, medians of processor "
        "time of the last 20; random pixels, the slowest PNGs to decode",
        f"{100 * memory / shards:.1f} % of the speed in memory ({1000 * shards:.0f} against {1000 * memory:.0f} ms a "
        "step)",
        ratio=memory / shards,
    )
