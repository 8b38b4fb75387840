"""The reverse variances by name, and those that training images fit: one pass, then frozen.

The errors E(x − x̂)² belong to a log-SNR and not to a step, so one fit serves the whole grid and every sub-grid of it:
`model.on_grid(model.schedule.only(levels))` has the variances of its own, longer steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from markovae.diffusion.derivatives import MAX_DIMS
from markovae.diffusion.model import Diffusion
from markovae.diffusion.reverse import (
    DiagonalVariance,
    FullVariance,
    IsotropicVariance,
    LearnedVariance,
    PosteriorVariance,
    ReverseVariance,
    StepVariance,
)
from markovae.diffusion.target_config import REVERSES
from markovae.errors import UserError
from markovae.likelihood.inputs import Array, Labels
from markovae.likelihood.statistics import KNOTS, LevelStatistics, collect_level_statistics

REVERSE_CLASSES: dict[str, Callable[..., ReverseVariance]] = {
    "step": StepVariance,
    "posterior": PosteriorVariance,
    "isotropic": IsotropicVariance,
    "diagonal": DiagonalVariance,
    "learned": LearnedVariance,
    "full": FullVariance,
}


def variance_named(kind: str, shape: Sequence[int]) -> ReverseVariance:
    """The reverse variance of a configuration's word: step, posterior, isotropic, diagonal, learned or full.

    Args:
        shape: of one example, D.
    Raises:
        UserError: for a full covariance of more than 1024 dimensions, or another word.
    """
    if kind not in REVERSE_CLASSES:
        raise UserError(f"reverse variance {kind!r} is unknown: take one of {', '.join(REVERSES)}")
    if kind == "isotropic":
        return IsotropicVariance(KNOTS)
    if kind == "diagonal":
        return DiagonalVariance(shape, KNOTS)
    if kind != "full":
        return REVERSE_CLASSES[kind]()
    dims = torch.Size(shape).numel()
    if dims > MAX_DIMS:
        raise UserError(
            f"a full reverse covariance costs a backward pass per dimension, and these images have {dims:,}: "
            f"{MAX_DIMS:,} is the limit; take smaller images, or the diagonal or learned variance"
        )
    return FullVariance()


def is_fitted_kind(model: Diffusion) -> bool:
    """Whether the model's reverse variance is one that images fit."""
    return isinstance(model.reverse, IsotropicVariance | DiagonalVariance)


def with_reverse(
    model: Diffusion,
    kind: str,
    images: Array | None = None,
    labels: Labels | None = None,
    *,
    seed: int = 0,
    batch: int = 64,
) -> Diffusion:
    """The same network with another reverse variance, fitted in one pass over images where it is one to fit.

        better = with_reverse(model, "isotropic", data.train.images)

    Args:
        kind: step, posterior, isotropic, diagonal, full, or learned where the network has a head for it.
        images, labels: pixel values to fit on, for isotropic and diagonal: training images, never those to be measured.
        seed: of the draws of the fit.   batch: of its network calls.
    Raises:
        UserError: for images that are missing or not asked for, an unknown kind, or a full one of large images.
    """
    made = model.with_reverse(variance_named(kind, model.shape))
    if is_fitted_kind(made) != (images is not None):
        need = (
            "is fitted to images: give training images" if images is None else "is not fitted to images: leave them out"
        )
        raise UserError(f"the {kind} reverse variance {need}")
    if images is not None:
        fit_reverse(made, images, labels, seed=seed, batch=batch)
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
        images, labels, seed, batch: as for `with_reverse`.   knots: levels whose errors are averaged.
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


def fitted_tensors(model: Diffusion) -> dict[str, Tensor]:
    """The tables of the model's fitted variance, by name; none where there is nothing to fit, or no fit yet."""
    if not isinstance(model.reverse, IsotropicVariance | DiagonalVariance) or not model.reverse.errors.fitted:
        return {}
    return {name: value for name, value in model.named_buffers() if name.startswith("reverse.")}


@torch.no_grad()
def load_fitted(model: Diffusion, tensors: Mapping[str, Tensor]) -> None:
    """Take tables that `fitted_tensors` gave; no tables at all leave the variance unfitted.

    Raises:
        ValueError: for tables that are not those of this model's variance.
    """
    if not tensors:
        if isinstance(model.reverse, IsotropicVariance | DiagonalVariance):
            model.reverse.errors.forget()
        return
    own = {name: value for name, value in model.named_buffers() if name.startswith("reverse.")}
    for name in sorted(own.keys() ^ tensors.keys()):
        raise ValueError(f"table {name!r} is {'missing' if name in own else 'none of this reverse variance'}")
    for name, value in own.items():
        if tensors[name].shape != value.shape:
            raise ValueError(f"table {name!r} has shape {tuple(tensors[name].shape)}, not {tuple(value.shape)}")
    if not isinstance(model.reverse, IsotropicVariance | DiagonalVariance):
        raise ValueError("this reverse variance has nothing to fit")
    errors = model.reverse.errors
    errors.fit(*(tensors[f"reverse.errors.{part}"].to(errors.logsnr.device) for part in ("logsnr", "error")))
