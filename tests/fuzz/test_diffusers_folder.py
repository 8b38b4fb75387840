"""The door *diffusers folder*: `markovae import` of what a stranger wrote."""

import json
import random
import shutil
from pathlib import Path

import pytest
from tests.fuzz.conftest import Fuzzer
from tests.interop.pipelines import SCHEDULER, UNET, write_pipeline

from markovae.interop.importing import import_run

ODD = (
    *(-5, 0, 1, 3, 4096, 16_384, 2**31, 2**62, 10**400, 1e308, float("nan"), None, True, "x", "\ud800", [], {}),
    *([[[]]], [1], [16_384] * 12, [8] * 13, ["DownBlock2D"] * 12, [0.1] * 10_001),
)
NAMES = (
    *("block_out_channels", "layers_per_block", "down_block_types", "up_block_types", "norm_num_groups", "sample_size"),
    *("in_channels", "out_channels", "num_class_embeds", "attention_head_dim", "norm_eps", "dropout", "freq_shift"),
)
RULES = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "clip_sample_range", "_x")


def test_folders_of_any_content(fuzzer: Fuzzer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)  # which no folder has a say in
    folder = write_pipeline(tmp_path / "theirs")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    import_run(folder, tmp_path / "warm")

    def make(chance: random.Random) -> Path:
        unet, scheduler, content = dict(UNET), dict(SCHEDULER), whole
        for table, names in ((unet, NAMES), (scheduler, RULES)):
            if chance.random() < 0.7:
                table[chance.choice(names)] = chance.choice(ODD)
        if chance.random() < 0.2:
            place = chance.randrange(len(content))
            content = chance.choice((content[:place], content[:place] + b"\xff" * 8 + content[place + 8 :], b""))
        text = chance.choice((json.dumps(unet), json.dumps(unet), json.dumps(unet), "[" * 50_000, "9" * 4301))
        (folder / "unet" / "config.json").write_text(text)
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
        weights.write_bytes(content)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        return tmp_path / "out"

    found = fuzzer("diffusers folder", lambda out: import_run(folder, out), make, writable=[tmp_path])
    assert found.refused > found.accepted > 0
