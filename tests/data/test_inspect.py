import json
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from markovae.data.data_config import DataConfig
from markovae.data.images import ImageData
from markovae.data.inspecting import channel_moments, inspect


def test_a_folder_is_told_whole(tmp_path: Path):
    rng = np.random.default_rng(1)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for n in range(4):
            pixels = rng.integers(0, 100, (20, 20, 3), dtype=np.uint8)
            pixels[..., 0] += 120
            Image.fromarray(pixels).save(tmp_path / name / f"{n}.png")
    (tmp_path / "cat" / "copy.png").write_bytes((tmp_path / "cat" / "0.png").read_bytes())
    (tmp_path / "cat" / "bad.png").write_bytes(b"bad")
    (tmp_path / "captions.csv").write_text("file_name,text\ncat/0.png,a cat\n")
    inspection = inspect(DataConfig(str(tmp_path)))
    assert (inspection.count, inspection.shape, inspection.duplicates) == (9, (3, 20, 20), 1)
    assert inspection.classes == {"cat": 5, "dog": 4}
    assert inspection.bytes == 9 * 3 * 20 * 20
    assert inspection.unreadable[0][0] == "cat/bad.png"
    assert sum(inspection.split[part]["count"] for part in ("train", "validation", "test")) == 9
    record = json.loads(json.dumps(inspection.to_dict()))
    assert record["schema_version"] == 1
    assert record["captions"] == 1
    text = inspection.describe()
    for told in (
        "9 images (folder)",
        "20 x 20 (height x width), rgb, 256 grey values",
        "RGB 9",
        "PNG 9",
        "cat 5, dog 4",
        "“a cat”",
        "duplicates     1",
        "cat/bad.png: not an image",
        "the images have a red cast",
        "8 of 9 images have no caption",
    ):
        assert told in text, told


def test_digits_are_told_with_their_grey_values():
    inspection = inspect("digits")
    assert inspection.bins == 17
    assert len(inspection.channel_mean) == 1
    assert "17 grey values" in inspection.describe()


@given(arrays(np.uint8, array_shapes(min_dims=3, max_dims=3, max_side=6)))
def test_moments_are_exact(pixels: np.ndarray):
    images = np.stack([pixels, 255 - pixels, pixels // 2], axis=1)
    mean, std = channel_moments(ImageData(images))
    flat = images.astype(np.float64).transpose(1, 0, 2, 3).reshape(3, -1)
    assert np.allclose(mean, flat.mean(1), rtol=1e-12, atol=1e-12)
    assert np.allclose(std, flat.std(1), rtol=1e-9, atol=1e-6)


def test_a_flat_image_has_no_spread():
    assert channel_moments(ImageData(np.full((3, 1, 7, 7), 201, np.uint8))) == ((201.0,), (0.0,))
