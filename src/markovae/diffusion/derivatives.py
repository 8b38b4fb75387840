"""∂x̂/∂z by vector–Jacobian products: whole for problems of few dimensions, its trace by probes for the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from markovae.diffusion.gaussian import sum_dims

MAX_DIMS = 1024


def products(function: Callable[[Tensor], Tensor], z: Tensor, probes: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """(out, [vᵀ ∂out/∂z for v in probes]) of a function that treats the examples of a batch apart.

    One evaluation and a backward pass a probe; neither result carries a gradient.

    Args:
        z: (B, *D).
        probes: each (B, *D).
    """
    with torch.enable_grad():
        at = z.detach().requires_grad_()
        out = function(at)
        if not out.requires_grad:
            return out, [torch.zeros_like(z) for _ in probes]
        rows = [
            torch.autograd.grad(out, at, v.to(out), retain_graph=True, allow_unused=True, materialize_grads=True)[0]
            for v in probes
        ]
    return out.detach(), rows


def jacobian(function: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    """(out, ∂out/∂z), (B, *D) and (B, d, d): row i is the gradient of coordinate i of `out`.

    Raises:
        ValueError: for d above MAX_DIMS (1024): it costs d backward passes.
    """
    out, rows = products(function, z, list(_basis(z)))
    return out, torch.stack([row.flatten(1) for row in rows], 1)


def traces(function: Callable[[Tensor], Tensor], z: Tensor, probes: Sequence[Tensor] | None) -> tuple[Tensor, Tensor]:
    """(out, tr ∂out/∂z): estimates vᵀJv, one for each of P probes, (P, B); exact, (1, B), where `probes` is None.

    Unbiased for probes with E vvᵀ = I.
    Raises:
        ValueError: for an exact trace in more than MAX_DIMS (1024) dimensions.
    Source: Hutchinson 1989.
    """
    directions = list(_basis(z)) if probes is None else list(probes)
    out, rows = products(function, z, directions)
    each = torch.stack([sum_dims((v * row).double()) for v, row in zip(directions, rows, strict=True)])
    return out, each.sum(0, keepdim=True) if probes is None else each


def _basis(z: Tensor) -> Sequence[Tensor]:
    dims = z[0].numel()
    if dims > MAX_DIMS:
        raise ValueError(f"a full Jacobian in {dims} dimensions costs {dims} backward passes: {MAX_DIMS} is the limit")
    unit = torch.eye(dims, dtype=z.dtype, device=z.device).reshape(dims, 1, *z.shape[1:])
    return [e.expand_as(z) for e in unit]
