"""The door *bundle content*: a manifest that vouches for what no training wrote."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tests.fuzz.conftest import Fuzzer

from markovae.build import create
from markovae.checkpoints.manifest import MANIFEST, CheckpointError, make_manifest
from markovae.checkpoints.reading import newest_checkpoint, open_checkpoint
from markovae.checkpoints.writing import save_checkpoint
from markovae.config import Config
from markovae.data.images import ImageData
from markovae.training.trainer import Training

STATE = {"kind": "training", "shape": [1, 4, 4], "bins": 256, "class_names": ["left", "right"], "data": {}}
NUMBERS = (-5, 0, 1, 3, 1000, 20_000, 2**31, 2**62, 2**63, 10**400, 1.5, 1e308, float("nan"), float("inf"))
ODD: tuple[Any, ...] = (*NUMBERS, None, True, "x", "\ud800", "\0", [], {}, [[[[]]]], {"a": {"b": {}}}, ["\udfff"])
LINES = (
    *("network.width", "network.blocks", "network.embedding", "network.patch", "network.head_dim", "train.batch"),
    *("schedule.num_levels", "train.lr", "train.seed", "target.clip", "train.steps", "network.dropout", "data.size"),
    *("cascade.stages", "cascade.scales", "cascade.details_width", "distill.calls", "distill.guidance", "network.kind"),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_config: Config, tiny_data: ImageData) -> Path:
    """A run of two checkpoints."""
    run = tmp_path_factory.mktemp("trained") / "run"
    tiny_config = tiny_config.with_settings(["target.reverse=isotropic"])
    training = Training(create(tiny_config, tiny_data.shape, num_classes=2), tiny_data, tiny_config.train)
    for step in (1, 2):
        training.advance()
        training.fit_variance()
        tensors, position = training.capture()
        save_checkpoint(run / "checkpoints", step, tensors, {**position, **STATE}, tiny_config)
    return run


@pytest.fixture
def checkpoint(tmp_path: Path, trained: Path) -> Path:
    """The newer of the two, to be spoilt."""
    return max((shutil.copytree(trained, tmp_path / "run") / "checkpoints").iterdir())


def forge(path: Path, **contents: bytes) -> None:
    """Replace files (`state__json`) and vouch for them."""
    files = {file.name: file.read_bytes() for file in path.iterdir() if file.name != MANIFEST}
    files |= {name.replace("__", "."): content for name, content in contents.items()}
    for name, content in {**files, MANIFEST: make_manifest(files)}.items():
        if not (path / name).is_file() or (path / name).read_bytes() != content:
            (path / name).write_bytes(content)


def changed(state: dict[str, Any], chance: random.Random) -> bytes:
    """The state with one value, at any depth, that is another."""
    made = json.loads(json.dumps(state))
    place = made
    while True:
        key = chance.choice(sorted(place))
        if isinstance(place[key], dict) and place[key] and chance.random() < 0.8:
            place = place[key]
            continue
        place[key] = chance.choice(ODD)
        return json.dumps(made).encode()


def test_bundles_of_any_content(fuzzer: Fuzzer, checkpoint: Path):
    whole = {file.name: file.read_bytes() for file in checkpoint.iterdir() if file.name != MANIFEST}
    state = json.loads(whole["state.json"]) | {"text": {"encoder": "x", "sha256": "y", "width": 8}, "versions": {}}
    open_checkpoint(checkpoint).model()

    def make(chance: random.Random) -> str:
        made, way = dict(whole), chance.choice(("state", "config", "text", "header"))
        if way == "state":
            made["state.json"] = changed(state, chance)
        elif way == "config":
            section, _, name = chance.choice(LINES).partition(".")
            value = chance.choice((*NUMBERS, "'x'", "[1, 2]", "[" * 3000, "9" * 5000))
            made["config.toml"] = f"[{section}]\n{name} = {value}\n".encode()
        elif way == "text":
            made[chance.choice(("state.json", "config.toml"))] = chance.choice(
                (b"[" * 100_000, b'{"a":' * 5000, b"9" * 5000, b'{"format": ' + b"9" * 4301 + b"}", b"\xff", b"{}")
            )
        else:
            tensors = safetensors.torch.load(whole["ema.safetensors"])
            name = chance.choice(sorted(tensors))
            tensors[name] = tensors[name].flatten()[:-1] if chance.random() < 0.5 else tensors[name] * float("nan")
            made["ema.safetensors"] = safetensors.torch.save(tensors)
        forge(checkpoint, **{name.replace(".", "__"): content for name, content in made.items()})
        return way

    found = fuzzer(
        "bundle content", lambda way: open_checkpoint(checkpoint).model(), make, readable=[checkpoint.parents[1]]
    )
    assert found.refused > found.accepted


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("text", {"encoder": "x", "sha256": "y", "width": -5}),
        ("text", {"encoder": "x", "sha256": "y", "width": "x"}),
        ("draws", {"seed": 0, "batch": 8, "skipped": 2**62}),
        ("class_names", ["left", "\ud800"]),
        ("data", {"bins": 17}),
        ("step", 10**400),
        ("shape", [1, 65_536, 65_536]),
        ("seconds", 1e308),
    ],
)
def test_an_older_checkpoint_is_taken_where_the_newest_says_what_cannot_be(checkpoint: Path, key: str, value: object):
    state = json.loads((checkpoint / "state.json").read_text())
    forge(checkpoint, state__json=json.dumps({**state, key: value}).encode())
    with pytest.raises(CheckpointError, match=r"state\.json"):
        open_checkpoint(checkpoint)
    assert newest_checkpoint(checkpoint.parents[1]).step == 1


@pytest.mark.parametrize(
    "line", ["width = 1000", "blocks = 60", "blocks = 20000", "width = " + "9" * 4400, "patch = 64"]
)
def test_a_network_that_the_weights_are_not_of_is_never_made(checkpoint: Path, line: str, monkeypatch):
    config = (checkpoint / "config.toml").read_text()
    name = line.split(" ")[0]
    lines = [line if row.startswith(f"{name} =") else row for row in config.splitlines()]
    forge(checkpoint, config__toml="\n".join(lines).encode())
    monkeypatch.setattr("markovae.build.initialized_network", lambda *a: pytest.fail("a network was made"))
    assert newest_checkpoint(checkpoint.parents[1]).step == 1


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("optimizer", {"0.momentum": None, "1.momentum": "0.momentum"}),
        ("optimizer", {"0.first": "0.momentum"}),
        ("optimizer", {"LAST.first": None}),
        ("optimizer", {"LAST.step": -1.0}),
        ("optimizer", {"LAST.second": -1.0}),
        ("optimizer", {"999.step": 1.0}),
        ("fitted", {"reverse.errors.error": -1.0}),
        ("fitted", {"reverse.errors.error": float("nan")}),
        ("fitted", {"reverse.errors.logsnr": 1.0}),
    ],
)
def test_an_older_checkpoint_is_taken_where_no_training_wrote_the_newests_numbers(
    checkpoint: Path, file: str, change: dict[str, Any]
):
    """Each is of a right shape: an entry left out, another's, or filled with one number."""
    tensors = safetensors.torch.load((checkpoint / f"{file}.safetensors").read_bytes())
    before, last = dict(tensors), str(max(int(name.split(".")[0]) for name in tensors) if file == "optimizer" else 0)
    for name, value in change.items():
        name = name.replace("LAST", last)
        if value is None:
            del tensors[name]
        elif isinstance(value, str):
            tensors[name] = before[value].clone()
        else:
            tensors[name] = torch.full_like(before.get(name, torch.zeros(())), value)
    forge(checkpoint, **{f"{file}__safetensors": safetensors.torch.save(tensors)})
    with pytest.raises(CheckpointError, match=rf"{file}\.safetensors"):
        open_checkpoint(checkpoint)
    assert newest_checkpoint(checkpoint.parents[1]).step == 1
