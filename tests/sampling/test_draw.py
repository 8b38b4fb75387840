"""Samples by number, and the requests that are refused."""

import numpy as np
import pytest
import torch

from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.sampling.generation import batch_trajectories, final_samples, sample, sample_trajectory
from markovae.sampling.grids import rho_grid
from markovae.sampling.plans import Plan, plan
from markovae.sampling.sampler_table import DEFAULT_SAMPLER, SAMPLERS, SEARCHED, SPACINGS
from markovae.sampling.samplers import DDIM
from markovae.theory.mixture import pink_gaussian

QUICK = ("dpmpp2m", "heun", "unipc3", "sde-dpmpp2m", "pc", "ancestral")


@pytest.fixture
def model(model_of):
    return model_of(pink_gaussian((1, 4, 4)))


@pytest.mark.parametrize("sampler", QUICK)
def test_sample_depends_on_seed_and_number_only(sampler, model):
    whole = sample(model, 7, steps=5, sampler=sampler, batch=7, raw=True)
    parts = sample(model, 7, steps=5, sampler=sampler, batch=2, raw=True)
    np.testing.assert_allclose(whole, parts, rtol=0, atol=1e-6)
    later = final_samples(batch_trajectories(model, 3, plan(model, sampler, 5), start=4), model.shape)
    np.testing.assert_allclose(whole[4:], later, rtol=0, atol=1e-6)
    assert np.abs(whole[0] - whole[1]).max() > 0.05
    assert np.abs(whole - sample(model, 7, steps=5, sampler=sampler, seed=1, raw=True)).max() > 0.05


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws_from_the_prior(sampler, model):
    """64 images of 16 pixels: the pixels' variance is the data's, within the sampler's own error."""
    drawn = sample(model, 64, steps=41, sampler=sampler, raw=True)
    assert np.isfinite(drawn).all()
    assert drawn.std() == pytest.approx(0.5, rel=0.2)


@pytest.mark.parametrize("spacing", [name for name in SPACINGS if name not in SEARCHED])
def test_every_spacing_makes_a_plan(spacing, model):
    assert len(plan(model, "ddim", 9, spacing).grid) == 10


def test_digits_are_those_of_the_raw_sample(model):
    digits, raw = sample(model, 2, steps=4), sample(model, 2, steps=4, raw=True)
    assert digits.dtype == np.uint8
    np.testing.assert_array_equal(digits, np.clip(np.rint((raw.astype(np.float64) + 1) * 127.5), 0, 255))


def test_a_plan_stands_for_sampler_and_steps(model):
    own = Plan(DDIM(0.5), rho_grid(8.0, -9.0, 6))
    assert sample(model, 2, sampler=own, raw=True).shape == (2, 1, 4, 4)
    with pytest.raises(UserError, match="leave steps out"):
        sample(model, 2, sampler=own, steps=3)


def test_walk_ends_in_the_sample(model):
    *_, last = sample_trajectory(model, [3], plan(model, DEFAULT_SAMPLER, 6))
    np.testing.assert_allclose(last.z[0].float(), sample(model, 4, steps=6, raw=True)[3], atol=1e-6)


def test_the_model_is_put_back_as_it_was(model):
    model.train()
    sample(model, 1, steps=2)
    assert model.training


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"n": 0}, "n=0"),
        ({"n": 2, "steps": 0}, "steps=0"),
        ({"n": 2, "steps": 1001, "sampler": "ancestral"}, "1000 levels"),
        ({"n": 2, "sampler": "heum"}, "heum"),
        ({"n": 2, "batch": 0}, "batch=0"),
        ({"n": 2, "labels": 1}, "without labels"),
    ],
)
def test_bad_requests_are_one_sentence(arguments, sentence, model):
    with pytest.raises(UserError, match=sentence):
        sample(model, **arguments)


def test_an_unknown_spacing_is_one_sentence(model):
    with pytest.raises(UserError, match="spacing 'even' is unknown"):
        plan(model, "ddim", 5, "even")


def test_images_that_are_none_are_refused_not_black(tiny_model):
    with torch.no_grad():
        next(iter(tiny_model.network.parameters()))[0] = torch.nan
    with pytest.raises(UserError, match="3 of 3 images came out NaN or Inf"):
        sample(tiny_model, 3, steps=4)


def test_a_class_is_a_whole_number(class_model):
    with pytest.raises(UserError, match="whole numbers"):
        sample(class_model, 2, steps=2, labels=[0.7, 1.0])


def test_a_number_that_is_another_class_s_name_is_told(tiny_model: Diffusion, capsys: pytest.CaptureFixture[str]):
    """pytorch/vision issue 714: folders called 1, 2, … are counted from 0."""
    tiny_model.class_names = ("1", "2")
    by_place, by_name = sample(tiny_model, 1, steps=1, labels=1), sample(tiny_model, 1, steps=1, labels="2")
    assert np.array_equal(by_place, by_name)
    assert "labels=1 is the class 2, counted from 0: labels='1' is the one called so" in capsys.readouterr().err
    tiny_model.class_names = ("0", "1")
    sample(tiny_model, 1, steps=1, labels=1)
    assert not capsys.readouterr().err
