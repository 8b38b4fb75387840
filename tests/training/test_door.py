"""What `fit` trains on and what it minimises, where the caller brings it."""

import dataclasses
import gc
import itertools
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import markovae as mv
from markovae.config import Config
from markovae.data.images import ImageData
from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.training.loop import fit
from markovae.training.losses import create_objective


class Items(Dataset):
    """A map-style data set of (float image, label)."""

    def __init__(self, data: ImageData) -> None:
        self.data, self.read = data, 0

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int):
        self.read += 1
        return torch.from_numpy(self.data.images[index]) / 255, int(self.data.labels[index])


class Endless(IterableDataset):
    def __init__(self) -> None:
        self.given = 0

    def __iter__(self):
        for number in itertools.count():
            self.given += 1
            yield np.full((1, 4, 4), number % 256, np.uint8)


def weights(model: Diffusion) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def trained(config: Config, data, num_classes: int = 2, **settings) -> torch.Tensor:
    model = mv.create(config, (1, 4, 4), num_classes=num_classes)
    list(fit(model, data, config.train, steps=4, **settings))
    return weights(model)


def test_a_data_set_with_a_length_is_its_array(tiny_config: Config, tiny_data: ImageData):
    expected = trained(tiny_config, tiny_data)
    for same in (
        Items(tiny_data),
        [(image, label) for image, label in zip(tiny_data.images, tiny_data.labels.tolist(), strict=True)],
        [(np.moveaxis(image, 0, -1), label) for image, label in zip(tiny_data.images, tiny_data.labels, strict=True)],
        (torch.from_numpy(tiny_data.images), torch.from_numpy(tiny_data.labels)),
        TensorDataset(torch.from_numpy(tiny_data.images), torch.from_numpy(tiny_data.labels)),
    ):
        assert torch.equal(trained(tiny_config, same), expected)


def test_a_loader_and_a_generator_are_streams_whatever_their_batches(tiny_config: Config, tiny_data: ImageData):
    pairs = list(zip(tiny_data.images, tiny_data.labels.tolist(), strict=True))
    expected = trained(tiny_config, itertools.cycle(pairs))
    for size in (3, 20):
        loader = DataLoader(Items(tiny_data), batch_size=size)
        assert torch.equal(trained(tiny_config, loader), expected)


def test_a_stream_without_an_end_is_read_no_further_than_it_is_trained_on(tiny_config: Config):
    images = Endless()
    trained(tiny_config, images)
    assert images.given <= 4 * tiny_config.train.batch + 1


def test_a_stream_that_ends_says_so(tiny_config: Config, tiny_data: ImageData):
    with pytest.raises(UserError, match="the images ended after 16: pass what can be iterated again"):
        trained(tiny_config, iter(list(tiny_data.images)))


