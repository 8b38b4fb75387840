"""Bundles of every format there was: kept as they were written, and loaded bit by bit."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from markovae.checkpoint import load, open_checkpoint
from markovae.checkpoint.manifest import FORMAT
from markovae.checkpoint.migration import migrated
from markovae.config import Config
from markovae.run import resume_run

BUNDLES = Path(__file__).parents[1] / "fixtures" / "bundles"
# SHA-256 of the averaged weights' bytes, by name; the first 16 hex digits.
WEIGHTS = {"format-1": "a47f30f598f3dbe0", "format-2": "a47f30f598f3dbe0", "format-3": "ba436e29eefa1ff9"}


def digest(tensors: dict[str, torch.Tensor]) -> str:
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode() + tensors[name].numpy().tobytes())
    return found.hexdigest()[:16]


def test_every_format_has_its_bundle():
    assert sorted(path.name for path in BUNDLES.iterdir()) == [f"format-{n}" for n in range(1, FORMAT + 1)]


@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_a_bundle_of_an_older_format_loads_bit_by_bit(name: str):
    folder = BUNDLES / name / "step-00000006"
    checkpoint = open_checkpoint(folder)
    assert checkpoint.state["format"] == FORMAT
    assert checkpoint.step == 6
    assert checkpoint.state["draws"]["next_batch"] == 6
    model = dict(load(folder).named_parameters())
    assert digest({name: value.detach() for name, value in model.items()}) == WEIGHTS[name]
    for file in ("model", "ema", "optimizer"):
        raw = safetensors.torch.load_file(folder / f"{file}.safetensors")
        read = checkpoint.tensors(file)
        assert raw.keys() == read.keys()
        assert all(torch.equal(raw[key], read[key]) for key in raw)


@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_a_run_of_an_older_format_goes_on(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setenv("MARKOVAE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(BUNDLES / name / "step-00000006", tmp_path / "run" / "checkpoints" / "step-00000006")
    resume_run(tmp_path / "run")
    assert open_checkpoint(tmp_path / "run").step == 12
    assert (tmp_path / "run" / "checkpoints" / "step-00000006").exists(), "older files stay as they were"


@pytest.mark.parametrize(
    ("shape", "settings", "attention"),
    [
        ((3, 32, 32), [], ()),
        ((3, 64, 64), [], (2,)),
        ((3, 32, 32), ["network.multipliers=[1,2,2]"], (2,)),
        ((3, 32, 32), ["network.attention=[0]"], (0,)),
        ((3, 32, 32), ["network.kind=dit"], None),
    ],
)
def test_attention_that_format_2_left_out_is_where_it_was(shape: tuple, settings: list[str], attention: tuple | None):
    contents = {
        "config.toml": Config().with_settings(settings).to_toml().encode(),
        "state.json": json.dumps({"format": 2, "shape": list(shape)}).encode(),
    }
    after = migrated(contents, 2, Path("bundle"))
    assert Config.parse(after["config.toml"], "config.toml").network.attention == attention
    assert json.loads(after["state.json"])["format"] == 3
