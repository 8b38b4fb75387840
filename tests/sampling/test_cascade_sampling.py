"""Images drawn by a cascade: by number, up to a stage, from a coarse image, with conditions and guidance."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.diffusion.exact_cascade import exact_cascade
from tests.training.test_cascade_training import cascade, images

import markovae as mv
from markovae.diffusion import haar
from markovae.errors import UserError
from markovae.networks.conditioning import Condition
from markovae.sampling.generation import network_evaluations
from markovae.sampling.guidance import Guidance, NegativePrompt, Unconditional
from markovae.sampling.plans import Plan, default_steps, plan, split_steps


def test_steps_are_shared_out():
    model = cascade("cascade.stages=3", "schedule.num_levels=50", side=32)
    assert default_steps(model) == 64
    whole = plan(model, "dpmpp2m")
    assert [whole.nfe, *(part.nfe for part in whole.details)] == [64, 8, 8]
    assert split_steps(40, 2) == [30, 5, 5]
    assert split_steps(3, 2) == [1, 1, 1]
    assert split_steps(7, 0) == [7]
    assert network_evaluations(whole, Guidance(2.0)) == 128
    with pytest.raises(UserError, match="steps=2 must be at least 3"):
        plan(model, "dpmpp2m", 2)
    with pytest.raises(UserError, match="is searched for models of one stage"):
        plan(model, "dpmpp2m", 9, "tuned")


def test_an_image_is_a_function_of_seed_and_number():
    model = cascade()
    whole = mv.sample(model, 3, steps=6, raw=True, batch=3)
    parts = mv.sample(model, 3, steps=6, raw=True, batch=1)
    assert whole.shape == (3, 3, 16, 16)
    np.testing.assert_allclose(whole, parts, atol=1e-4)
    assert np.abs(whole[0] - whole[1]).max() > 0.1
    assert np.abs(mv.sample(model, 1, steps=6, raw=True, seed=1) - whole[:1]).max() > 0.1


def test_a_stage_is_the_mean_of_the_next():
    model = cascade("cascade.stages=3", side=32)
    small, middle, full = (torch.from_numpy(mv.sample(model, 2, steps=6, raw=True, stage=b)) for b in (0, 1, None))
    assert [tuple(x.shape[2:]) for x in (small, middle, full)] == [(8, 8), (16, 16), (32, 32)]
    torch.testing.assert_close(haar.split(full)[0] / 2, middle, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(haar.split(middle)[0] / 2, small, rtol=1e-4, atol=1e-4)
    assert mv.sample(model, 1, steps=6, stage=0).dtype == np.uint8
    with pytest.raises(UserError, match="stage=3 must lie in 0…2"):
        mv.sample(model, 1, steps=6, stage=3)
    with pytest.raises(UserError, match="this model has one stage"):
        mv.sample(cascade("cascade.stages=3", side=32).base, 1, steps=6, stage=0)


def test_samples_have_the_datas_covariance():
    model, cov = exact_cascade(4, 1, 60)
    x = torch.from_numpy(mv.sample(model, 1500, steps=100, raw=True, batch=500)).double().flatten(1)
    found = torch.linalg.eigvalsh(x.T @ x / len(x)) / torch.linalg.eigvalsh(cov)
    assert float((found - 1).abs().max()) < 0.2


def test_few_steps_of_the_default_sampler_make_details_as_strong_as_they_are():
    model, cov = exact_cascade(4, 1, 60)
    base, truth = plan(model.base, "sde-dpmpp2m", 48), torch.linalg.eigvalsh(cov)[:12]  # the details'

    def strength(details: Plan) -> torch.Tensor:
        x = torch.from_numpy(mv.sample(model, 1500, sampler=replace(base, details=(details,)), raw=True, batch=500))
        x = x.double().flatten(1)
        return torch.linalg.eigvalsh(x.T @ x / len(x))[:12] / truth

    (details,) = plan(model, "sde-dpmpp2m").details
    assert (details.nfe, details.draws, details.spacing) == (8, True, "uniform")
    assert float((strength(details) - 1).abs().max()) < 0.12
    assert float(strength(plan(model.stage(1), "sde-dpmpp2m", 8, "karras")).mean()) > 1.1


def test_enlarging_keeps_the_image_and_draws_its_details():
    model = cascade("cascade.stages=3", side=32)
    small = images(1, 16)[0]
    made = mv.edit(model, small, enlarge=True, n=2, steps=6)
    assert made.images.shape == (2, 3, 32, 32)
    assert made.name == "enlarging 2 times"
    means = made.images.reshape(2, 3, 16, 2, 16, 2).mean((3, 5))
    inside = (made.images.reshape(2, 3, 16, 2, 16, 2) % 255 != 0).all((3, 5))  # unless a value is cut to 0…255
    assert np.abs(means - small)[inside].max() <= 0.5
    assert len(np.unique(made.images[0] - made.images[1])) > 1
    assert mv.edit(model, images(1, 8)[0], enlarge=True, n=1, steps=6).name == "enlarging 4 times"
    for side in (12, 32):
        with pytest.raises(UserError, match="of the size of one of the stages, 8x8 or 16x16: resize it first"):
            mv.edit(model, images(1, side)[0], enlarge=True)
    with pytest.raises(UserError, match="this model has one stage"):
        mv.edit(model.base, small, enlarge=True)


def test_classes_and_guidance_reach_every_stage():
    model = cascade(num_classes=3)
    plain, other = (mv.sample(model, 1, steps=6, raw=True, labels=k) for k in (0, 1))
    assert np.abs(plain - other).max() > 0
    seen = []
    for stage in model.stages:
        stage.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2]))
    mv.sample(model, 1, steps=3, labels=1, guidance=2.0)
    labels = [None if condition is None else condition.label for condition in seen]
    assert [label is None for label in labels] == [False, True] * 3
    assert [c is not None and c.coarse is not None for c in seen] == [False] * 4 + [True] * 2


def test_what_guidance_leads_away_from_sees_the_coarse_image():
    calls = []

    class Inner:
        def predict(self, z, logsnr, condition=None):
            calls.append(condition)
            return z, None

    z, coarse = torch.zeros(2, 3, 4, 4), torch.ones(2, 2, 4, 4)
    given = Condition(label=torch.tensor([0, 1]), coarse=coarse)
    Unconditional(Inner()).predict(z, torch.tensor(0.0), given)
    NegativePrompt(Inner(), Condition(label=torch.tensor([2]))).predict(z, torch.tensor(0.0), given)
    assert calls[0].label is None
    assert calls[1].label.tolist() == [2, 2]
    assert all(call.coarse is coarse for call in calls)
