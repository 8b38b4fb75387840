"""∂x̂/∂z column by column, by forward-mode Jacobian-vector products; for problems of few dimensions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MAX_DIMS = 1024


def jacobian(function: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    """(out, ∂out/∂z) of a function that treats the examples of a batch apart: (B, *D) and (B, d, d).

    Costs d evaluations of the function and its tangent.
    Raises:
        ValueError: for d above MAX_DIMS (1024).
    """
    dims = z[0].numel()
    if dims > MAX_DIMS:
        raise ValueError(f"a full Jacobian of {dims} dimensions costs {dims} network calls: {MAX_DIMS} is the limit")
    columns, out = [], z
    for i in range(dims):
        direction = torch.zeros_like(z).flatten(1)
        direction[:, i] = 1
        out, column = torch.func.jvp(function, (z,), (direction.reshape(z.shape),))[:2]
        columns.append(column.flatten(1))
    return out, torch.stack(columns, -1)
