import numpy as np
import pytest

from markovae.data.images import ImageData
from markovae.data.split import Splits


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("MARKOVAE_CACHE", str(tmp_path / "cache"))


def halves(count: int, seed: int, bins: int = 256) -> ImageData:
    """Images of 4x4 pixels with a bright left or right half, every one different."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, bins // 4, (count, 1, 4, 4))
    labels = np.arange(count) % 2
    images[labels == 0, :, :, :2] += 3 * bins // 4
    images[labels == 1, :, :, 2:] += 3 * bins // 4
    return ImageData(images.astype(np.uint8), labels.astype(np.int64), ("left", "right"), bins=bins, name="halves")


@pytest.fixture(scope="session")
def splits() -> Splits:
    """120 images to train, 30 to validate, 40 to test."""
    return Splits(halves(120, 1), halves(30, 2), halves(40, 3), "by hand")
