"""Corrupt bundles: nothing loads silently, nothing is executed, and the sentence names the file."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
import random
import resource
import shutil
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.reliability.conftest import folder_in_memory, many
from tests.reliability.mutations import MEGABYTE, Touch, hostile, mutated, pickles

import markovae
from markovae.build import create
from markovae.checkpoints.manifest import MANIFEST, CheckpointError, make_manifest, verify_bundle
from markovae.checkpoints.reading import Checkpoint, newest_checkpoint, open_checkpoint
from markovae.checkpoints.writing import save_checkpoint
from markovae.config import Config
from markovae.data.data_config import DataConfig
from markovae.data.images import ImageData
from markovae.data.loading import load_data
from markovae.errors import UserError
from markovae.training.trainer import Training

NEWEST = "step-00000004"
NAMES = (
    *("model.safetensors", "ema.safetensors", "optimizer.safetensors", "fitted.safetensors"),
    *("state.json", "config.toml", "manifest.json"),
    *("model.pt", "checkpoint.ckpt", "pytorch_model.bin", "state.pkl", "__0_0.distcp", "weights.safetensors", "x.json"),
)
GROWTH = 100 * 1024  # KiB: less than any bomb is worth


def saved(run: Path, config: Config, data: ImageData, seed: int) -> Path:
    """A run with checkpoints of steps 2 and 4, with the table of a fitted variance."""
    config = config.with_settings([f"train.seed={seed}", "target.reverse=isotropic", "train.fit_images=8"])
    training = Training(create(config, data.shape, num_classes=2), data, config.train)
    state = {"shape": [1, 4, 4], "bins": 256, "class_names": ["left", "right"], "data": {}}
    for step in range(1, 5):
        training.advance()
        if step % 2 == 0:
            training.fit_variance()
            tensors, position = training.capture()
            save_checkpoint(run / "checkpoints", step, tensors, {**position, **state}, config)
    return run


@pytest.fixture(scope="module")
def trained(tiny_config: Config, tiny_data: ImageData) -> Iterator[Path]:
    """A folder of two runs, of one configuration and different seeds."""
    with folder_in_memory() as folder:
        for seed, name in enumerate(("one", "other"), start=1):
            saved(folder / name, tiny_config, tiny_data, seed)
        yield folder


@pytest.fixture
def runs(memory: Path, trained: Path) -> tuple[Path, Path]:
    """The two, to be spoilt, and beside the first one its last checkpoint alone."""
    one, other = (shutil.copytree(trained / name, memory / name) for name in ("one", "other"))
    shutil.copytree(one / "checkpoints" / NEWEST, memory / "alone" / "checkpoints" / NEWEST)
    return one, other


def used(checkpoint: Checkpoint) -> Checkpoint:
    """Everything that a run, a sampler or a measurement takes from a checkpoint."""
    checkpoint.model()
    checkpoint.model("model")
    checkpoint.all_tensors()
    return checkpoint


class Watchdog:
    """The longest time and the growth of memory over many trials."""

    def __init__(self) -> None:
        self._began = self._memory()
        self.longest, self.growth = 0.0, 0  # seconds of processor time, KiB

    def __enter__(self) -> None:
        self._at = time.process_time()

    def __exit__(self, *error: object) -> None:
        self.longest = max(self.longest, time.process_time() - self._at)
        self.growth = max(self.growth, self._memory() - self._began)

    def _memory(self) -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def refuses(path: Path) -> str:
    """What opening says; it must be one sentence that names a file."""
    with pytest.raises(CheckpointError) as caught:
        used(open_checkpoint(path))
    said = str(caught.value)
    assert "\n" not in said
    return said


def opened(folder: Path) -> str | None:
    """Why a checkpoint cannot be used; None where it can."""
    try:
        used(open_checkpoint(folder))
    except CheckpointError as error:
        return str(error)
    return None


def mutate(runs: tuple[Path, Path], count: int, seed: int) -> tuple[Watchdog, dict[str, int]]:
    """`count` mutations, over the files of a bundle in turn, of the whole bundle and of one without an elder."""
    one, other = runs
    alone = one.parent / "alone"
    chance, watch, ways = random.Random(seed), Watchdog(), {}
    files = sorted(path.name for path in (one / "checkpoints" / NEWEST).iterdir())
    assert len(files) == 7
    for number, name in zip(range(count), itertools.cycle(files)):
        run = alone if number % 3 == 0 else one
        path = run / "checkpoints" / NEWEST / name
        content, foreign = path.read_bytes(), (other / "checkpoints" / NEWEST / name).read_bytes()
        how, made = mutated(content, foreign, chance)
        ways[how] = ways.get(how, 0) + 1
        path.write_bytes(made)
        with watch:
            said = refuses(path.parent)
            named = any(str(path.parent / file) in said for file in (files if name == MANIFEST else [name]))
            assert named, (how, name, said)
            if run is alone:
                assert NEWEST in refuses(run)
            else:
                assert newest_checkpoint(run).step == 2
        path.write_bytes(content)
    assert newest_checkpoint(one).step == newest_checkpoint(alone).step == 4
    return watch, ways


def test_eighty_four_mutations(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]):
    watch, ways = mutate(runs, 84, seed=1)
    assert capsys.readouterr().err.count("using the older checkpoint") == 56
    assert len(ways) == 7
    assert watch.longest < 1
    assert watch.growth < GROWTH


def poison(runs: tuple[Path, Path], count: int) -> tuple[Watchdog, int]:
    """`count` hostile files under every name in turn, half of them with a manifest that vouches for them."""
    folder = runs[0] / "checkpoints" / NEWEST
    marker = runs[0].parent / "executed"
    traps = list(hostile(marker))
    watch, whole, loaded = Watchdog(), verify_bundle(folder), 0
    for number in range(count):
        what, content = traps[number % len(traps)]
        name, forged = NAMES[(number * 5 + number // len(traps)) % len(NAMES)], number // len(traps) % 2 == 1
        (folder / name).write_bytes(content)
        if forged and name != MANIFEST:
            files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MANIFEST}
            (folder / MANIFEST).write_bytes(make_manifest(files))
        with watch:
            said = opened(folder)
        if said is None:
            loaded += 1
            assert forged, (what, name)
            assert name in ("weights.safetensors", "x.json"), (what, name, "is read, and makes no difference")
        else:
            assert str(folder) in said, (what, name)
            assert "\n" not in said
        (folder / name).unlink()
        for file, content in whole.items():
            (folder / file).write_bytes(content)
        assert not marker.exists(), (what, name)
    assert not list(runs[0].parent.rglob("escaped"))
    return watch, loaded


def test_a_hundred_hostile_files_under_any_name(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]):
    watch, _ = poison(runs, 100)
    assert watch.longest < 1
    assert watch.growth < GROWTH


def test_hostile_files_as_runs_and_as_data_are_refused(memory: Path):
    marker = memory / "executed"
    for (what, content), ending in zip(
        hostile(marker), itertools.cycle(("npy", "npz", "pt", "tar", "png", "idx", "pkl"))
    ):
        path = memory / f"trap.{ending}"
        path.write_bytes(content)
        with pytest.raises(UserError):
            markovae.load(path)
        with pytest.raises(UserError):
            load_data(DataConfig(str(path)))
        assert not marker.exists(), what
        path.unlink()


def test_the_traps_are_no_dummies(memory: Path):
    """Unpickled, each of these does what the tests above look for."""
    marker = memory / "executed"
    for what, content in pickles(marker):
        if what.startswith(("pickle ", "state", "opcode")) and not what.endswith("header"):
            pickle.loads(content)
            assert marker.exists(), what
            marker.unlink()
    assert pickle.loads(pickle.dumps(Touch(marker))) is None
    marker.unlink()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
DTYPES = st.sampled_from(["F32", "F64", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "", "f32"]) | JSON
NUMBERS = st.integers(-2, 64) | st.sampled_from([2**31, 2**32, 2**47, 2**48, 2**63, 2**64, -(2**63)])
SHAPES = st.lists(NUMBERS, max_size=4) | JSON


@st.composite
def headers(draw: st.DrawFn, header: dict[str, Any]) -> Any:
    """A header of safetensors with some of what it says changed."""
    made: Any = copy.deepcopy(header)
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(header)))
        what = draw(st.sampled_from(["dtype", "shape", "data_offsets", "more", "entry", "name", "drop", "all"]))
        entry = made.get(name) if isinstance(made, dict) else None
        if what == "all":
            return draw(JSON)
        if not isinstance(entry, dict):
            continue
        if what == "dtype":
            entry[what] = draw(DTYPES)
        elif what in ("shape", "data_offsets"):
            entry[what] = draw(SHAPES)
        elif what == "more":
            entry[draw(st.text(max_size=4))] = draw(JSON)
        elif what == "entry":
            made[name] = draw(JSON)
        elif what == "name":
            made[draw(st.text(max_size=8))] = made.pop(name)
        else:
            del made[name]
    return made


def check_headers(runs: tuple[Path, Path], count: int) -> tuple[Watchdog, int]:
    """Bundles whose safetensors have another header, each with a manifest that vouches for it."""
    folder, watch, tried = runs[0] / "checkpoints" / NEWEST, Watchdog(), []
    whole = verify_bundle(folder)
    content = whole["ema.safetensors"]
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])

    @settings(max_examples=count, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(headers(header), st.integers(-9, 9) | st.just(0), st.sampled_from(["ema", "model", "optimizer"]))
    def check(made: Any, off: int, file: str) -> None:
        text = json.dumps(made).encode()
        forged = struct.pack("<Q", max(0, len(text) + off)) + text + content[8 + length :]
        files = {**{n: c for n, c in whole.items() if n != MANIFEST}, f"{file}.safetensors": forged}
        files[MANIFEST] = make_manifest(files)
        for name, bytes_ in files.items():
            (folder / name).write_bytes(bytes_)
        tried.append(1)
        with watch:
            said = opened(folder)
        if said is not None:
            assert str(folder) in said
            return
        # What opens has the tensors that the library reads from these very bytes.
        assert open_checkpoint(folder).tensors(file).keys() == safetensors.torch.load(forged).keys()

    check()
    return watch, len(tried)


def test_headers_that_hypothesis_makes_up(runs: tuple[Path, Path]):
    watch, tried = check_headers(runs, 40)
    assert tried >= 40
    assert watch.longest < 1


@pytest.mark.slow
def test_many_mutations(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tell):
    watch, ways = mutate(runs, many(10_000), seed=2)
    count = sum(ways.values())
    assert watch.longest < 1
    assert watch.growth < GROWTH
    tell(
        5,
        "mutations of every file of a bundle",
        "seven files in turn (three of tensors, the fitted variance, state, configuration, manifest), truncated, "
        "flipped, spliced with and swapped for the file of another run, zeroed, extended, rotated; every third in "
        "a run without an older checkpoint",
        f"{count:,} of {count:,} refused by a sentence that names the file (or the older checkpoint taken and "
        f"announced); 0 loaded silently; at most {watch.longest:.2f} s of processor time each, memory grew by "
        f"{max(watch.growth, 0) / 1024:.0f} MiB",
        mutations=count,
        longest=watch.longest,
    )


@pytest.mark.slow
def test_many_headers_and_hostile_files(runs: tuple[Path, Path], capsys, tell):
    headers_watch, tried = check_headers(runs, many(2000))
    count = many(1000)
    watch, loaded = poison(runs, count)
    assert max(watch.longest, headers_watch.longest) < 1
    assert watch.growth < GROWTH
    tell(
        5,
        "hostile pickles, zip bombs and headers under any name",
        f"pickles of every protocol and opcode that calls, as torch, numpy, tar and zip wrap them, bombs of "
        f"{128 * MEGABYTE:,} bytes, deep JSON and TOML, under {len(NAMES)} names, half with a manifest that "
        "vouches for them; headers of safetensors made up by hypothesis, all with such a manifest",
        f"0 of {count:,} files executed anything ({loaded} were vouched for under names that nothing reads); "
        f"{tried:,} headers: each refused or read as the library reads it; at most "
        f"{max(watch.longest, headers_watch.longest):.2f} s of processor time each, memory grew by "
        f"{max(watch.growth, headers_watch.growth, 0) / 1024:.0f} MiB",
        files=count,
        headers=tried,
    )
