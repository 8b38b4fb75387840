"""Integrals by quadrature, float64: an even grid for what decays at both ends, Gauss–Legendre on an interval."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def even_grid(start: Tensor, end: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The trapezoid rule on [start, end]: nodes and weights, each (*start.shape, count), float64.

    For an analytic integrand that has vanished at both ends the error falls as e^{−2πy/h}, h the spacing and y the
    distance from the line to the nearest singularity: a density on a grid of an eighth of its width is exact.

    Raises:
        ValueError: for fewer than 2 nodes or an empty interval.
    """
    if count < 2 or not bool((end > start).all()):
        raise ValueError(f"an even grid needs at least 2 nodes and start < end: count={count}")
    unit = torch.linspace(0, 1, count, dtype=torch.float64)
    width = (end - start).double().unsqueeze(-1)
    weights = torch.ones_like(unit)
    weights[0] = weights[-1] = 0.5
    return start.double().unsqueeze(-1) + width * unit, width / (count - 1) * weights


def gauss_legendre(start: float, end: float, count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [start, end], each (count,), float64; exact for polynomials of degree 2·count − 1.

    The nodes are the eigenvalues of the Jacobi matrix with off-diagonal n/√(4n²−1).

    Raises:
        ValueError: for count < 1.
    Source: Golub & Welsch 1969.
    """
    if count < 1:
        raise ValueError(f"count={count} must be at least 1: a rule needs a node")
    n = torch.arange(1, count, dtype=torch.float64)
    off = n / (4 * n**2 - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    half = (end - start) / 2
    return start + half * (nodes + 1), 2 * half * vectors[0] ** 2


def normal_grid(count: int = 201, reach: float = 9.5) -> tuple[Tensor, Tensor]:
    """Nodes ε and weights of an average over ε ~ N(0, 1), each (count,), float64, on |ε| ≤ reach."""
    ends = torch.tensor(reach, dtype=torch.float64)
    nodes, weights = even_grid(-ends, ends, count)
    return nodes, weights * torch.exp(-0.5 * nodes**2) / math.sqrt(2 * math.pi)


def slope(x: Tensor, y: Tensor) -> float:
    """The least-squares slope of ln y against ln x: the order at which y falls, both (N,) and positive.

    Raises:
        ValueError: for fewer than two points or a number that is not positive.
    """
    x, y = x.double(), y.double()
    if len(x) < 2 or x.shape != y.shape or not bool((x > 0).all() and (y > 0).all()):
        raise ValueError(f"a slope needs two or more pairs of positive numbers: {len(x)} and {len(y)} were given")
    lx, ly = x.log() - x.log().mean(), y.log()
    return float((lx * ly).sum() / (lx**2).sum())


def extrapolated(coarse: float, fine: float, order: int = 1) -> float:
    """The limit of a sequence with error ∝ L^{−order}, from its values at L and 2L (Richardson)."""
    factor = 2**order
    return (factor * fine - coarse) / (factor - 1)
