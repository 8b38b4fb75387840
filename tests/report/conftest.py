"""Two small runs with their reports: digits with classes, and colour images on a constant-σ schedule."""

from pathlib import Path

import numpy as np
import pytest

from markovae.config import Config
from markovae.report.report_writing import write_report
from markovae.run.start import train_run

TINY = [
    "network.width=8",
    "network.multipliers=[1]",
    "network.blocks=1",
    "network.attention=[]",
    "network.embedding=16",
    "network.patch=1",
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


def reported(folder: Path, *settings: str) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARKOVAE_CACHE", str(folder / "cache"))
        run = train_run(Config().with_settings([*TINY, *settings]), folder / "run")
        write_report(run)
    return run


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey, 17 bins, ten classes; tests leave it as it is."""
    return reported(tmp_path_factory.mktemp("digits"), "data.source=digits")


@pytest.fixture(scope="session")
def colour_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Colour, 256 bins, no classes, constant σ, the lecture's ε-prior of one step; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("colour")
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3)).astype(np.uint8)
    np.save(folder / "images.npy", images)
    source = f"data.source={folder / 'images.npy'}"
    return reported(folder, source, "schedule.kind=constant", "schedule.delta=0.01", "target.name=step_noise")
