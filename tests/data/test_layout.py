import numpy as np
import pytest

from markovae.data.arrays import as_channels_first, as_pixels, labels_of
from markovae.errors import UserError


@pytest.mark.parametrize(
    ("shape", "layout", "expected"),
    [
        ((9, 28, 20), "auto", (9, 1, 28, 20)),
        ((9, 28, 20, 3), "auto", (9, 3, 28, 20)),
        ((9, 28, 20, 1), "auto", (9, 1, 28, 20)),
        ((9, 3, 28, 20), "auto", (9, 3, 28, 20)),
        ((9, 3, 28, 3), "nhwc", (9, 3, 3, 28)),
        ((9, 3, 28, 3), "nchw", (9, 3, 28, 3)),
        ((9, 28, 3), "nhw", (9, 1, 28, 3)),
    ],
)
def test_axes(shape: tuple[int, ...], layout: str, expected: tuple[int, ...]):
    raw = np.arange(np.prod(shape)).reshape(shape)
    read = as_channels_first(raw, layout, "x")
    assert read.shape == expected
    assert sorted(read.ravel().tolist()) == raw.ravel().tolist()


def test_channels_last_moves_each_pixel_to_its_place():
    raw = np.arange(2 * 4 * 5 * 3).reshape(2, 4, 5, 3)
    assert as_channels_first(raw, "auto", "x")[1, 2, 3, 4] == raw[1, 3, 4, 2]


@pytest.mark.parametrize(
    ("shape", "layout", "sentence"),
    [
        ((9, 784), "auto", r"reshape\(-1, 28, 28\)"),
        ((9, 3, 28, 3), "auto", "may be second or last"),
        ((64, 64, 3), "auto", "looks like one color image"),
        ((9, 5, 28, 28), "auto", "28 channels"),
        ((9, 28, 28, 5), "auto", "5 channels"),
        ((9, 28, 28, 2), "auto", "2 channels"),
        ((9, 28, 28), "nhwc", "does not fit"),
        ((0, 28, 28), "auto", "it is empty"),
    ],
)
def test_what_is_no_stack_of_images_is_one_sentence(shape: tuple[int, ...], layout: str, sentence: str):
    with pytest.raises(UserError, match=sentence):
        as_channels_first(np.zeros(shape, np.uint8), layout, "x")


@pytest.mark.parametrize(
    ("raw", "dtype", "bins"),
    [
        (np.array([0, 255], np.uint8), np.uint8, 256),
        (np.array([0, 255], np.int64), np.uint8, 256),
        (np.array([0, 256], np.int32), np.uint16, 65536),
        (np.array([0.0, 255.0], np.float32), np.uint8, 256),
        (np.array([True, False]), np.uint8, 2),
    ],
)
def test_grey_values(raw: np.ndarray, dtype: type, bins: int):
    pixels, found = as_pixels(raw, "x")
    assert (pixels.dtype, found) == (dtype, bins)
    assert pixels.tolist() == raw.astype(int).tolist()


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floats_that_were_pixel_values_are_read_as_those(kind: type):
    """x / 255, as of most loaders, and x / 127.5 − 1, as of most diffusion code."""
    pixels = np.arange(256, dtype=np.uint8)
    for scaled in (pixels / 255, pixels / 127.5 - 1):
        read, bins = as_pixels(scaled.astype(kind), "x")
        assert (read.dtype, bins) == (np.uint8, 256)
        assert read.tolist() == pixels.tolist()
    with pytest.raises(UserError, match="cannot be guessed"):
        as_pixels((pixels / 256 + 0.001).astype(np.float32), "x")


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (np.array([0.0, 1.0]), r"floats from 0 to 1, .*round\(\).astype\('uint8'\)"),
        (np.array([0.0, 200.5]), "save the images as uint8"),
        (np.array([-1.0, 1.0]), "floats from -1 to 1"),
        (np.array([0.0, np.nan, 255.0]), "floats from nan to nan"),
        (np.array([-1, 5]), "values from -1 to 5"),
        (np.array([0, 70000]), "values from 0 to 70000"),
        (np.array(["a"]), "elements of type <U1"),
    ],
)
def test_values_that_cannot_be_pixels_are_one_sentence(raw: np.ndarray, sentence: str):
    with pytest.raises(UserError, match=sentence):
        as_pixels(raw, "x")


def test_labels_become_classes_named_by_their_value():
    numbers, names = labels_of(np.array([[3.0], [1.0], [3.0]]), 3, "x")
    assert numbers is not None
    assert (numbers.tolist(), names) == ([1, 0, 1], ("1", "3"))
    numbers, names = labels_of(np.array(["dog", "cat"]), 2, "x")
    assert names == ("cat", "dog")


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [(np.eye(3), "argmax"), (np.array([0.5, 1, 2]), "whole numbers"), (np.arange(2), "for 3 images")],
)
def test_labels_that_are_none(raw: np.ndarray, sentence: str):
    with pytest.raises(UserError, match=sentence):
        labels_of(raw, 3, "x")
