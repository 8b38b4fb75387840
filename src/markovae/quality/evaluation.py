"""From a model and its data to a record of its quality."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from markovae.data.conversion import as_samples
from markovae.data.data_config import DataConfig
from markovae.data.images import ImageData, count_uncaptioned
from markovae.data.loading import load_data, read_source, require_readable
from markovae.data.source import log_left_out
from markovae.data.split import Splits
from markovae.diffusion.cascade import Cascade, Model
from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.log import log
from markovae.networks.conditioning import Condition, Conditioning
from markovae.quality.convolutions import RESIZE
from markovae.quality.distances import NEIGHBOURS, frechet_distance, kid, kid_difference, precision_recall
from markovae.quality.extractor_domain import check_extractor, suitable_extractor
from markovae.quality.extractors import AUTO, Extractor, open_extractor
from markovae.quality.features import cached_features, features
from markovae.quality.memorization import Images, measure_memorization
from markovae.quality.quality_record import Conditions, Quality, check_conditions
from markovae.quality.reference_set import ReferenceSet, choose_reference, chosen_rows
from markovae.sampling.conditions import num_classes
from markovae.sampling.generation import sample
from markovae.sampling.guidance import Guidance, make_guidance
from markovae.sampling.plans import Plan, plan
from markovae.sampling.sampler_table import DEFAULT_SAMPLER
from markovae.text.conditioner import attach_conditioning


def evaluate(
    model_or_samples: Diffusion | Cascade | ImageData | Images | Tensor | str | Path,
    data: Splits | DataConfig | str | Path,
    n: int | None = None,
    *,
    sampler: str | Plan = DEFAULT_SAMPLER,
    steps: int | None = None,
    spacing: str | None = None,
    guidance: float | Guidance | None = None,
    seed: int = 0,
    batch: int = 64,
    extractor: Extractor | str = AUTO,
    against: ImageData | None = None,
    drawn_by: Mapping[str, Any] | None = None,
    comparable_to: Mapping[str, Any] | None = None,
    varying: Collection[str] = (),
    progress: bool = True,
) -> Quality:
    """Measure how far samples lie from real images, beside the floor at the same n.

    Of a model n samples are drawn; one with classes draws those of n training images, so that samples and data have
    them in equal shares. Samples that are there already may be anybody's.

        mv.evaluate(model, "photos/", sampler="dpmpp2m", steps=10).kid
        mv.evaluate("others/samples.npz", "photos/").kid

    Args:
        model_or_samples: a model; or samples: pixel values, (n, C, H, W), a folder of images, or a file of them.
        data: the parts the model was trained with (`load_data`), or their source, brought to the samples' shape.
        n: samples. None is 1,000, or all samples that are given; or fewer where fewer images train.
        sampler, steps, spacing, guidance, seed, batch: as `sample` takes them.
        extractor: small (built in), lite0, or one that was opened (`open_extractor`); auto follows the images:
            lite0 for photographs where it is installed, else small.
        against: a reference of its own; None is the test and validation part of the data.
        drawn_by: what the record says of a plan and its guidance: sampler, spacing, threshold, guidance,
            guidance_interval, autoguide.
        comparable_to: an earlier record, which is compared with only where no condition differs but those in `varying`.
        progress: whether to show progress on stderr.
    Raises:
        UserError: for data of another kind than the samples', n that is too small or too large, an unknown name, or
            conditions that differ from those of `comparable_to`; before anything is drawn.
    """
    files: Sequence[str] | None = None
    if isinstance(model_or_samples, Diffusion | Cascade):
        model = model_or_samples
        real = reference_for(model, _shaped_like(data, model.shape), n, against)
        push = make_guidance(model, guidance, classes=num_classes(model) > 0)
        chosen = sampler if isinstance(sampler, Plan) else plan(model, sampler, steps, spacing)
        if drawn_by is None:
            names = (None, spacing) if isinstance(sampler, Plan) else (chosen.sampler, chosen.spacing)
            drawn_by = {"sampler": names[0], "spacing": names[1], "guidance": push.weight}
        drawn_by = {**drawn_by, "steps": chosen.nfe, "seed": seed, "precision": str(model.precision)[len("torch.") :]}
    else:
        given = given_samples(model_or_samples) if isinstance(model_or_samples, str | Path) else model_or_samples
        if isinstance(given, ImageData):
            files = given.files
        samples = (np.asarray(given.images) if isinstance(given, ImageData) else as_samples(given))[:n]
        splits = _shaped_like(data, samples.shape[1:])
        _require_same_kind(samples, splits.train)
        if n is None and len(samples) > len(splits.train):
            rows = np.sort(chosen_rows(len(samples), len(splits.train), "samples"))
            log(
                f"{len(rows):,} of the {len(samples):,} samples are measured, chosen at random: the floor takes as "
                "many training images"
            )
            files = [files[row] if files else f"sample {row}" for row in rows.tolist()]
            samples = samples[rows]
        real, drawn_by = choose_reference(splits, len(samples), against), {}
    if extractor == AUTO:
        extractor = suitable_extractor(real.training.images, real.bins)
    opened = open_extractor(extractor) if isinstance(extractor, str) else extractor
    conditions = conditions_of(real, opened, drawn_by)
    if comparable_to is not None:
        check_conditions(asdict(conditions), comparable_to["conditions"], varying)
    if isinstance(model_or_samples, Diffusion | Cascade):
        known: Conditioning | np.ndarray | None = real.labels
        if isinstance(known, np.ndarray):
            known = Condition(label=torch.as_tensor(known)) if num_classes(model) else None
        drawing: dict[str, Any] = {"seed": seed, "batch": batch, "progress": progress}
        samples = sample(model, real.n, sampler=chosen, condition=known, guidance=push, **drawing)
    return compute_metrics(samples, real, opened, conditions, files, progress)


GUIDANCES = (1.0, 1.5, 2.0, 3.0)


def choose_guidance(model: Diffusion, splits: Splits, n: int) -> tuple[float, dict[float, float]]:
    """The weight of guidance to classes whose samples lie nearest to images that were not trained on, by KID.

    Args:
        n: samples of each weight, all of the same noise.
    Returns: the weight, and the KID of each that was tried.
    Raises: UserError where n is too small or too large for the data.
    """
    extractor = open_extractor(suitable_extractor(splits.train.images, splits.train.bins))
    kid = partial(evaluate, model, splits, n, extractor=extractor, progress=False)
    tried = {weight: kid(guidance=weight).kid.value for weight in GUIDANCES}
    return min(tried, key=tried.__getitem__), tried


def given_samples(source: str | Path) -> ImageData:
    """Samples of any maker, with the names of their files.

    Args:
        source: a folder of images of one size, of which `samples.npz` is taken where it holds one; or an array file.
    Raises:
        UserError: for a source that cannot be read, or holds images of several sizes.
    """
    path = Path(source)
    config = DataConfig(str(path / "samples.npz" if (path / "samples.npz").is_file() else path))
    reading = read_source(config)
    require_readable(reading, config)
    stored = [tuple(map(int, size.split("x"))) for size in reading.summary.sizes]
    if len(stored) > 1:
        raise UserError(f"{path} holds images of {len(stored)} sizes: evaluate samples of one size, as they were drawn")
    if stored and stored[0] != reading.data.shape[:0:-1]:  # a folder's images are not resized here
        reading = read_source(replace(config, width=stored[0][0], size=stored[0][1]))
    log_left_out(str(path), reading.summary.unreadable)
    return reading.data


def _shaped_like(data: Splits | DataConfig | str | Path, shape: Sequence[int]) -> Splits:
    """The parts of the data; a source is brought to images of this shape, (C, H, W)."""
    if isinstance(data, Splits):
        return data
    config = data if isinstance(data, DataConfig) else DataConfig().for_images_like(shape, str(data))
    return load_data(config)


def _require_same_kind(samples: Images, training: ImageData) -> None:
    if samples.ndim != 4 or samples.shape[1:] != training.shape:
        raise UserError(f"images of {samples.shape} do not compare with {training.shape}: bring (n, C, H, W)")
    if samples.dtype.kind not in "ui" or int(samples.max(initial=0)) >= training.bins:
        raise UserError(
            f"samples of {samples.dtype} up to {samples.max(initial=0):g} must be whole pixel values below "
            f"{training.bins}, as {training.name} has them"
        )


def reference_for(model: Model, data: Splits, n: int | None = None, against: ImageData | None = None) -> ReferenceSet:
    """The real images for n samples of this model.

    Raises:
        UserError: for images of another kind than the model's, and as `choose_reference`.
    """
    if model.shape != data.train.shape or model.pixels.bins != data.train.bins:
        raise UserError(
            f"{data.train.name} has images of {data.train.shape} with {data.train.bins} values per pixel, but the "
            f"model makes {model.shape} with {model.pixels.bins}: use data like the model's training data"
        )
    if model.text_conditioner is not None or model.columns is not None:
        bare = model.text_conditioner is not None and count_uncaptioned(data.train) == len(data.train)
        if bare and model.null_trained:
            log(f"{data.train.name} has no captions: samples are drawn without any")
        data = replace(data, train=attach_conditioning(model, data.train, held_out=bare and model.null_trained))
    real = choose_reference(data, n, against)
    classes = num_classes(model)
    if classes and real.labels is not None and len(data.train.class_names) != classes:
        raise UserError(f"the model has {classes} classes and {data.train.name} {len(data.train.class_names)}")
    return real


def conditions_of(real: ReferenceSet, extractor: Extractor, drawn_by: Mapping[str, Any]) -> Conditions:
    """The conditions of a figure, known before it is measured; what `drawn_by` leaves out is None."""
    how = (
        "sampler",
        "steps",
        "spacing",
        "threshold",
        "guidance",
        "guidance_interval",
        "autoguide",
        "seed",
        "precision",
    )
    return Conditions(
        n=real.n,
        extractor=extractor.name,
        extractor_sha256=extractor.digest,
        resize=RESIZE,
        reference_n=len(real.reference),
        reference_sha256=real.digest,
        k=NEIGHBOURS,
        **{name: drawn_by.get(name) for name in how},
    )


def compute_metrics(
    samples: Images,
    real: ReferenceSet,
    extractor: Extractor,
    conditions: Conditions,
    files: Sequence[str] | None = None,
    progress: bool = False,
) -> Quality:
    """Every figure of n samples against these real images; `files` are the names of the samples'."""

    def label(what: str) -> str | None:
        return f"features of {what}" if progress else None

    reference = cached_features(extractor, real.reference, real.bins, label("the reference"))
    floor_samples = cached_features(extractor, real.floor_samples, real.bins, label("training images"))
    ours = features(extractor, np.asarray(samples), real.bins, label("the samples"))
    equal = min(len(ours), len(reference))
    return Quality(
        conditions=conditions,
        kid=kid(ours, reference),
        kid_floor=kid(floor_samples, reference),
        kid_excess=kid_difference(ours, floor_samples, reference),
        frechet=frechet_distance(ours, reference),
        frechet_floor=frechet_distance(floor_samples, reference),
        precision_recall=precision_recall(ours[:equal], reference[:equal]),
        precision_recall_floor=precision_recall(floor_samples[:equal], reference[:equal]),
        precision_recall_n=equal,
        check=check_extractor(extractor, real, floor_samples, reference),
        memorization=measure_memorization(
            samples, real.heldout, real.training.images, real.bins, files, real.training.files
        ),
        dims=extractor.dims,
    )
