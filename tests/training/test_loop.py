import numpy as np
import pytest
import torch

from markovae.build import create
from markovae.config import Config
from markovae.data.images import ImageData
from markovae.data.loading import load_data
from markovae.errors import UserError
from markovae.training.loop import fit


def test_fit_yields_every_step_and_leaves_the_average_in_the_model(tiny_config: Config, tiny_data: ImageData):
    model = create(tiny_config, tiny_data.shape, num_classes=2)
    raw = {}
    for step in fit(model, tiny_data, tiny_config.train, steps=9):
        raw[step.index] = model.network.stem.weight.detach().clone()
    assert list(raw) == list(range(1, 10))
    assert not torch.equal(model.network.stem.weight, raw[9])
    mean = raw[1].clone()
    for update in range(2, 10):
        decay = (update - 1) / (update - 1 + 10)
        mean = decay * mean + (1 - decay) * raw[update]
    torch.testing.assert_close(model.network.stem.weight, mean, rtol=0, atol=1e-6)
    assert not model.training


def test_closing_early_leaves_the_average_too(tiny_config: Config, tiny_data: ImageData):
    model = create(tiny_config, tiny_data.shape, num_classes=2)
    steps = fit(model, tiny_data, tiny_config.train)
    next(steps)
    next(steps)
    last = model.network.stem.weight.detach().clone()
    steps.close()
    assert not torch.equal(model.network.stem.weight, last)


def test_training_learns(tiny_config: Config, tiny_data: ImageData):
    settings = ["network.width=32", "schedule.start=4.0", "schedule.end=-4.0", "train.lr=0.02", "train.adamw_lr=0.01"]
    config = tiny_config.with_settings(settings)
    model = create(config, tiny_data.shape)
    images = torch.from_numpy(tiny_data.images)
    before = model.bound(images).bits_per_dim().value
    losses = [step.loss for step in fit(model, tiny_data.images, config.train, steps=100)]
    assert np.mean(losses[-20:]) < 0.7 * np.mean(losses[:5])
    assert model.bound(images).bits_per_dim().value < before


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.full((9, 1, 4, 4), -1.0), r"float images run from -1 to -1 where 0…1 is read"),
        (np.full((9, 1, 4, 4), np.nan), r"float images run from nan to nan where 0…1 is read"),
        (np.zeros((9, 1, 4, 4), bool), "images of type bool cannot be read"),
        ([{"image": 0}] * 9, "an item is a dict of image"),
        (7, "of type int cannot be iterated"),
        ("nowhere", "there is no data source, folder or file 'nowhere'"),
        ({"a": 1}, "load a source with mv.load_data"),
        ((np.zeros((9, 1, 4, 4), np.uint8), [1, 2]), "2 labels for 9 images"),
        (np.zeros((9, 1, 6, 4), np.uint8), r"images of shape \(1, 6, 4\) do not fit the model"),
        (np.full((9, 1, 4, 4), 300), "must hold pixel values 0…255, and these run from 300 to 300"),
        (np.zeros((3, 1, 4, 4), np.uint8), "only 3 images"),
        (ImageData(np.zeros((9, 1, 4, 4), np.uint8), bins=17), "build it with bins=17"),
    ],
)
def test_images_that_do_not_fit_are_refused_before_the_first_step(tiny_config: Config, images, message: str):
    with pytest.raises(UserError, match=message):
        fit(create(tiny_config, (1, 4, 4)), images, tiny_config.train)


def test_an_unknown_setting_names_the_nearest(tiny_config: Config, tiny_data: ImageData):
    with pytest.raises(UserError, match=r"unknown setting train\.step: did you mean train\.steps"):
        fit(create(tiny_config, (1, 4, 4)), tiny_data, step=3)


def test_a_model_that_was_loaded_is_trained_on(tiny_config: Config, tiny_data: ImageData):
    model = create(tiny_config, tiny_data.shape, num_classes=2).requires_grad_(False)
    before = [weight.clone() for weight in model.network.parameters()]
    assert len(list(fit(model, tiny_data, tiny_config.train))) == 12
    assert any(not torch.equal(a, b) for a, b in zip(before, model.network.parameters(), strict=True))


def test_what_load_data_gives_is_taken(tiny_config: Config):
    splits = load_data("digits")
    model = create(tiny_config, splits.train)
    assert (model.pixels.bins, model.network.num_classes) == (17, 10)
    steps = fit(model, splits, tiny_config.train, steps=1)
    assert [step.index for step in steps] == [1]
