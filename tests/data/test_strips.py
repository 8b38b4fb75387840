from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from markovae.data.data_config import DataConfig
from markovae.data.folder import read_folder
from markovae.data.image_files import fit_image, strip_of, strip_shape
from markovae.data.loading import load_data, read_source
from markovae.data.strips import middle
from markovae.errors import UserError


def fill(place: Path, sizes: list[tuple[int, int]]) -> None:
    """Images of noise, by height and width."""
    rng = np.random.default_rng(0)
    for number, size in enumerate(sizes):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(place / f"{number:02}.png")


@pytest.mark.parametrize("shape", [(8, 8), (7, 9), (1, 3)])
@pytest.mark.parametrize("size", [(8, 8), (9, 8), (8, 11), (31, 8), (8, 40), (5, 6), (100, 37)])
def test_the_middle_of_a_strip_is_what_is_measured(size: tuple[int, int], shape: tuple[int, int]):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8))
    strip = np.asarray(strip_of(image, shape)).transpose(2, 0, 1)
    assert strip.shape[1:] == strip_shape(size, shape)
    assert strip.size <= 2 * 3 * shape[0] * shape[1]
    fitted = np.asarray(fit_image(image, shape, "crop", (0, 0, 0))).transpose(2, 0, 1)
    assert np.array_equal(middle(strip, shape), fitted)


def test_training_alone_sees_windows_and_everything_else_the_same_images(tmp_path: Path):
    fill(tmp_path, [(8, 8), (8, 20), (12, 8), (16, 24)] * 5)
    plain = load_data(DataConfig(str(tmp_path), size=8))
    reading = read_folder(DataConfig(str(tmp_path), size=8, random_crop=True))
    cut = load_data(DataConfig(str(tmp_path), size=8, random_crop=True))
    for one, other in ((plain.train, cut.train), (plain.validation, cut.validation), (plain.test, cut.test)):
        assert np.array_equal(one.images, other.images)
    assert any("15 of 20 images are longer than 8x8" in note for note in reading.summary.notes)
    strips = reading.data.strips
    assert strips is not None
    wide = next(row for row in range(len(strips)) if strips.size[row].tolist() == [8, 16])
    rows, ends = np.array([wide, wide, 0]), np.array([[0, 0], [0.999, 0.999], [0.5, 0.5]])
    left, right, whole = strips.windows(rows, ends)
    source = np.asarray(Image.open(tmp_path / reading.data.files[wide]))
    assert source.shape[:2] == (8, 20)
    assert np.array_equal(left, source[:, 2:10].transpose(2, 0, 1))  # half as long again at each end, and no more
    assert np.array_equal(right, source[:, 10:18].transpose(2, 0, 1))
    assert np.array_equal(whole, reading.data.images[0])
    assert np.array_equal(
        cut.train.take([3, 1]).strips.windows(np.array([1]), ends[:1]),
        cut.train.strips.windows(np.array([1]), ends[:1]),
    )


def test_images_without_room_and_sources_without_strips_are_told(tmp_path: Path):
    fill(tmp_path, [(8, 8)] * 6)
    notes = read_folder(DataConfig(str(tmp_path), size=8, random_crop=True)).summary.notes
    assert any("no image is longer than 8x8 once it is scaled: data.random_crop changes nothing" in n for n in notes)
    with pytest.raises(UserError, match=r"data\.random_crop takes a folder of images, and digits is digits"):
        read_source(DataConfig("digits", random_crop=True))
    with pytest.raises(UserError, match=r"data\.random_crop goes with data.fit=crop, and data.fit=pad"):
        DataConfig(str(tmp_path), fit="pad", random_crop=True)
    assert not DataConfig(str(tmp_path), random_crop=True).for_images_like((3, 8, 8), "elsewhere").random_crop
