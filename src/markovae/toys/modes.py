r"""Covariances by their eigenvalues, so that one set of axes serves every log-SNR."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from markovae.gaussian import symmetric


@dataclass(frozen=True)
class Modes:
    """Σ_k = Q_k diag(s_k) Q_kᵀ for K components, Q_k a Kronecker product of small orthogonal matrices.

    Args:
        variance: eigenvalues s_k, positive, (K, d), float64.
        rotations: the factors of Q, each (K or 1, m, m) with eigenvectors in columns, ∏ m = d; () is the identity.
    """

    variance: Tensor
    rotations: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        smallest = float(self.variance.min())
        if not smallest > 0 or not bool(self.variance.isfinite().all()):
            raise ValueError(
                f"covariance with eigenvalue {smallest:g} is not positive definite: every eigenvalue must exceed 0"
            )
        sizes = [r.shape[-1] for r in self.rotations]
        if sizes and math.prod(sizes) != self.variance.shape[1]:
            raise ValueError(f"axes of sizes {sizes} do not make {self.variance.shape[1]} dimensions")

    @classmethod
    def of_matrices(cls, covariance: Tensor) -> Self:
        """The modes of full covariances, (K, d, d).

        Raises:
            ValueError: where one is not square, not symmetric or not positive definite.
        """
        if covariance.ndim != 3 or covariance.shape[1] != covariance.shape[2]:
            raise ValueError(f"covariances of shape {tuple(covariance.shape)} must be (K, d, d)")
        covariance = symmetric(covariance)
        variance, vectors = torch.linalg.eigh(covariance)
        # Eigenvalues within rounding of zero are noise of the factorisation, not variance.
        floor = torch.finfo(torch.float64).eps * covariance.shape[1] * variance[:, -1:].abs()
        return cls(torch.where(variance.abs() <= floor, torch.zeros_like(variance), variance), (vectors,))

    def into(self, x: Tensor) -> Tensor:
        """Qᵀ x: coordinates along the modes, (B, K or 1, d) -> (B, K, d)."""
        return self._rotate(x, transpose=True)

    def out_of(self, y: Tensor) -> Tensor:
        """Q y: back from the modes, (B, K, d) -> (B, K, d)."""
        return self._rotate(y, transpose=False)

    def matrix(self, variance: Tensor) -> Tensor:
        """Q diag(variance) Qᵀ, (B, K, d) -> (B, K, d, d)."""
        if not self.rotations:
            return torch.diag_embed(variance)
        identity = torch.eye(self.variance.shape[1], dtype=torch.float64).unsqueeze(1)
        axes = self.into(identity).permute(1, 0, 2)
        return torch.einsum("kin,bkn,kjn->bkij", axes.expand(variance.shape[1], -1, -1), variance, axes)

    def _rotate(self, x: Tensor, *, transpose: bool) -> Tensor:
        sizes = [r.shape[-1] for r in self.rotations]
        for axis, rotation in enumerate(self.rotations):
            left, right = math.prod(sizes[:axis]), math.prod(sizes[axis + 1 :])
            matrix = (rotation.mT if transpose else rotation).unsqueeze(-3)
            y = x.reshape(*x.shape[:2], left, sizes[axis], right)
            x = (matrix @ y).flatten(2)
        return x
