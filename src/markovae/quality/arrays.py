"""Features as the statistics take them: finite float64 matrices of one width."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, np.dtype[Any]] | Tensor


def as_features(features: Array, name: str, fewest: int) -> Tensor:
    """The features as a float64 matrix on the CPU, (n, d).

    Args:
        fewest: rows that the statistic needs.
    Raises:
        ValueError: for another shape, fewer rows, or entries that are not finite.
    """
    found = torch.as_tensor(features).detach().to("cpu", torch.float64)
    if found.ndim != 2 or not found.shape[1]:
        raise ValueError(f"{name} of shape {tuple(found.shape)} must be features, (n, d)")
    if len(found) < fewest:
        raise ValueError(f"{name} has {len(found)} rows and at least {fewest} are needed")
    if not torch.isfinite(found).all():
        raise ValueError(
            f"{name} has features that are not finite: the extractor overflowed, or the images are damaged"
        )
    return found


def same_width(first: Tensor, second: Tensor) -> None:
    """Refuse features of different extractors.

    Raises:
        ValueError: naming both widths.
    """
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"features of width {first.shape[1]} and {second.shape[1]} come from different extractors")
