import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from markovae.data.pictures import data_uri, enlarged, grid, png, tile, viewable
from markovae.errors import UserError


def test_eight_bits_keep_their_values():
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 5, 6)).astype(np.uint8)
    pictures = viewable(images, 256)
    assert pictures.dtype == np.uint8
    assert (pictures == images.transpose(0, 2, 3, 1)).all()


@pytest.mark.parametrize(
    ("bins", "digits", "greys"),
    [(2, [0, 1], [0, 255]), (17, [0, 4, 8, 16], [0, 64, 128, 255]), (65536, [0, 257, 65535], [0, 1, 255])],
)
def test_other_digits_are_spread_over_the_grey_levels(bins: int, digits: list[int], greys: list[int]):
    images = np.array(digits, np.uint16)[:, None, None, None]
    assert viewable(images, bins).ravel().tolist() == greys


def test_a_sheet_is_filled_row_by_row_with_white_between():
    pictures = np.arange(1, 6, dtype=np.uint8)[:, None, None, None] * np.ones((5, 2, 3, 1), np.uint8)
    sheet = tile(pictures)
    assert sheet[..., 0].tolist() == [
        [1, 1, 1, 255, 2, 2, 2, 255, 3, 3, 3],
        [1, 1, 1, 255, 2, 2, 2, 255, 3, 3, 3],
        [255] * 11,
        [4, 4, 4, 255, 5, 5, 5, 255, 255, 255, 255],
        [4, 4, 4, 255, 5, 5, 5, 255, 255, 255, 255],
    ]
    assert tile(pictures, 5).shape == (2, 19, 1)
    assert tile(pictures[:1]).tolist() == pictures[0].tolist()


def test_a_clear_sheet_is_transparent_between():
    sheet = tile(np.full((2, 16, 16, 1), 7, np.uint8), 1, clear=True)
    assert sheet.shape == (33, 16, 4)
    assert sheet[16].max() == 0
    assert (np.delete(sheet, 16, axis=0) == [7, 7, 7, 255]).all()


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_png_is_lossless_and_carries_texts(channels: int, mode: str):
    picture = np.random.default_rng(channels).integers(0, 256, (7, 9, channels)).astype(np.uint8)
    image = Image.open(io.BytesIO(png(picture, {"markovae:seed": "3", "Software": "markovae"})))
    assert image.mode == mode
    assert (np.asarray(image).reshape(picture.shape) == picture).all()
    assert image.text == {"markovae:seed": "3", "Software": "markovae"}


def test_small_pictures_are_enlarged_by_whole_pixels():
    picture = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
    large = enlarged(picture, 5)
    assert large.shape == (6, 9, 1)
    assert (large[::3, ::3] == picture).all()
    assert (large[2::3, 2::3] == picture).all()
    assert enlarged(large, 5) is not picture
    assert enlarged(large, 5).shape == large.shape


def test_an_address_holds_the_bytes():
    kind, content = data_uri(b"\x00\xff").split(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(content) == b"\x00\xff"


def test_a_grid_is_a_picture_of_pil():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 3, 8, 8), dtype=np.uint8)
    for given in (images, torch.tensor(images)):
        picture = grid(given, 3)
        assert (picture.mode, picture.size) == ("RGB", (3 * 9 - 1, 2 * 9 - 1))
        assert np.array_equal(np.asarray(picture)[:8, 9:17], images[1].transpose(1, 2, 0))
    assert grid(images[:, :1] // 16, bins=17).mode == "L"
    for wrong in (images[0], images / 255, images.astype(int) + 1, images[:0]):
        with pytest.raises(UserError, match="a grid takes"):
            grid(wrong)
