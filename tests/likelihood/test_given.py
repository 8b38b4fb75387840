"""What people of Python give to `mv.measure` and `mv.fit`: the same figures, or one sentence."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from markovae.build import create
from markovae.config import Config
from markovae.data.data_config import DataConfig
from markovae.data.images import ImageData
from markovae.data.loading import splits_of
from markovae.data.source import DatasetSummary, Source
from markovae.data.split import split_by_content
from markovae.errors import UserError
from markovae.likelihood.measuring import measure
from markovae.training.loop import fit

SIZE = 8


@pytest.fixture(scope="module")
def data() -> ImageData:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 3, SIZE, SIZE)).astype(np.uint8)
    return ImageData(pixels, np.arange(12) % 2, ("cat", "dog"))


@pytest.fixture
def model(data: ImageData, tiny_config: Config):
    return create(tiny_config, data)


def figures(model, images, labels=None) -> list[float]:
    return measure(model, images, labels, draws=1).total.tolist()


def test_images_in_every_form_give_the_same_figures(model, data: ImageData, tmp_path: Path):
    pixels = data.images[:4]
    expected = figures(model, pixels)
    pictures = [Image.fromarray(np.moveaxis(image, 0, -1)) for image in pixels]
    for images in (
        torch.tensor(pixels),
        list(pixels),
        [torch.tensor(one) for one in pixels],
        pixels.tolist(),
        pictures,
    ):
        assert figures(model, images) == expected
    assert figures(model, pictures[0]) == expected[:1]
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number}.png")
    for path in (tmp_path, str(tmp_path)):
        assert figures(model, path) == expected


def test_data_bring_their_classes_by_name(model, data: ImageData):
    few = data.take(range(4))
    expected = figures(model, few.images, [0, 1, 0, 1])
    assert figures(model, few) == expected
    assert figures(model, few.images, ["cat", "dog", "cat", "dog"]) == expected
    assert figures(model, few.images, np.array(["cat", "dog", "cat", "dog"])) == expected
    turned = ImageData(few.images, 1 - few.labels, ("dog", "cat"))
    assert figures(model, turned) == expected
    split = split_by_content(data.content_hashes(), DataConfig("x"), "x")
    parts = splits_of(Source(data, split, DatasetSummary("array")))
    assert figures(model, parts) == figures(model, parts.test)


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (
            [np.zeros((3, 8, 8), np.uint8), np.zeros((3, 8, 9), np.uint8)],
            r"a list of images of shapes \(3, 8, 8\), \(3, 8, 9\)",
        ),
        ([[1, 2], [3]], "a list of images of shapes"),
        ("nowhere", "there is no data source"),
        ({"a": 1}, "type dict cannot be read as numbers"),
        (None, "type NoneType cannot be read as numbers"),
        (3, r"no images to measure: give \(n, C, H, W\)"),
        ([], "no images to measure"),
        (["a.png", "b.png"], "gives no image"),
        ([Image.new("RGB", (9, 9))], r"images of shape \(3, 9, 9\) do not fit"),
    ],
)
def test_what_is_no_image_is_one_sentence(model, images, sentence: str):
    with pytest.raises(UserError, match=sentence):
        measure(model, images, draws=1)


def test_labels_that_are_none_are_one_sentence(model, data: ImageData):
    for labels, sentence in (
        (["cat", "cow"], "the class cow is unknown: this model has cat, dog"),
        ([0.5, 1], "must be whole numbers"),
        ({"a": 1}, "cannot be read as numbers"),
    ):
        with pytest.raises(UserError, match=sentence):
            measure(model, data.images[:2], labels, draws=1)


def test_fit_takes_a_path_and_lists_of_pictures(model, data: ImageData, tmp_path: Path):
    pictures = [Image.fromarray(np.moveaxis(image, 0, -1)) for image in data.images]
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number}.png")
    for images in (tmp_path, pictures, list(data.images)):
        assert len(list(fit(model, images, steps=1, batch=4))) == 1
