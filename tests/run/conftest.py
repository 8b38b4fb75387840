import shutil
from pathlib import Path

import numpy as np
import pytest

from markovae.config import Config
from markovae.run.start import train_run


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("MARKOVAE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def run_config(tiny_config: Config, tmp_path: Path) -> Config:
    """Forty random images of 4x4 pixels in an array file; a grid of samples is drawn where a test asks for one."""
    return on_images(tiny_config, tmp_path)


@pytest.fixture(scope="session")
def trained(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `run_config`; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("trained")
    return train_run(on_images(tiny_config, folder), folder / "run")


@pytest.fixture
def finished(trained: Path, tmp_path: Path) -> Path:
    """The same run in the folder of a test, which may do with it what it likes."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def on_images(config: Config, folder: Path) -> Config:
    images = np.random.default_rng(0).integers(0, 256, (40, 4, 4)).astype(np.uint8)
    np.save(folder / "images.npy", images)
    return config.with_settings([f"data.source={folder / 'images.npy'}", "train.grids=0"])
