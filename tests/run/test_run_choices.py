"""What a run decides by its data and says: captions and classes that are there, few images."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import markovae as mv
from markovae.checkpoints.reading import BEST, newest_checkpoint, open_checkpoint
from markovae.config import Config, NetworkConfig, preset_settings
from markovae.data.images import ImageData
from markovae.diffusion.bound import Estimate
from markovae.errors import UserError
from markovae.quality import evaluation
from markovae.run import choices as decisions
from markovae.run.choices import choices, symmetric
from markovae.run.start import train_run
from markovae.run.surroundings import Surroundings

CPU = torch.device("cpu")
FOLDER = Config().with_settings(["data.source=photos"])


@pytest.fixture(autouse=True)
def fast_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "seconds_per_image", lambda config, shape: 1e-4)


def data(n: int = 100, captions: int = 0, classes: int = 0, files: bool = True) -> ImageData:
    images = np.random.default_rng(0).integers(0, 256, (n, 1, 8, 8)).astype(np.uint8)
    texts = tuple("a cat" if i < captions else "" for i in range(n)) if captions else None
    labels = np.arange(n) % classes if classes else None
    names = tuple(f"c{i}" for i in range(classes))
    return ImageData(images, labels, names, texts, files=tuple(map(str, range(n))) if files else None)


@pytest.mark.parametrize(
    ("settings", "captions", "classes", "kind"),
    [
        ([], 80, 0, "text"),
        ([], 80, 3, "text"),
        ([], 20, 3, "class"),
        ([], 0, 3, "class"),
        ([], 0, 0, "class"),
        (["condition.kind=class"], 80, 3, "class"),
        (["condition.kind=none"], 80, 3, "none"),
        (["data.source=faces"], 100, 0, "class"),
        (["network.kind=ddpm"], 100, 0, "class"),
    ],
)
def test_what_is_there_conditions_the_model(settings, captions, classes, kind, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    config, lines = choices(FOLDER.with_settings([*settings, "train.preset=none"]), data(100, captions, classes), CPU)
    assert config.condition.kind == kind
    assert lines == []


def test_captions_without_their_encoder_wait_for_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert choices(FOLDER, data(100, 100), CPU)[0].condition.kind == "class"
    assert choices(FOLDER.with_settings(["condition.encoder=/a/clip"]), data(100, 100), CPU)[0].condition.kind == "text"


# -- little time ------------------------------------------------------------------------------------------------------


def test_little_time_gets_a_smaller_network_that_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(decisions, "seconds_per_image", lambda config, shape: 0.01)
    config, lines = choices(Config(), data(2000), CPU)
    assert (config.train.preset, config.network.blocks, config.train.batch) == ("short", 1, 16)
    assert lines == [
        "little time for this processor: network.blocks=1, network.width=48, train.batch=16; train.preset=none leaves "
        "this out"
    ]
    assert choices(config, data(2000), CPU) == (config, lines), "what was chosen once stays"
    both, lines = choices(FOLDER, data(300), CPU)
    assert (both.network.blocks, both.network.dropout, both.train.preset, len(lines)) == (1, 0.1, "few", 2)


def test_what_a_network_sees_is_not_its_shape(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(decisions, "seconds_per_image", lambda config, shape: 0.01)
    seen = ["network.spectral=2", "network.radius=1", "network.dropout=0.2", "network.octaves=0"]
    short, _ = choices(Config().with_settings(seen), data(2000), CPU)
    assert (short.train.preset, short.network.width) == ("short", 48)
    assert (short.network.spectral, short.network.radius, short.network.dropout) == (2, 1, 0.2)
    few, _ = choices(FOLDER.with_settings([*seen, "train.steps=10"]), data(300), CPU)
    assert (few.train.preset, few.network.width, few.network.dropout) == ("few", 48, 0.2)


@pytest.mark.parametrize(
    "settings",
    [
        ["train.minutes=20"],
        ["train.steps=100"],
        ["train.preset=none"],
        ["network.width=96"],
        ["train.batch=64"],
        ["train.objective=bound"],
    ],
)
def test_who_has_time_or_chose_keeps_the_network(settings: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(decisions, "seconds_per_image", lambda config, shape: 0.01)
    chosen, lines = choices(Config().with_settings(settings), data(2000), CPU)
    assert (lines, chosen.network.blocks) == ([], NetworkConfig.blocks)


def test_a_pass_of_the_base_is_timed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    small = Config().with_settings(["network.width=8", "network.head_dim=8"])
    assert 0 < decisions.seconds_per_image(small, (1, 64, 64)) < 1
    assert not choices(Config(), data(2000), torch.device("cuda"))[1]


def test_a_run_that_begins_with_the_weights_of_another_has_its_network(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(decisions, "seconds_per_image", lambda config, shape: 0.01)
    theirs = NetworkConfig(width=32, head_dim=32)
    config, lines = choices(BOUND, colors(), CPU, theirs)
    assert (config.network, config.train.preset, lines) == (theirs, "none", [])
    few, lines = choices(FOLDER, data(300), CPU, NetworkConfig())
    assert (few.network, few.train.preset, len(lines)) == (NetworkConfig(dropout=0.1), "few", 1)
    own, _ = choices(FOLDER.with_settings(["network.width=16"]), data(2000), CPU, theirs)
    assert own.network.width == 16


# -- photographs ------------------------------------------------------------------------------------------------------


def colors(side: int = 8) -> ImageData:
    return ImageData(np.zeros((2000, 3, side, side), np.uint8), files=tuple(map(str, range(2000))))


BOUND = FOLDER.with_settings(["train.objective=bound"])


@pytest.mark.parametrize(
    ("asked", "radius", "said"),
    [
        (FOLDER, NetworkConfig.radius, ""),
        (FOLDER.with_settings(["data.source=faces"]), NetworkConfig.radius, ""),
        (FOLDER.with_settings(["cascade.stages=2"]), NetworkConfig.radius, ""),
        (BOUND, 0, ", network.radius=0"),
    ],
    ids=["weighted", "faces", "cascade", "bound"],
)
def test_color_images_are_seen_with_estimates_of_their_noise_and_it_is_said(asked: Config, radius: int, said: str):
    config, lines = choices(asked, colors(), CPU)
    assert (config.network.spectral, config.network.radius) == (3, radius)
    assert lines == [f"color images: network.spectral=3{said}; network.spectral=0 leaves this out"]
    assert choices(config, colors(), CPU) == (config, []), "what was chosen once stays"


def test_the_bound_of_color_images_is_short_where_time_is_little(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(decisions, "seconds_per_image", lambda config, shape: 0.01)
    short, lines = choices(BOUND, colors(), CPU)
    assert (short.network.blocks, short.network.spectral, len(lines)) == (1, 3, 2)


@pytest.mark.parametrize(
    ("settings", "images"),
    [
        (["data.source=faces"], colors()),
        (["network.spectral=0"], colors()),
        (["network.kind=dit"], colors()),
        (["cascade.stages=2"], colors()),
        ([], colors(64)),
        ([], data(2000)),
    ],
)
def test_other_runs_see_no_estimates(settings: list[str], images: ImageData):
    config, lines = choices(BOUND.with_settings(settings), images, CPU)
    assert config.network.spectral in (None, 0)
    assert lines == []


# -- few images -------------------------------------------------------------------------------------------------------


def test_few_images_get_a_preset_that_is_said():
    config, lines = choices(FOLDER, data(300), CPU)
    assert (config.network.dropout, config.network.width, config.train.keep_best) == (0.1, 48, True)
    assert (config.train.preset, config.train.evaluations, config.data.flip) == ("few", 10, True)
    assert lines == [
        "few images (300): dropout 0.1, width 48, flips, since the images are symmetric, the checkpoint of the best "
        "held-out bound is used (train.keep_best); train.preset=none leaves this out"
    ]
    larger, _ = choices(FOLDER, data(1000), CPU)
    assert larger.network.width == NetworkConfig.width
    assert choices(config, data(300), CPU)[0] == config, "what was chosen once stays"


@pytest.mark.parametrize(
    ("settings", "n", "files"),
    [
        (["train.preset=none"], 300, True),
        ([], 2000, True),
        ([], 300, False),
        (["network.width=32"], 300, True),
        (["data.source=digits"], 300, True),
    ],
)
def test_others_are_left_as_they_are(settings, n, files):
    config = FOLDER.with_settings(settings)
    chosen, lines = choices(config, data(n, files=files), CPU)
    assert lines == []
    assert (chosen.network, chosen.data, chosen.train.keep_best) == (config.network, config.data, False)


def test_images_are_mirrored_only_where_mirror_images_look_alike():
    assert not symmetric(mv.load_data("digits").train)
    assert symmetric(data(300))
    leaning = data(300).images // 8 + np.arange(0, 200, 25, dtype=np.uint8)  # brighter to the right
    assert not symmetric(ImageData(leaning))
    assert not symmetric(data(40)), "too few to tell"


def test_the_best_checkpoint_is_what_the_run_is_opened_by(run_config: Config, tmp_path: Path, monkeypatch):
    """The third of four held-out bounds is the best one."""
    bounds = iter([3.0, 2.0, 1.0, 2.5])
    row = {"n": 4, "terms_bits_per_dim": {}, "bands": []}
    monkeypatch.setattr(
        "markovae.run.evaluations.held_out_row",
        lambda *asked: {"kind": "heldout", **row, "bits_per_dim": {"mean": next(bounds), "stderr": 0.1}},
    )
    config = run_config.with_settings(["train.keep_best=true", "train.evaluations=4", "train.steps=8"])
    run = mv.train(None, tmp_path / "run", config, progress=False)
    assert (run.checkpoint.step, newest_checkpoint(run.path).step) == (6, 8)
    bounds = iter([0.5, 2.0])
    assert mv.resume(run.path, steps=12, progress=False).checkpoint.step == 9
    (run.path / "checkpoints" / BEST / "ema.safetensors").write_bytes(b"broken")
    assert open_checkpoint(run.path).step == 12
    bounds = iter([0.7, 0.6, 0.9, 0.9])
    assert mv.resume(run.path, steps=16, progress=False).checkpoint.path.name == BEST, "a damaged one is replaced"


def test_the_best_needs_something_to_tell_it_by(run_config: Config):
    with pytest.raises(UserError, match=r"needs a held-out bound .*: set train\.evaluations"):
        run_config.with_settings(["train.keep_best=true", "train.evaluations=0"])


def test_a_folder_of_few_images_says_how_much_is_copied(run_config: Config, tmp_path: Path, capfd):
    folder, chance = tmp_path / "few", np.random.default_rng(0)
    folder.mkdir()
    for number in range(40):
        Image.fromarray(chance.integers(0, 256, (4, 4), dtype=np.uint8)).save(folder / f"{number}.png")
    config = run_config.with_settings([f"data.source={folder}", "train.preset=few", "train.grids=1"])
    mv.train(None, tmp_path / "run", config, device="cpu")
    err = capfd.readouterr().err
    assert "few images (3" in err
    assert "P(copy) 0." in err
    assert Config.from_toml(tmp_path / "run" / "config.toml").train.keep_best


# -- guidance ---------------------------------------------------------------------------------------------------------


def test_a_run_in_minutes_chooses_the_guidance_of_its_classes(tiny_config: Config, tmp_path: Path, monkeypatch, capfd):
    """The KID of guidance 2 is the best."""
    labelled = tmp_path / "digits.npz"
    images = np.random.default_rng(0).integers(0, 256, (400, 4, 4)).astype(np.uint8)
    np.savez(labelled, images=images, labels=[0, 1] * 200)
    for name in ("CHOICE", "LONGEST_CHOICE"):  # as if this network were fast
        monkeypatch.setattr(f"markovae.run.evaluations.{name}", 1e6)
    monkeypatch.setattr(
        "markovae.quality.evaluation.choose_guidance",
        lambda model, splits, n: (2.0, {1.0: 0.5, 2.0: 0.25}),
    )
    ticks = itertools.count()
    config = tiny_config.with_settings([f"data.source={labelled}", "train.minutes=0.02"])
    run = mv.load_run(train_run(config, tmp_path / "run", Surroundings(clock=lambda: 0.01 * next(ticks))))
    assert run.model.guidance == 2
    said = capfd.readouterr().err
    assert "guidance 2 is the default of this run's classes (KID of" in said
    assert "held-out images: 0.500 at 1" in said
    plain = config.with_settings(["train.steps=3"])
    assert mv.load_run(train_run(plain, tmp_path / "plain")).model.guidance == 1
    best = config.with_settings(["train.keep_best=true", "train.evaluations=2"])
    kept = mv.load_run(train_run(best, tmp_path / "best", Surroundings(clock=lambda: 0.01 * next(ticks))))
    assert kept.checkpoint.path.name == BEST
    assert kept.model.guidance == 2


def test_guidance_is_chosen_by_kid(monkeypatch):
    class Found:
        def __init__(self, value: float) -> None:
            self.kid = Estimate(value, 0.1)

    monkeypatch.setattr(evaluation, "evaluate", lambda *a, guidance, **more: Found(abs(guidance - 1.4)))
    weight, tried = evaluation.choose_guidance(None, SimpleNamespace(train=data(40)), 64)
    assert weight == 1.5
    assert list(tried) == list(evaluation.GUIDANCES)


def test_weights_of_a_run_are_taken_by_the_network_that_was_asked_for_then():
    """What the first run decided beside what it was asked for: color images, whose network has linear estimates."""
    color = data(3000)
    color = ImageData(np.repeat(color.images, 3, 1))
    for objective in ("simple", "bound"):
        asked = FOLDER.with_settings([*preset_settings(objective, "logsnr"), "network.width=16"])
        first = choices(asked, color, CPU)[0].network
        assert first.spectral == decisions.SPECTRAL
        assert choices(asked, color, CPU, first)[0].network == first
    other = choices(asked.with_settings(["network.spectral=0"]), color, CPU, first)[0].network
    assert other.spectral == 0
