"""Noisy means along the log-SNR made a smooth curve."""

from __future__ import annotations

import torch
from torch import Tensor


def smoothed(logsnr: Tensor, error: Tensor, count: Tensor, width: float) -> Tensor:
    """Errors smoothed along log-SNR: at each a parabola in ln error, fitted under a Gaussian window, (K, *D).

    Where the log-SNRs lie further apart than the window, an error stays what it is.

    Args:
        logsnr: (K,).   error: (K, *D), ≥ 0.   count: draws behind each, (K,).   width: of the window, > 0.
    Source: Fan & Gijbels 1996, section 3.2 (local polynomial regression).
    """
    offset = (logsnr - logsnr[:, None]).double() / width
    powers = torch.stack([offset**0, offset, offset**2], 2)
    weighted = powers * (torch.exp(-0.5 * offset**2) * count)[..., None]
    # The error itself holds the fit where the window holds no neighbour.
    normal = weighted.mT @ powers + 1e-9 * count.double()[:, None, None] * torch.eye(3, dtype=torch.float64)
    # An error of 0 (a pixel that never changes) has no logarithm; this is 0 beside any variance.
    values = error.reshape(len(error), -1).clamp(min=1e-30).log()
    fitted = torch.linalg.solve(normal, weighted.mT @ values)[:, 0]
    return fitted.exp().reshape(error.shape)
