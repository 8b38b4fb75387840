"""Fitting a reverse variance to training images: one pass, then frozen.

The errors E(x − x̂)² belong to a log-SNR and not to a step, so one fit serves the whole grid and every sub-grid of it:
`model.on_grid(model.schedule.only(levels))` has the variances of its own, longer steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from markovae.diffusion.cascade import Cascade, Model, stages_of
from markovae.diffusion.fitted_variance import KNOTS, is_fitted_kind, variance_named
from markovae.diffusion.model import Diffusion
from markovae.diffusion.reverse import (
    DiagonalVariance,
    IsotropicVariance,
    PosteriorVariance,
)
from markovae.errors import UserError
from markovae.likelihood.inputs import Array, Labels, checked_images, checked_labels
from markovae.likelihood.statistics import LevelStatistics, collect_level_statistics
from markovae.networks.conditioning import RefiningConditioning
from markovae.randomness import Streams


def with_reverse(
    model: Model,
    kind: str,
    images: Array | None = None,
    labels: Labels | None = None,
    *,
    seed: int = 0,
    batch: int = 64,
) -> Model:
    """The same network with another reverse variance, fitted in one pass over images where it is one to fit.

    Of a cascade each stage has its own.

        better = mv.with_reverse(model, "isotropic", images, labels)
        mv.measure(better, data.test.images, levels=4)

    Args:
        kind: step, posterior, isotropic, diagonal, full, or learned where the network has a head for it.
        images, labels: pixel values to fit on, for isotropic and diagonal: training images, never those to be measured.
        seed: of the draws of the fit.
        batch: of its network calls.
    Raises:
        UserError: for images that are missing or not asked for, an unknown kind, or a full one of large images.
    """
    stages = [stage.with_reverse(variance_named(kind, stage.shape)) for stage in stages_of(model)]
    if isinstance(model, Cascade) and any(stage.reverse.needs_jacobian for stage in stages):
        raise UserError(f"the {kind} reverse variance is for models of one stage: take isotropic or diagonal")
    made = model.with_stages(stages) if isinstance(model, Cascade) else stages[0]
    if is_fitted_kind(made) != (images is not None):
        need = (
            "is fitted to images: give training images" if images is None else "is not fitted to images: leave them out"
        )
        raise UserError(f"the {kind} reverse variance {need}")
    if images is not None:
        fit_stages(made, images, labels, seed=seed, batch=batch)
    return made


@torch.no_grad()
def fit_reverse(
    model: Diffusion,
    images: Array,
    labels: Labels | None = None,
    *,
    knots: int = KNOTS,
    seed: int = 0,
    batch: int = 64,
) -> LevelStatistics:
    """Fit the model's isotropic or diagonal variance in place, in one pass; the table serves every sub-grid.

    Args:
        images, labels, seed, batch: as for `with_reverse`.
        knots: levels whose errors are averaged.
    Raises:
        UserError: for a model whose variance has nothing to fit, or images that do not fit the model.
    """
    variance = model.reverse
    if not isinstance(variance, IsotropicVariance | DiagonalVariance):
        raise UserError("this model's reverse variance is not fitted to images: choose isotropic or diagonal")
    options: dict[str, Any] = {"knots": knots, "seed": seed, "batch": batch}
    found = collect_level_statistics(model, images, labels, reverse=PosteriorVariance(), **options)
    ends = model.schedule.logsnr[1], model.schedule.logsnr[-1]
    share = torch.linspace(0, 1, len(variance.errors.logsnr), dtype=torch.float64)
    grid = ends[0] + share * (ends[1] - ends[0])
    variance.errors.fit(grid, found.errors_at(grid, isinstance(variance, DiagonalVariance)))
    return found


def fit_stages(
    model: Model, images: Array, labels: Labels | None = None, *, knots: int = KNOTS, seed: int = 0, batch: int = 64
) -> list[LevelStatistics]:
    """`fit_reverse` of every stage of a cascade, the base first; of the model itself, where it has one stage."""
    how: dict[str, Any] = {"knots": knots, "seed": seed, "batch": batch}
    return [fit_reverse(*stage, **how) for stage in stage_examples(model, images, labels, seed)]


def stage_examples(
    model: Model, images: Array, labels: Labels | None, seed: int
) -> Iterator[tuple[Diffusion, Array, Labels | None]]:
    """(stage, its data, what it is given) of images in full size; the model itself, where it has one stage.

    A detail stage is given the coarse images at λ_1, with noise of their own, keyed by the seed and the place.
    """
    if isinstance(model, Diffusion):
        yield model, images, labels
        return
    images = checked_images(model, images)
    known = checked_labels(labels, len(images))
    for b in range(model.octaves + 1):
        pairs = []
        for part in images.split(CHUNK):
            mean = model.means(model.pixels.to_x(part, torch.float32), b)
            pairs.append(model.stage_data(mean, b) if b else (mean, mean[:, :0]))
        data, coarse = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        if not b:
            yield model.base, data, known
            continue
        noise = Streams(seed, "coarse", range(len(coarse)), b).normal(coarse.shape[1:], coarse.dtype)
        planes = model.refining(None, coarse, model.coarse_logsnr(b), noise).coarse
        assert planes is not None, "refining gives them"
        yield model.stage(b), data, RefiningConditioning(planes, known)


CHUNK = 64  # images in full size that are held in floating point at a time
