"""Features in the cache: found again, made again where damaged, done without where it cannot be written."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from markovae.quality.extractors import Extractor
from markovae.quality.features import cached_features, content_hash, entry_of, features


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return x.flatten(1)[:, :6]


@pytest.fixture
def extractor() -> Extractor:
    return Extractor("counting", "0" * 64, 4, 6, Counting())


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (120, 1, 4, 4), dtype=np.uint8)


def test_they_are_found_again(extractor: Extractor, images: np.ndarray) -> None:
    made = cached_features(extractor, images, 256)
    assert extractor.network.seen == 120
    assert torch.equal(cached_features(extractor, images, 256), made)
    assert extractor.network.seen == 120
    assert torch.equal(made, features(extractor, images, 256))


def test_a_damaged_entry_is_made_anew(
    extractor: Extractor, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("MARKOVAE_CACHE", str(tmp_path))
    made = cached_features(extractor, images, 256)
    path = tmp_path / entry_of(extractor, images, 256) / "features.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert torch.equal(cached_features(extractor, images, 256), made)
    assert extractor.network.seen == 240
    assert "made again" in capsys.readouterr().err


def test_the_key_is_the_content_and_all_that_makes_the_features(extractor: Extractor, images: np.ndarray) -> None:
    other = images.copy()
    other[0, 0, 0, 0] ^= 1
    keys = {
        entry_of(extractor, images, 256),
        entry_of(extractor, other, 256),
        entry_of(extractor, images[::-1], 256),
        entry_of(extractor, images // 16, 17),
        entry_of(Extractor("counting", "1" * 64, 4, 6, extractor.network), images, 256),
    }
    assert len(keys) == 5
    assert content_hash(images) != content_hash(images.reshape(120, 1, 2, 8))
    assert content_hash(images) == content_hash(images.copy())


def test_without_a_cache_folder_it_works_and_says_so(
    extractor: Extractor, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("MARKOVAE_CACHE", str(blocked))
    assert len(cached_features(extractor, images, 256)) == 120
    assert "not cached" in capsys.readouterr().err
