"""Fréchet distance between the Gaussians fitted to two sets of features, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from markovae.quality.arrays import Array, as_features, same_width


def frechet_distance(samples: Array, reference: Array) -> float:
    r"""Squared 2-Wasserstein distance between the two fitted Gaussians.

        ‖μ_x − μ_y‖² + tr Σ_x + tr Σ_y − 2 tr (Σ_x^½ Σ_y Σ_x^½)^½

    Covariances have the denominator n − 1. The figure is biased upwards, roughly as 1/n, and far more where n is
    not well above d: it can be compared at equal n only, and read beside its floor only.

    Args:
        samples, reference: features, (m, d) and (n, d), at least 2 rows each.
    Raises:
        ValueError: for features that are no matrices of one width, too few, or not finite.
    Source: Dowson and Landau 1982; used on features by Heusel et al. 2017.
    """
    x, y = as_features(samples, "samples", 2), as_features(reference, "reference", 2)
    same_width(x, y)
    return gaussian_distance(x.mean(0), covariance(x), y.mean(0), covariance(y))


def gaussian_distance(mean_x: Tensor, cov_x: Tensor, mean_y: Tensor, cov_y: Tensor) -> float:
    r"""The distance between N(mean_x, cov_x) and N(mean_y, cov_y).

    Σ_x^½ Σ_y Σ_x^½ is symmetric, so two symmetric eigen-decompositions suffice, and nothing complex or iterative
    arises where a covariance is singular.

    Args:
        mean_x, mean_y: (d,).   cov_x, cov_y: symmetric, positive semi-definite, (d, d), float64.
    """
    half = root(cov_x)
    product = half @ cov_y @ half
    cross = float(torch.linalg.eigvalsh((product + product.T) / 2).clamp_min(0).sqrt().sum())
    return float(((mean_x - mean_y) ** 2).sum() + cov_x.trace() + cov_y.trace()) - 2 * cross


def root(covariance: Tensor) -> Tensor:
    """The symmetric square root by eigen-decomposition; eigenvalues that rounding left below 0 are 0."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp_min(0).sqrt() @ vectors.T


def covariance(features: Tensor) -> Tensor:
    """(x − x̄)ᵀ(x − x̄)/(n − 1), (d, d)."""
    centred = features - features.mean(0)
    return centred.T @ centred / (len(features) - 1)
