import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from markovae.data.data_config import DataConfig
from markovae.data.image_files import channels_first, fit_image, to_channels, to_size
from markovae.data.images import ImageData
from markovae.errors import UserError

RED = (255, 0, 0)
sides = st.integers(1, 40)


@given(sides, sides, sides, sides, st.sampled_from(["crop", "pad", "resize"]))
def test_every_fit_gives_the_shape_and_keeps_a_flat_image_flat(h: int, w: int, height: int, width: int, fit: str):
    image = Image.new("RGB", (w, h), (10, 20, 30))
    fitted = fit_image(image, (height, width), fit, (10, 20, 30))
    assert fitted.size == (width, height)
    assert (np.asarray(fitted) == [10, 20, 30]).all()


def test_an_image_of_the_shape_is_untouched():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(fit_image(Image.fromarray(pixels), (5, 7), "crop", RED)), pixels)


def test_crop_keeps_the_centre():
    pixels = np.zeros((4, 8), np.uint8)
    pixels[:, 2:6] = 200
    assert (np.asarray(fit_image(Image.fromarray(pixels), (4, 4), "crop", RED)) == 200).all()


def test_pad_keeps_the_whole_image_on_the_background():
    image = Image.new("RGB", (2, 4), (0, 0, 255))
    padded = np.asarray(fit_image(image, (4, 5), "pad", RED))
    assert padded[0].tolist() == [[255, 0, 0], [0, 0, 255], [0, 0, 255], [255, 0, 0], [255, 0, 0]]


def test_resize_stretches():
    assert fit_image(Image.new("L", (2, 9), 5), (3, 6), "resize", RED).size == (6, 3)


def test_luma_is_pillows():
    rgb = np.random.default_rng(1).integers(0, 256, (1, 3, 8, 9), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(np.moveaxis(rgb[0], 0, -1)).convert("L"))
    assert np.array_equal(to_channels(ImageData(rgb), "grey").images[0, 0], expected)


@given(st.integers(0, 65535))
def test_luma_of_a_grey_is_that_grey(value: int):
    images = np.full((1, 3, 1, 1), value, np.uint16)
    assert to_channels(ImageData(images, bins=65536), "grey").images.item() == value


def test_channels_and_sizes_that_fit_are_left_alone():
    data = ImageData(np.zeros((2, 1, 4, 4), np.uint8))
    assert to_channels(data, "auto") is data
    assert to_channels(data, "grey") is data
    assert to_size(data, DataConfig("x", size=4)) is data
    assert to_channels(data, "rgb").shape == (3, 4, 4)


def test_arrays_are_brought_to_size_image_by_image():
    images = np.zeros((2, 3, 2, 2), np.uint8)
    images[1] = 77
    data = to_size(ImageData(images), DataConfig("x", size=4, fit="pad", background="#010203", enlarge=True))
    assert data.shape == (3, 4, 4)
    assert (data.images[1] == 77).all()


def test_few_grey_values_are_not_blurred_into_new_ones():
    with pytest.raises(UserError, match="has 17 grey values"):
        to_size(ImageData(np.zeros((2, 1, 8, 8), np.uint8), bins=17, name="d"), DataConfig("d", size=16))


def test_channels_first():
    assert channels_first(Image.new("L", (3, 2))).shape == (1, 2, 3)
    assert channels_first(Image.new("RGB", (3, 2))).shape == (3, 2, 3)
