import gc
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from markovae.build import create
from markovae.config import Config
from markovae.data.images import ImageData
from markovae.diffusion.model import Diffusion

from .together import Together, forked
from .words import Words

torch.set_num_threads(1)
# Machines differ in speed, and a suite must say the same thing twice; what 30 examples miss, the next runs find.
settings.register_profile("markovae", deadline=None, max_examples=30)
settings.load_profile("markovae")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Modules and tests live to the end: the garbage collector need not walk through them again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.fixture(scope="session")
def tiny_config() -> Config:
    """A model of a few thousand weights that takes a step in milliseconds."""
    return Config().with_settings(
        [
            "network.width=8",
            "network.multipliers=[1]",
            "network.blocks=1",
            "network.attention=[]",
            "network.embedding=16",
            "schedule.num_levels=50",
            "train.batch=8",
            "train.steps=12",
            "train.warmup_steps=3",
            "train.precision=float32",
            "train.eval_images=4",
            "train.eval_draws=2",
            "train.evaluations=2",
            "train.grids=1",
        ]
    )


@pytest.fixture(scope="session")
def tiny_data() -> ImageData:
    """Twenty labelled images of 4x4 pixels: bright left halves or bright right halves; tests leave them as they are."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60, (20, 1, 4, 4))
    labels = np.arange(20) % 2
    images[labels == 0, :, :, :2] += 190
    images[labels == 1, :, :, 2:] += 190
    return ImageData(images.astype(np.uint8), labels.astype(np.int64), ("left", "right"))


@pytest.fixture
def tiny_model(tiny_config: Config, tiny_data: ImageData) -> Diffusion:
    return create(tiny_config, tiny_data.shape, num_classes=2)


@pytest.fixture
def together(tmp_path: Path) -> Together:
    """Several processes at once; see `forked`."""
    return partial(forked, folder=tmp_path)


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> type[Words]:
    """An encoder that needs no package stands in for the one of the wheel."""
    monkeypatch.setattr("markovae.text.conditioner.load_encoder", Words)
    monkeypatch.setattr("markovae.text.conditioner.encoder_hash", lambda name: Words.hash)
    monkeypatch.setattr(Words, "asked", [])
    return Words


@pytest.fixture
def text_config(tiny_config: Config) -> Config:
    """The tiny model, of captions."""
    return tiny_config.with_settings(["condition.kind=text"])


@pytest.fixture
def text_model(text_config: Config, words: type[Words]) -> Diffusion:
    """A model of captions whose every weight counts: a fresh one's last layers are zero."""
    model = create(text_config, (1, 4, 4))
    draws = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.data += 0.2 * torch.randn(weight.shape, generator=draws)
    return model.eval()
