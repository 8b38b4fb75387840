"""Whatever runs on a device, on the pretend GPU: nothing is left on the other side, and no step waits in vain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import markovae as mv
from markovae.config import Config
from markovae.data.images import ImageData
from markovae.data.split import Splits
from markovae.diffusion.model import Diffusion
from markovae.networks.embedding import smoothed_difference
from markovae.networks.network_config import DDPMConfig, DiTConfig, NetworkConfig
from markovae.sampling.editor import Editor
from markovae.sampling.inverse import Blur, Observation
from markovae.sampling.plans import plan
from markovae.sampling.sampler_table import SAMPLERS

from .pretend import Counts, OnGPU, pretend_gpu

LARGE = np.random.default_rng(0).integers(0, 256, (24, 1, 8, 8)).astype(np.uint8)


def slow(*values: str) -> list[Any]:
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.fixture
def gpu() -> Iterator[Counts]:
    with pretend_gpu() as counts:
        yield counts


def model_of(config: Config, data: ImageData, *settings: str) -> Diffusion:
    return mv.create(config.with_settings(list(settings)), data).to("cuda")


def test_the_pretend_gpu_refuses_tensors_of_the_cpu_and_counts(gpu: Counts):
    x = torch.ones(3).to("cuda")
    assert (gpu.copies, gpu.operations, gpu.synchronisations) == (1, 0, 0)
    assert (2 * x + torch.tensor(1.0)).sum().item() == 9
    assert (gpu.copies, gpu.operations, gpu.synchronisations) == (1, 4, 1)
    for mixed in (lambda: x + torch.ones(3), lambda: x.numpy(), lambda: torch.cat([x, torch.ones(1)])):
        with pytest.raises((RuntimeError, TypeError)):
            mixed()
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(3, device="cuda", generator=torch.Generator())
    weight = torch.ones(3, requires_grad=True)
    (weight.to("cuda") * x).sum().backward()
    assert not isinstance(weight.grad, OnGPU)


# Each choice once: what one of them leaves on the other side it leaves there beside any other.
TRAININGS = {
    "default": [],
    "adamw, importance, learned variance, parts": [
        *("train.optimizer=adamw", "train.weight_decay=0.1", "train.objective=bound"),
        *("train.level_sampling=importance", "target.reverse=learned", "train.accumulate=3"),
    ],
    "learned variance, attention, checkpointing": [
        *("target.reverse=learned", "network.attention=[0]", "network.head_dim=8", "train.checkpointing=true"),
    ],
    "learned schedule": ["schedule.kind=learned", "train.objective=bound", "target.reverse=posterior"],
    "raw, isotropic": [
        *("target.name=step_noise", "train.draw=raw", "target.reverse=isotropic", "train.fit_images=8"),
    ],
    "literal, dropout": ["target.name=mean", "train.draw=literal", "network.dropout=0.2"],
    "constant sigma": ["schedule.kind=constant", "schedule.delta=0.1", "target.name=noise"],
    "cosine, bfloat16": ["schedule.kind=cosine", "train.precision=bfloat16"],
}


@pytest.mark.parametrize("settings", TRAININGS.values(), ids=TRAININGS)
def test_every_training_runs_there_with_the_losses_of_the_cpu(
    tiny_config: Config, tiny_data: ImageData, gpu: Counts, settings: list[str]
):
    same_losses(tiny_config.with_settings([*settings, "train.steps=2"]), tiny_data, gpu)


@pytest.mark.parametrize(
    "network",
    [
        NetworkConfig(kind="dit", dit=DiTConfig(width=16, depth=1, head_dim=8, embedding=16)),
        NetworkConfig(kind="ddpm", ddpm=DDPMConfig(widths=(8, 8), blocks=1, groups=2)),
    ],
    ids=["dit", "ddpm"],
)
def test_every_network(tiny_config: Config, tiny_data: ImageData, gpu: Counts, network: NetworkConfig):
    config = replace(tiny_config, network=network, train=replace(tiny_config.train, steps=2))
    same_losses(config, tiny_data, gpu)


def same_losses(config: Config, tiny_data: ImageData, gpu: Counts) -> None:
    losses: list[list[float]] = []
    for device in ("cpu", "cuda"):
        model = mv.create(config, tiny_data).to(device)
        losses.append([])
        for step in mv.fit(model, tiny_data, config.train):
            losses[-1].append(step.loss)
            if device == "cuda" and step.index == 2 and config.schedule.kind != "learned":
                assert gpu.synchronisations <= 1
                assert gpu.copies <= 8 * config.train.accumulate
            gpu.clear()
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_default_step_and_evaluation_launch_few_operations(gpu: Counts):
    data = mv.load_data("digits").train
    config = Config().with_settings(["train.steps=2", "train.batch=32", "train.precision=float32"])
    model = mv.create(config, data).to("cuda")
    for _ in mv.fit(model, data, config.train):
        asked = (gpu.operations, gpu.copies, gpu.synchronisations)
        gpu.clear()
    assert asked <= (700, 6, 1), asked
    assert asked[1] <= 6
    assert asked[2] <= 1
    mv.sample(model, 4, steps=2, sampler="dpmpp2m")
    gpu.clear()
    mv.sample(model, 4, steps=4, sampler="dpmpp2m")
    assert gpu.operations / 4 <= 250
    assert gpu.copies <= 2  # the noise and the label that stands for none


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws_there_what_it_draws_on_the_cpu(
    tiny_config: Config, tiny_data: ImageData, gpu: Counts, sampler: str
):
    model = mv.create(tiny_config, tiny_data)
    expected = mv.sample(model, 3, steps=4, sampler=sampler)
    found = mv.sample(model.to("cuda"), 3, steps=4, sampler=sampler)
    assert np.abs(expected.astype(int) - found).max() <= 1


@pytest.mark.parametrize("reverse", ["step", "posterior", "isotropic", "diagonal", "learned", *slow("full")])
def test_every_variance_samples_and_is_measured_there(
    tiny_config: Config, tiny_data: ImageData, gpu: Counts, reverse: str
):
    model = model_of(tiny_config, tiny_data, f"target.reverse={reverse}", "schedule.num_levels=3")
    if reverse in ("isotropic", "diagonal"):
        model = mv.with_reverse(model, reverse, tiny_data.images, tiny_data.labels)
    mv.sample(model, 2, sampler="ancestral")
    assert np.isfinite(mv.measure(model, tiny_data.images[:3], tiny_data.labels[:3], draws=2).bits_per_dim.value)


@pytest.mark.parametrize("spacing", ["karras", *slow("optimal", "tuned")])
def test_every_spacing_and_guidance(
    tiny_config: Config, tiny_data: ImageData, gpu: Counts, spacing: str, monkeypatch, tmp_path
):
    monkeypatch.setenv("MARKOVAE_CACHE", str(tmp_path))
    model = model_of(tiny_config, tiny_data)
    drawn = mv.sample(model, 3, steps=3, spacing=spacing, labels=[0, 1, 0], guidance=2.0, threshold="dynamic")
    assert drawn.shape == (3, 1, 4, 4)


MEASURES = {
    "stratified, replicates": {"replicates": 2},
    "full": {"draws": "all"},
    "importance": {"estimator": "importance", "fit": True},
    "optimal": {"levels": 5, "grid": "optimal", "fit": True},
    "isotropic": {"variance": "isotropic", "fit": True},
    "diagonal": {"variance": "diagonal", "fit": True},
}


@pytest.mark.parametrize("how", MEASURES.values(), ids=MEASURES)
def test_every_estimator_measures_there_what_it_does_on_the_cpu(
    tiny_config: Config, tiny_data: ImageData, gpu: Counts, how: dict
):
    how = {**how, **({"fit": tiny_data.images[8:], "fit_labels": tiny_data.labels[8:]} if "fit" in how else {})}
    model = mv.create(tiny_config.with_settings(["schedule.num_levels=10"]), tiny_data)
    images, labels = tiny_data.images[:3], tiny_data.labels[:3]
    expected, found = (mv.measure(model.to(device), images, labels, **how) for device in ("cpu", "cuda"))
    assert found.bits_per_dim.value == pytest.approx(expected.bits_per_dim.value, rel=1e-5)


def test_other_likelihoods_and_comparisons(tiny_config: Config, tiny_data: ImageData, gpu: Counts):
    model, other = (model_of(tiny_config, tiny_data, f"train.seed={seed}") for seed in (0, 1))
    images, labels = tiny_data.images[:2], tiny_data.labels[:2]
    assert np.isfinite(mv.compare(model, other, images, labels, draws=2).difference_nats.value)
    assert np.isfinite(mv.continuous_bound(model, images, labels, draws=2).bits_per_dim.value)
    assert np.isfinite(mv.ode_likelihood(model, images, labels, integrator=1, probes=1).bits_per_dim.value)
    few = model.on_grid(model.schedule.subgrid(2))
    assert few.bound(images, condition=mv.Condition(label=torch.tensor(labels)).to("cuda")).levels.isfinite().all()


def test_images_survive_the_codec(tiny_config: Config, tiny_data: ImageData, gpu: Counts):
    model = model_of(tiny_config, tiny_data)
    images, labels = tiny_data.images[:2], tiny_data.labels[:2]
    file = mv.compress(model, images, labels, levels=4, fit=tiny_data.images)
    assert (mv.decompress(model, file) == images).all()


def test_every_edit(tiny_config: Config, tiny_data: ImageData, gpu: Counts):
    model = model_of(tiny_config, tiny_data)
    editor = Editor(model, plan(model, "dpmpp2m", 4))
    x = editor.model.pixels.to_x(torch.tensor(tiny_data.images[:2].astype(np.int32)), torch.float32)
    known = torch.zeros(1, 4, 4, dtype=torch.bool)
    known[..., :2] = True
    for made in (
        editor.inpaint(x, known),
        editor.repaint(x, known, resampling=2),
        editor.restore(Observation(Blur(4, 4, 1.0), x, 0.1)),
        editor.vary(x, 0.5),
        editor.interpolate(x[0], x[1], 3, 0.5),
        editor.decode(editor.encode(x)),
    ):
        assert isinstance(made, OnGPU)
        assert made.isfinite().all()


def test_quality_is_evaluated_there(tiny_config: Config, gpu: Counts):
    parts = [ImageData(LARGE[at : at + 8]) for at in (0, 8, 16)]
    model = model_of(tiny_config, parts[0])
    assert np.isfinite(mv.evaluate(model, Splits(*parts, "order"), 6, steps=2, progress=False).kid.value)


@pytest.mark.parametrize("radius", [1, 2, 6])
def test_the_smoothed_difference_of_a_gpu_is_that_of_the_cpu(gpu: Counts, radius: int):
    draws = torch.Generator().manual_seed(0)
    z, noise = torch.randn(2, 3, 5, 4, generator=draws), torch.tensor([0.3, 1e-3])[:, None, None, None]
    expected = smoothed_difference(z, noise, radius)
    found = smoothed_difference(z.to("cuda"), noise.to("cuda"), radius)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other.cpu(), one, atol=1e-5, rtol=1e-4)
