"""The resize rule against another implementation, and what it keeps."""

import numpy as np
import pytest
import torch
from PIL import Image

from markovae.quality.convolutions import resized


@pytest.mark.parametrize(
    ("shape", "side"), [((8, 8), 32), ((28, 28), 32), ((32, 32), 20), ((40, 24), 16), ((5, 9), 64)]
)
def test_it_is_antialiased_bicubic(shape: tuple[int, int], side: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, *shape), dtype=np.uint8)
    ours = resized(images, 256, side)
    for image, mine in zip(images, ours, strict=True):
        for channel, plane in zip(image, mine, strict=True):
            theirs = Image.fromarray(channel.astype(np.float32) / 255).resize((side, side), Image.Resampling.BICUBIC)
            np.testing.assert_allclose(plane.numpy(), np.asarray(theirs), atol=2e-6)


def test_digits_of_any_depth_become_the_same_numbers() -> None:
    small = np.arange(16, dtype=np.uint8).reshape(1, 1, 4, 4)
    wide = (np.arange(16, dtype=np.uint16) * 4369).reshape(1, 1, 4, 4)
    assert torch.equal(resized(small, 16, 4), resized(wide, 65_536, 4))
    assert float(resized(small, 16, 4).max()) == 1
    assert resized(small, 16, 4).shape == (1, 3, 4, 4)


def test_flat_images_stay_flat_and_nothing_is_clipped() -> None:
    flat = np.full((1, 1, 7, 7), 51, dtype=np.uint8)
    np.testing.assert_allclose(resized(flat, 256, 32).numpy(), 0.2, atol=1e-6)
    step = np.zeros((1, 1, 8, 8), dtype=np.uint8)
    step[..., 4:] = 255
    assert float(resized(step, 256, 32).max()) > 1.01


@pytest.mark.parametrize(
    ("images", "bins", "words"),
    [(np.zeros((4, 4), np.uint8), 256, "must be"), (np.full((1, 1, 2, 2), 17, np.uint8), 17, "0…16")],
)
def test_what_is_no_image_is_refused(images: np.ndarray, bins: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        resized(images, bins, 8)


def test_what_is_no_digit_is_refused_rather_than_cut() -> None:
    with pytest.raises(ValueError, match="whole pixel values"):
        resized(np.full((1, 1, 4, 4), 0.5), 256, 4)