def test_a_transform_sees_each_image(tiny_config: Config, tiny_data: ImageData):
    shapes = set()

    def brighter(image: torch.Tensor) -> torch.Tensor:
        shapes.add((image.dtype, *image.shape))
        return image[..., 1:5, 1:5].float() / 255

    larger = np.pad(tiny_data.images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    cropped = trained(tiny_config, dataclasses.replace(tiny_data, images=larger), transform=brighter)
    assert torch.equal(cropped, trained(tiny_config, tiny_data))
    assert shapes == {(torch.uint8, 1, 6, 6)}


def test_labels_that_the_network_does_not_take_are_left_out_and_said(tiny_config, tiny_data, capsys):
    plain = trained(tiny_config, tiny_data.images, num_classes=0)
    assert capsys.readouterr().err == ""
    for labelled in (tiny_data, Items(tiny_data)):
        assert torch.equal(trained(tiny_config, labelled, num_classes=0), plain)
        assert capsys.readouterr().err.count("are left out: this network takes none") == 1


def test_a_fit_that_nobody_iterates_warns(tiny_config: Config, tiny_data: ImageData):
    with pytest.warns(UserWarning, match=r"fit\(\) was never iterated: nothing was trained"):
        fit(mv.create(tiny_config, (1, 4, 4)), tiny_data.images, tiny_config.train)
    with warnings.catch_warnings(record=True) as told:
        trained(tiny_config, tiny_data)
        gc.collect()
    assert not told


# -- what is minimised ----------------------------------------------------------------------------------------------


def test_the_loss_of_a_model_is_what_fit_minimises(tiny_model: Diffusion, tiny_config: Config, tiny_data: ImageData):
    """Equal in expectation: the same network, many draws, four standard errors."""
    x, labels = torch.from_numpy(tiny_data.images), torch.from_numpy(tiny_data.labels)
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        ours = torch.stack([tiny_model.loss(x, labels, source) for _ in range(80)])
    settings = dataclasses.replace(tiny_config.train, optimizer="adamw", adamw_lr=1e-9, label_dropout=0.0)
    theirs = torch.tensor([step.loss for step in fit(tiny_model, tiny_data, settings, steps=80)])
    error = (ours.var() / len(ours) + theirs.var() / len(theirs)).sqrt()
    assert abs(float(ours.mean() - theirs.mean())) < 4 * float(error)


def test_the_loss_is_a_function_of_its_generator_and_refuses_other_shapes(tiny_model: Diffusion, tiny_data: ImageData):
    x, labels = torch.from_numpy(tiny_data.images), torch.from_numpy(tiny_data.labels)
    one, two = (tiny_model.loss(x, labels, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one, two)
    scaled = tiny_model.pixels.to_x(x)
    torch.testing.assert_close(tiny_model.loss(scaled, labels, torch.Generator().manual_seed(1)), one)
    one.backward()
    assert all(weight.grad is not None for weight in tiny_model.network.stem.parameters())
    with pytest.raises(ValueError, match=r"data of shape \(1, 5, 5\): this model takes \(1, 4, 4\)"):
        tiny_model.loss(torch.zeros(2, 1, 5, 5))
    with pytest.raises(ValueError, match="an objective over 3 levels for a schedule of 50"):
        tiny_model.loss(x, objective=mv.Objective(torch.ones(3).double() / 3, torch.ones(3)))


def test_an_objective_of_the_callers_own_replaces_that_of_the_settings(tiny_config: Config, tiny_data: ImageData):
    model = mv.create(tiny_config, (1, 4, 4))
    same = create_objective(tiny_config.train, model.target, model.schedule)
    assert torch.equal(trained(tiny_config, tiny_data, objective=same), trained(tiny_config, tiny_data))
    high = mv.Objective.of(model.schedule, density=lambda logsnr: (logsnr > 0).double())
    assert float(high.probability[model.schedule.logsnr[1:] <= 0].sum()) == 0
    assert not torch.equal(trained(tiny_config, tiny_data, objective=high), trained(tiny_config, tiny_data))
    with pytest.raises(ValueError, match="its density misses the schedule"):
        mv.Objective.of(model.schedule, density=lambda logsnr: 0 * logsnr)
    with pytest.raises(UserError, match="give one of them"):
        fit(model, tiny_data, objective=high, loss=lambda *_: None)


def test_a_loss_of_the_callers_own(tiny_config: Config, tiny_data: ImageData):
    def own(model, x, condition, generator):
        return model.loss(x, condition, generator)

    first, again = (trained(tiny_config, tiny_data, loss=own) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, weights(mv.create(tiny_config, (1, 4, 4), num_classes=2)))
    model = mv.create(tiny_config, (1, 4, 4))
    with pytest.raises(UserError, match=r"the loss of your own gave float: it must give a tensor \(\) or \(8,\)"):
        next(fit(model, tiny_data.images, tiny_config.train, loss=lambda *_: 0.0))


def test_an_average_by_hand_is_that_of_fit(tiny_config: Config, tiny_data: ImageData):
    model = mv.create(tiny_config, (1, 4, 4), num_classes=2)
    average = mv.EMA(model)
    for _ in fit(model, tiny_data, tiny_config.train, steps=5):
        average.update()
    assert torch.equal(weights(average.model), weights(model))


@pytest.mark.parametrize("reverse", ["posterior", "isotropic"])
def test_the_average_in_the_middle_is_of_use_and_changes_nothing(tiny_config: Config, tiny_data, reverse: str):
    config = tiny_config.with_settings([f"target.reverse={reverse}"])
    looked, plain = (mv.create(config, (1, 4, 4), num_classes=2) for _ in range(2))
    for step in fit(looked, tiny_data, config.train, steps=4):
        if step.index == 2:
            assert mv.sample(step.ema, 2, steps=2).shape == (2, 1, 4, 4)
            assert mv.measure(step.ema, tiny_data.images[:2], draws=2).to_dict()["n"] == 2
            assert "averaged" not in dataclasses.asdict(step)
    list(fit(plain, tiny_data, config.train, steps=4))
    assert torch.equal(weights(looked), weights(plain))
