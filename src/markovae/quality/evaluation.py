"""From a model and its data to a record of its quality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from markovae.data.images import ImageData
from markovae.data.split import Splits
from markovae.diffusion.markovian_vae import evaluating
from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.log import track_inside
from markovae.networks.conditioning import Conditioning
from markovae.quality.convolutions import RESIZE
from markovae.quality.distances import NEIGHBOURS, frechet_distance, kid, kid_difference, precision_recall
from markovae.quality.extractors import DEFAULT_EXTRACTOR, Extractor, open_extractor
from markovae.quality.features import cached_features, features
from markovae.quality.memorization import Images, memorisation
from markovae.quality.quality_record import Conditions, Quality
from markovae.quality.reference_set import ReferenceSet, choose_reference
from markovae.sampling.conditions import condition_for, num_classes
from markovae.sampling.generation import batch_trajectories, final_images
from markovae.sampling.guidance import Guidance
from markovae.sampling.plans import DEFAULT_SAMPLER, Plan, default_spacing, plan
from markovae.text.conditioner import attach_conditioning


@dataclass(frozen=True)
class SampleSettings:
    """How samples are drawn, and what a record says of it.

    Args:
        plan: sampler and grid.   guidance: how x̂ is pushed.   seed: sample i depends on it and on i.
        batch: images at a time.   facts: sampler, spacing, threshold, guidance, guidance_interval, autoguide.
    """

    plan: Plan
    guidance: Guidance
    seed: int
    batch: int
    facts: Mapping[str, Any]


def evaluate(
    model: Diffusion,
    data: Splits,
    n: int | None = None,
    *,
    sampler: str = DEFAULT_SAMPLER,
    steps: int | None = None,
    seed: int = 0,
    guidance: float = 1.0,
    extractor: Extractor | str = DEFAULT_EXTRACTOR,
    against: ImageData | None = None,
) -> Quality:
    """Draw n samples of a model and measure how far they lie from real images, beside the floor at the same n.

    A model with classes draws those of n training images, so that samples and data have them in equal shares.

    Args:
        data: the parts the model was trained with (`load_data`).   n: None is 1,000, or fewer where fewer images train.
        sampler, steps, seed, guidance: as `sample` takes them.
        extractor: small (built in), lite0, or one that was opened.
        against: a reference of its own; None is the test and validation part of the data.
    Raises:
        UserError: for data of another kind than the model's, n that is too small or too large, or an unknown name.
    """
    facts = {
        "sampler": sampler,
        "spacing": default_spacing(sampler),
        "threshold": None,
        "guidance": guidance,
        "guidance_interval": None,
        "autoguide": None,
    }
    draw = SampleSettings(plan(model, sampler, steps), Guidance(guidance), seed, 64, facts)
    chosen, real = _opened(extractor), reference_for(model, data, n, against)
    return compute_metrics(draw_samples(model, real, draw), real, chosen, conditions_of(real, chosen, draw, model))


def assess_images(
    images: Images,
    data: Splits,
    extractor: Extractor | str = DEFAULT_EXTRACTOR,
    against: ImageData | None = None,
) -> Quality:
    """The same for images that are there already, whoever drew them.

    Args:
        images: digits, (n, C, H, W), of the data's shape and bins.
    Raises:
        UserError: as `evaluate`.
    """
    if images.ndim != 4 or images.shape[1:] != data.train.shape:
        raise UserError(f"images of {images.shape} do not compare with {data.train.shape}: bring (n, C, H, W)")
    real, chosen = choose_reference(data, len(images), against), _opened(extractor)
    return compute_metrics(images, real, chosen, conditions_of(real, chosen))


def reference_for(
    model: Diffusion, data: Splits, n: int | None = None, against: ImageData | None = None
) -> ReferenceSet:
    """The real images for n samples of this model.

    Raises:
        UserError: for images of another kind than the model's, and as `choose_reference`.
    """
    if model.shape != data.train.shape or model.pixels.bins != data.train.bins:
        raise UserError(
            f"the model makes images of {model.shape} with {model.pixels.bins} grey values and {data.train.name} has "
            f"{data.train.shape} with {data.train.bins}: bring data of its kind"
        )
    if model.text_conditioner is not None:
        data = replace(data, train=attach_conditioning(model, data.train))
    real = choose_reference(data, n, against)
    classes = num_classes(model)
    if classes and real.labels is not None and len(data.train.class_names) != classes:
        raise UserError(f"the model has {classes} classes and {data.train.name} {len(data.train.class_names)}")
    return real


def conditions_of(
    real: ReferenceSet, extractor: Extractor, draw: SampleSettings | None = None, model: Diffusion | None = None
) -> Conditions:
    """The conditions of a figure, known before it is measured; without a draw the images were given."""
    facts = dict.fromkeys(("sampler", "spacing", "threshold", "guidance", "guidance_interval", "autoguide"))
    if draw is not None:
        facts = {name: draw.facts[name] for name in facts}
    return Conditions(
        n=real.n,
        steps=draw.plan.nfe if draw else None,
        seed=draw.seed if draw else None,
        precision=str(model.precision).removeprefix("torch.") if model else None,
        extractor=extractor.name,
        extractor_sha256=extractor.digest,
        resize=RESIZE,
        reference_n=len(real.reference),
        reference_sha256=real.digest,
        k=NEIGHBOURS,
        **facts,
    )


def draw_samples(model: Diffusion, real: ReferenceSet, draw: SampleSettings) -> Images:
    """As many samples as there are stand-ins, of their captions or classes (each in turn without any), (n, C, H, W)."""
    condition: Conditioning | None = None
    if isinstance(real.labels, Conditioning):
        condition = real.labels
    elif classes := num_classes(model):
        labels = torch.arange(real.n) % classes if real.labels is None else torch.as_tensor(real.labels)
        condition = condition_for(model, labels)
    trajectories = batch_trajectories(
        model,
        real.n,
        draw.plan,
        seed=draw.seed,
        batch=draw.batch,
        condition=condition,
        guidance=draw.guidance,
    )
    with evaluating(model):
        total = -(-real.n // draw.batch) * len(draw.plan.grid)
        return final_images(model, track_inside(trajectories, "sampling, step by step", total))


def compute_metrics(samples: Images, real: ReferenceSet, extractor: Extractor, conditions: Conditions) -> Quality:
    """Every figure of n samples against these real images."""
    reference = cached_features(extractor, real.reference, real.bins, "features of the reference")
    floor_samples = cached_features(extractor, real.floor_samples, real.bins, "features of training images")
    ours = features(extractor, np.asarray(samples), real.bins, "features of the samples")
    equal = min(len(ours), len(reference))
    return Quality(
        conditions=conditions,
        kid=kid(ours, reference),
        kid_floor=kid(floor_samples, reference),
        kid_excess=kid_difference(ours, floor_samples, reference),
        frechet=frechet_distance(ours, reference),
        frechet_floor=frechet_distance(floor_samples, reference),
        manifold=precision_recall(ours[:equal], reference[:equal]),
        manifold_floor=precision_recall(floor_samples[:equal], reference[:equal]),
        manifold_n=equal,
        memory=memorisation(samples, real.heldout, real.training, real.bins),
        dims=extractor.dims,
    )


def _opened(extractor: Extractor | str) -> Extractor:
    return open_extractor(extractor) if isinstance(extractor, str) else extractor
