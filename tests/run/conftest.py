from pathlib import Path

import numpy as np
import pytest

from markovae.config import Config


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("MARKOVAE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def run_config(tiny_config: Config, tmp_path: Path) -> Config:
    """Forty random images of 4x4 pixels in an array file; a grid of samples is drawn where a test asks for one."""
    images = np.random.default_rng(0).integers(0, 256, (40, 4, 4)).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    return tiny_config.with_settings([f"data.source={tmp_path / 'images.npy'}", "train.grids=0"])
