"""The reverse variances by name, and the tables that images fill in those that are fitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from markovae.diffusion.cascade import Model, stages_of
from markovae.diffusion.derivatives import MAX_DIMS
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

KNOTS = 65  # log-SNRs of a table of errors

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


def is_fitted_kind(model: Model) -> bool:
    """Whether the model's reverse variance is one that images fit; a cascade's stages are of one kind."""
    return isinstance(model.reverse, IsotropicVariance | DiagonalVariance)


def fitted_tensors(model: Model) -> dict[str, Tensor]:
    """The tables of the model's fitted variance, by name; none where there is nothing to fit, or no fit yet."""
    for stage in stages_of(model):
        if not isinstance(stage.reverse, IsotropicVariance | DiagonalVariance) or not stage.reverse.errors.fitted:
            return {}
    return fitted_buffers(model)


def fitted_buffers(model: Model) -> dict[str, Tensor]:
    """The tables that a fit fills, by name, filled or not."""
    return {name: value for name, value in model.named_buffers() if "reverse" in name.split(".")}


@torch.no_grad()
def load_fitted(model: Model, tensors: Mapping[str, Tensor]) -> None:
    """Take tables that `fitted_tensors` gave; no tables at all leave the variance unfitted.

    Raises:
        ValueError: for tables that are not those of this model's variance.
    """
    if not tensors:
        for stage in stages_of(model):
            if isinstance(stage.reverse, IsotropicVariance | DiagonalVariance):
                stage.reverse.errors.forget()
        return
    own = fitted_buffers(model)
    for name in sorted(own.keys() ^ tensors.keys()):
        raise ValueError(f"table {name!r} is {'missing' if name in own else 'none of this reverse variance'}")
    for name, value in own.items():
        if tensors[name].shape != value.shape:
            raise ValueError(f"table {name!r} has shape {tuple(tensors[name].shape)}, not {tuple(value.shape)}")
    for b, stage in enumerate(stages_of(model)):
        if not isinstance(stage.reverse, IsotropicVariance | DiagonalVariance):
            raise ValueError("this reverse variance has nothing to fit")
        errors, prefix = stage.reverse.errors, "" if stage is model else f"stages.{b}."
        tables = (tensors[f"{prefix}reverse.errors.{part}"] for part in ("logsnr", "error"))
        errors.fit(*(table.to(errors.logsnr.device) for table in tables))
