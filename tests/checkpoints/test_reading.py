import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch

from markovae.build import create
from markovae.checkpoints import reading
from markovae.checkpoints.manifest import CheckpointError, make_manifest
from markovae.checkpoints.reading import Checkpoint, load, load_run, newest_checkpoint, open_checkpoint
from markovae.config import Config
from markovae.errors import UserError


def rewrite(folder: Path, **contents: bytes) -> None:
    """Replace files of a bundle and make a manifest that vouches for them."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}
    files.update({name.replace("__", "."): content for name, content in contents.items()})
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "manifest.json").write_bytes(make_manifest(files))


def test_load_gives_the_average_of_the_newest_checkpoint(saved: Path, tiny_config: Config):
    model = load(saved)
    stored = safetensors.torch.load_file(saved / "checkpoints/step-00000004/ema.safetensors")
    assert not model.training
    assert {name for name, _ in model.named_parameters()} == set(stored)
    assert all(torch.equal(stored[name], value) for name, value in model.named_parameters())
    assert model.shape == (1, 4, 4)
    assert model.schedule.num_levels == 50
    raw = open_checkpoint(saved).model("model")
    assert any(not torch.equal(stored[name], value) for name, value in raw.named_parameters())


def test_one_checkpoint_can_be_named(saved: Path):
    checkpoint = open_checkpoint(saved / "checkpoints" / "step-00000002")
    assert checkpoint.step == 2
    assert checkpoint.class_names == ("left", "right")
    assert not load(checkpoint.path).training


def test_a_run_whose_checkpoints_are_all_bad_says_what_ails_the_newest(saved: Path):
    for path in saved.glob("checkpoints/*/state.json"):
        path.write_bytes(b"{}")
    with pytest.raises(CheckpointError, match=r"no checkpoint that verifies; the newest: .*step-00000004/state\.json"):
        load(saved)


def test_a_run_stopped_before_its_first_save_says_so(tmp_path: Path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="before its first save"):
        newest_checkpoint(tmp_path)


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_text("x")])
def test_a_path_that_is_no_run_is_told(tmp_path: Path, make):
    path = tmp_path / "x"
    make(path)
    with pytest.raises(UserError, match=r"is not a folder|is not a run"):
        load(path)


def test_a_checkpoint_that_lost_its_manifest_is_still_seen_as_one(saved: Path):
    path = saved / "checkpoints" / "step-00000004"
    (path / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"manifest\.json is missing"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"state__json": b"[]"}, r"state\.json is not a JSON object"),
        ({"state__json": b'{"format": 5}'}, r"state\.json has format 5"),
        ({"state__json": b'{"format": 4}'}, r"state\.json has no step"),
        ({"config__toml": b"[trian]"}, r"config\.toml: unknown setting trian"),
        (
            {"config__toml": b"[network]\nwidth=16"},
            r"\.safetensors does not fit the configuration: its network has 64 weights or more, and here are 29",
        ),
        ({"ema__safetensors": b""}, r"ema\.safetensors holds no tensors"),
        ({"ema__safetensors": b"\x80\x04K\x01."}, r"ema\.safetensors holds no tensors"),
        ({"model__safetensors": b"no tensors, and not even asked for"}, r"model\.safetensors holds no tensors"),
        ({"ema__safetensors": safetensors.torch.save({"a": torch.ones(1).int()})}, "what it says of 'a' makes none"),
        ({"ema__safetensors": (10**18).to_bytes(8, "little") + b"{}"}, r"ema\.safetensors holds no tensors"),
        ({"ema__safetensors": safetensors.torch.save({"a": torch.ones(1)})}, "does not fit the configuration"),
    ],
)
def test_contents_that_verify_but_make_no_model_are_one_sentence(saved: Path, contents: dict, message: str):
    path = saved / "checkpoints" / "step-00000004"
    rewrite(path, **contents)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_a_state_that_describes_no_possible_shape_is_refused(saved: Path):
    path = saved / "checkpoints" / "step-00000004"
    state = json.loads((path / "state.json").read_text())
    for shape in ([2, 4, 4], [0, 4, 4], [1], ["a", 4, 4], [1, 4, 4, 4], [-1, 4, 4]):
        rewrite(path, state__json=json.dumps({**state, "shape": shape}).encode())
        with pytest.raises(CheckpointError):
            load(path)


def test_loading_does_not_touch_the_global_generator(saved: Path, tiny_config: Config):
    before = torch.random.get_rng_state()
    load(saved)
    create(tiny_config, (1, 4, 4))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("trained", "native", "chosen"),
    [("bfloat16", True, torch.bfloat16), ("bfloat16", False, torch.float32), ("float32", True, torch.float32)],
)
def test_precision_is_that_of_the_training_where_the_device_has_it(monkeypatch, trained, native, chosen):
    monkeypatch.setattr(reading, "has_bfloat16", lambda device: native)
    checkpoint = SimpleNamespace(state={"precision": trained})
    assert Checkpoint.native_precision(checkpoint, torch.device("cpu")) is chosen


def test_load_run_is_load_with_what_the_run_says_of_itself(saved: Path):
    run = load_run(saved, device="cpu")
    assert (run.path, run.checkpoint.step, run.class_names) == (saved, 4, ("left", "right"))
    assert run.num_classes == run.model.network.num_classes
    pairs = zip(run.model.parameters(), load(saved).parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    double = load_run(saved, device="cpu", precision="float64")
    assert double.precision == "float64"
    assert {weight.dtype for weight in double.model.parameters()} == {torch.float64}
    with pytest.raises(UserError, match="precision='half' must be one of auto, float32, bfloat16, float64"):
        load_run(saved, precision="half")
