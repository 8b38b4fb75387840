from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from markovae.data.conversion import as_images, as_samples
from markovae.data.images import ImageData
from markovae.errors import UserError

COLOR = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "images",
    [
        COLOR,
        COLOR.transpose(0, 3, 1, 2),
        list(COLOR),
        [torch.from_numpy(one) for one in COLOR],
        [Image.fromarray(one) for one in COLOR],
        torch.from_numpy(COLOR),
    ],
    ids=["nhwc", "nchw", "list", "tensors", "pil", "tensor"],
)
def test_axes_that_leave_no_doubt_are_understood(images: object):
    assert np.array_equal(as_images(images, (3, 6, 5), "test"), COLOR.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    "images", [COLOR[..., 0], COLOR[..., :1], COLOR[:, None, :, :, 0]], ids=["nhw", "nhw1", "n1hw"]
)
def test_grey_images_need_no_channel(images: np.ndarray):
    assert np.array_equal(as_images(images, (1, 6, 5), "test"), COLOR[:, None, :, :, 0])
    assert np.array_equal(as_images(images[0], (1, 6, 5), "test"), COLOR[:1, None, :, :, 0])


def test_the_model_s_own_axes_come_first_and_others_are_left_to_be_refused():
    square = np.zeros((3, 3, 3, 3), np.uint8)
    assert as_images(square, (3, 3, 3), "test") is square
    assert as_images(COLOR, (3, 5, 6), "test") is COLOR


def test_files_in_a_list_are_read_as_training_reads_them(tmp_path: Path):
    paths = [tmp_path / f"{n}.png" for n in range(3)]
    for path, pixels in zip(paths, COLOR, strict=False):
        Image.fromarray(pixels).resize((10, 14)).save(path)
    folder = as_images(tmp_path, (3, 6, 5), "test").images
    for given in (paths, [str(path) for path in paths]):
        assert np.array_equal(as_images(given, (3, 6, 5), "test"), folder)
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"x\.png gives no image"):
        as_images([tmp_path / "x.png"], (3, 6, 5), "test")
    with pytest.raises(UserError, match=r"gone\.png gives no image"):
        as_images([tmp_path / "gone.png"], (3, 6, 5), "test")


def test_samples_of_anybody_are_arrays_of_any_axes_lists_and_files(tmp_path: Path):
    wanted = COLOR.transpose(0, 3, 1, 2)
    files = []
    for number, pixels in enumerate(COLOR):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).save(files[-1])
    for given in (COLOR, wanted, torch.from_numpy(wanted), [Image.fromarray(one) for one in COLOR], files):
        assert np.array_equal(as_samples(given), wanted)
    assert as_samples(COLOR[..., 0]).shape == (4, 1, 6, 5)
    with pytest.raises(UserError, match="give images of one size"):
        as_samples([Image.fromarray(COLOR[0]), Image.fromarray(COLOR[0, :4])])


def test_a_set_of_images_is_taken_as_it_is() -> None:
    own = ImageData(COLOR.transpose(0, 3, 1, 2)[:1])
    assert as_images(own, own.shape, "test") is own
