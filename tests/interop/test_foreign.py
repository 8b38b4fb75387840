"""Denoisers of anybody's: measured and sampled like ours, and refused in a sentence where they are none."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import markovae as mv
from markovae.diffusion.decoder import HoSmallDecoder
from markovae.diffusion.forward import noise_scale, signal_scale
from markovae.diffusion.model import Diffusion
from markovae.diffusion.pixels import Pixels
from markovae.diffusion.reverse import LearnedVariance, PosteriorVariance, StepVariance
from markovae.diffusion.schedule import LogSNRLinear, cosine, linear
from markovae.diffusion.target import FLOW, NOISE, TARGETS, VELOCITY
from markovae.errors import UserError
from markovae.interop.importing import import_run
from markovae.interop.wrapping import wrap
from markovae.likelihood.ode import ode_likelihood

SHAPE = (3, 4, 4)
VARIANCE = 0.3
IMAGES = torch.randint(0, 256, (3, *SHAPE), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def guess(z: Tensor, logsnr: Tensor) -> Tensor:
    """E[x|z] of x ~ N(0, v)."""
    a, s = (f(logsnr).reshape(-1, 1, 1, 1) for f in (signal_scale, noise_scale))
    return (VARIANCE * a * z / (a**2 * VARIANCE + s**2)).to(z)


class Own(nn.Module):
    """The same denoiser as a network of ours."""

    def __init__(self, target) -> None:
        super().__init__()
        self.target = target

    def forward(self, z: Tensor, logsnr: Tensor, condition: object = None) -> Tensor:
        return self.target.of_x(guess(z, logsnr), z, logsnr)


def nats(model: Diffusion) -> Tensor:
    model.precision = torch.float64
    return model.bound(IMAGES).total


@pytest.mark.parametrize(
    "target", [t for t in TARGETS if not t.needs_neighbour and t is not FLOW], ids=lambda t: t.name
)
def test_a_denoiser_of_steps_costs_what_the_same_network_costs(target) -> None:
    schedule = linear(40)
    grid = schedule.logsnr[1:]
    seen = []

    def theirs(z: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return target.of_x(guess(z, grid[t.long()]), z, grid[t.long()])

    own = Diffusion(Own(target), schedule, target, PosteriorVariance(), HoSmallDecoder(Pixels()), SHAPE)
    torch.testing.assert_close(nats(wrap(theirs, SHAPE, schedule, target.name)), nats(own), rtol=1e-9, atol=1e-9)
    steps = torch.cat(seen)
    assert torch.equal(steps, steps.round())
    assert steps.unique().tolist() == list(range(40))


def test_a_denoiser_with_its_own_time_and_scale() -> None:
    """D(x; σ) of Karras et al. 2022: x = z/a, σ = s/a, as the docstring of `wrap` tells it."""
    schedule = LogSNRLinear(20, 8.0, -6.0)

    def theirs(x: Tensor, sigma: Tensor) -> Tensor:
        return VARIANCE * x / (VARIANCE + sigma.reshape(-1, 1, 1, 1) ** 2)

    model = wrap(
        lambda z, s: theirs(z * (1 + s**2).sqrt().view(-1, 1, 1, 1), s),
        SHAPE,
        schedule,
        "data",
        time=lambda logsnr: (-logsnr / 2).exp(),
    )
    own = Diffusion(Own(NOISE), schedule, NOISE, PosteriorVariance(), HoSmallDecoder(Pixels()), SHAPE)
    torch.testing.assert_close(nats(model), nats(own), rtol=1e-9, atol=1e-9)


def test_a_wrapped_unet_is_the_imported_one(pipeline, tmp_path) -> None:
    made = pipeline(num_train_timesteps=1000)
    made.save_pretrained(tmp_path / "theirs")
    imported = import_run(tmp_path / "theirs", tmp_path / "run")
    model = wrap(made.unet, (3, 8, 8), linear(), clip=1.0)
    images = torch.randint(0, 256, (2, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8).numpy()
    ours, theirs = (mv.measure(m, images, draws=8).bits_per_dim.value for m in (imported, model))
    assert theirs == pytest.approx(ours, rel=1e-5)
    np.testing.assert_allclose(
        mv.sample(model, 2, steps=5, raw=True), mv.sample(imported, 2, steps=5, raw=True), atol=1e-4
    )


def test_labels_reach_the_denoiser_and_a_missing_one_is_told() -> None:
    model = wrap(lambda z, t, label: z * label.view(-1, 1, 1, 1), SHAPE, cosine(10), num_classes=3)
    images = mv.sample(model, 3, steps=2, labels=[0, 1, 2], raw=True)
    assert not np.allclose(images[0], images[1])
    with pytest.raises(ValueError, match="takes labels 0…2 of every image"):
        mv.sample(model, 3, steps=2, labels="none")
    with pytest.raises(ValueError, match="trained without labels"):
        mv.sample(wrap(lambda z, t: z, SHAPE, cosine(10)), 3, steps=2, labels=1)


class Output:
    def __init__(self, sample: Tensor) -> None:
        self.sample = sample


@pytest.mark.parametrize("form", [lambda z: z, lambda z: (z,), Output], ids=["tensor", "tuple", "object"])
def test_the_forms_that_outputs_come_in(form) -> None:
    model = wrap(lambda z, t: form(0.5 * z), SHAPE, cosine(10), "data")
    z = torch.ones(2, *SHAPE)
    assert torch.equal(model.denoise(z, torch.zeros(())), 0.5 * z)


@pytest.mark.parametrize("wrong", [lambda z, t: z[:, :1], lambda z, t: 3.0, lambda z, t: None, lambda z, t: z[:1]])
def test_what_is_no_denoiser_is_told(wrong) -> None:
    with pytest.raises(ValueError, match=r"the denoiser gave .* for a latent \(2, 3, 4, 4\)"):
        wrap(wrong, SHAPE, cosine(10)).denoise(torch.zeros(2, *SHAPE), torch.zeros(()))


def test_an_unknown_prediction_is_told() -> None:
    with pytest.raises(UserError, match=r"predicts='nosie' must be one of noise, .*; did you mean noise"):
        wrap(lambda z, t: z, SHAPE, cosine(10), "nosie")


def test_a_second_half_is_the_head_of_a_learned_variance() -> None:
    schedule = cosine(10)
    head = LearnedVariance()
    model = wrap(lambda z, t: torch.cat([0 * z, 0 * z + 1], 1), SHAPE, schedule, "velocity", reverse=head)
    step = wrap(lambda z, t: 0 * z, SHAPE, schedule, "velocity", reverse=StepVariance())
    torch.testing.assert_close(nats(model), nats(step), rtol=1e-9, atol=1e-9)


def test_a_module_moves_and_trains_with_the_model() -> None:
    module = nn.Conv2d(3, 3, 3, padding=1)
    model = wrap(lambda z, t: module(z), SHAPE, cosine(10), VELOCITY.name)
    assert not list(model.parameters())
    unet = nn.Module()
    unet.inner, unet.forward = module, lambda z, t: module(z)
    model = wrap(unet, SHAPE, cosine(10), VELOCITY.name)
    assert not unet.training
    assert sum(1 for _ in model.parameters()) == 2
    before = module.weight.detach().clone()
    for _ in mv.fit(model, IMAGES, steps=2, batch=2, precision="float32", optimizer="adamw"):
        pass
    assert not torch.equal(before, module.weight)


def test_a_denoiser_without_derivatives_is_told_where_they_count() -> None:
    model = wrap(torch.no_grad()(lambda z, t: 0.5 * z), SHAPE, linear(40))
    measured = mv.measure(model, IMAGES)
    assert measured.nats.value == mv.measure(wrap(lambda z, t: 0.5 * z, SHAPE, linear(40)), IMAGES).nats.value
    with pytest.raises(ValueError, match="no derivatives"):
        ode_likelihood(model, IMAGES[:1])
