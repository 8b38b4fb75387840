import io
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from markovae.data.image_codecs import SETTINGS, codec_table, coded_count, predictive_bits


def saved(picture: np.ndarray, name: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, name, **SETTINGS[name])
    return stream.getvalue()


def smooth(n: int, channels: int, bins: int) -> np.ndarray:
    """Gradients with a little noise, which compress, but not to nothing."""
    rng = np.random.default_rng(n)
    ramp = np.arange(8)[:, None] * 3 + np.arange(6) * 5 + rng.integers(0, 9, (n, channels, 8, 6))
    return (ramp % bins).astype(np.uint8)


@pytest.mark.parametrize(("channels", "bins"), [(1, 17), (1, 256), (3, 256)])
def test_sizes_are_those_of_files_that_pillow_writes(channels: int, bins: int):
    images = smooth(12, channels, bins)
    pictures = images.transpose(0, 2, 3, 1)
    pictures = pictures[..., 0] if channels == 1 else pictures
    # 12 images of 8 x 6 are as square as can be in rows of 4: 24 x 24 pixels.
    sheet = np.concatenate([np.concatenate(list(pictures[row * 4 : row * 4 + 4]), axis=1) for row in range(3)])
    assert sheet.shape[:2] == (24, 24)
    for row in codec_table(images, bins):
        name = row["name"]
        single = sum(len(saved(np.ascontiguousarray(p)[..., :], name)) for p in pictures) * 8 / images.size
        assert row["per_image_bits_per_dim"] == pytest.approx(single)
        assert row["tiled_bits_per_dim"] == pytest.approx(len(saved(sheet, name)) * 8 / images.size)
        assert row["tiled_images"] == 12
        assert row["tiled_bits_per_dim"] < row["per_image_bits_per_dim"], "one header instead of twelve"


@pytest.mark.parametrize("name", list(SETTINGS))
def test_the_settings_lose_nothing(name: str):
    picture = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    assert (np.asarray(Image.open(io.BytesIO(saved(picture, name))).convert("RGB")) == picture).all()


@pytest.mark.parametrize(("n", "tiled"), [(1, 1), (2, 2), (7, 6), (180, 180), (210, 210)])
def test_the_rectangle_takes_as_many_images_as_it_can(n: int, tiled: int):
    images = np.zeros((n, 1, 4, 4), np.uint8)
    assert [row["tiled_images"] for row in codec_table(images, 256)] == [tiled, tiled]


def test_wide_images_stay_within_the_largest_webp():
    rows = codec_table(np.zeros((3, 1, 1, 8200), np.uint8), 256)
    assert rows[1]["tiled_images"] == 3


def test_more_than_eight_bits_are_left_out():
    assert codec_table(np.zeros((2, 1, 4, 4), np.uint16), 65536) == [
        {"name": name, "per_image_bits_per_dim": None, "tiled_bits_per_dim": None, "tiled_images": 0}
        for name in ("PNG", "WebP")
    ]


def test_what_is_simpler_takes_fewer_predictive_bits():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (3, 1, 24, 24), dtype=np.uint8)
    ramps = np.broadcast_to(np.arange(24, dtype=np.uint8) * 7, (3, 1, 24, 24))
    flat, grain = np.full((3, 1, 24, 24), 9, np.uint8), np.clip(ramps + rng.integers(0, 9, ramps.shape), 0, 255)
    bits = [predictive_bits(images) / 24**2 for images in (flat, ramps, grain, noise)]
    assert all(a.max() < b.min() for a, b in pairwise(bits))
    assert bits[0].max() < 0.3
    assert 8 < bits[-1].min() < bits[-1].max() < 9.5, "noise has no shorter code"


def test_an_images_bits_depend_on_it_alone_and_colours_help_each_other():
    images = smooth(5, 3, 256)
    every = predictive_bits(images)
    assert np.allclose(predictive_bits(images[2:3]), every[2:3])
    grey = np.repeat(images[:, :1], 3, 1)
    assert (predictive_bits(grey) < 1.5 * predictive_bits(images[:, :1])).all()


def test_the_predictor_uses_what_came_before_only():
    images = smooth(1, 1, 256)
    other = images.copy()
    other[0, 0, -1, -1] ^= 255
    cut = images[:, :, :-1]
    difference = predictive_bits(other) - predictive_bits(images)
    assert difference[0] > 1
    assert predictive_bits(cut)[0] < predictive_bits(images)[0]


def test_a_megapixel_is_coded():
    assert coded_count(1000, (3, 32, 32)) == 1000
    assert coded_count(1000, (3, 128, 128)) == 64
    assert coded_count(1000, (3, 1024, 1024)) == 16
    assert coded_count(7, (3, 128, 128)) == 7
