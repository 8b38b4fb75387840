"""The noise in a latent as linear estimators of natural images see it: fixed features for photographs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from markovae.networks.embedding import LIMIT
from markovae.system.device import Constants

# Of photographs on [−1, 1]: the variance of an orthonormal cosine coefficient at f cycles per pixel is about
# POWER/f² · exp(−f²/CUTOFF), the latter of their resampling; of the two color differences, these shares of it.
POWER, CUTOFF = 0.022, 0.1
LOWEST = 0.35  # of an image's first frequency: keeps the mean finite
SHARES = (1.0, 1 / 20, 1 / 80)
HIGHEST, RATIO = 4.0, 8.0  # powers 4, ½, 1/16, …: texture, and ever flatter areas


class Spectral(nn.Module):
    r"""Wiener estimates of the noise, (B, C, H, W) -> (B, K, C, H, W), in units of the noise; no weights.

    Photographs are far from white: most of their power is coarse, and their color differences are 20 and 80 times
    weaker than their brightness. So most of what a latent near the data holds beside noise is predicted linearly, and a
    network of few weights spends its first thousands of steps on that. Here it is given, for K powers c_k = 4/8ᵏ of the
    image around, and the network chooses between them:

        ε̂_k(f) = s z(f) / (a² c_k S(f) + s²)

    with z(f) the cosine transform (II, orthonormal, which mirrors at the borders) of brightness and color differences,
    and S the power spectrum of natural images. |ε̂_k| stays of order 1/√c_k at every log-SNR. Computed in the type of
    the latent, outside autocast: near the data ε̂ is what is left of z after most of it is canceled.

    Args:
        channels: C; three are red, green and blue.
        count: K.
    Source: Wiener 1949; for the spectrum of natural images, Field 1987.
    """

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.channels, self.count = channels, count
        self.powers = tuple(HIGHEST / RATIO**k for k in range(count))
        self._constants = Constants()

    def forward(self, z: Tensor, logsnr: Tensor) -> Tensor:
        """The estimates of latents (B, C, H, W) at log-SNRs (B,), as `to_colors` has them."""
        with torch.autocast(z.device.type, enabled=False):
            rows, columns, spectrum = self._of(z)
            level = logsnr.double().clamp(-LIMIT, LIMIT)[:, None, None, None, None]
            signal, noise = torch.sigmoid(level), torch.sigmoid(-level)
            gain = (noise.sqrt() / (signal * spectrum + noise)).to(z.dtype)
            coefficients = rows @ self.to_colors(z) @ columns.T
            return rows.T @ (coefficients[:, None] * gain) @ columns

    def to_colors(self, z: Tensor) -> Tensor:
        """Brightness and color differences, (B, C, H, W): orthonormal; other than three channels stay."""
        return z if self.channels != 3 else (self._colors(z) @ z.flatten(2)).reshape(z.shape)

    def from_colors(self, z: Tensor) -> Tensor:
        """The inverse of `to_colors`."""
        return z if self.channels != 3 else (self._colors(z).T @ z.flatten(2)).reshape(z.shape)

    def _colors(self, z: Tensor) -> Tensor:
        return self._constants.get("colors", z.device, z.dtype, make=lambda: color_basis().to(z))

    def _of(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cosine transforms of columns and of rows, in the type of z, and c_k S, (K, C, H, W), float64."""
        channels, height, width = z.shape[1:]
        get = self._constants.get

        def spectrum() -> Tensor:
            powers = torch.tensor(self.powers, dtype=torch.float64)[:, None, None, None]
            return (powers * natural_spectrum(channels, height, width)).to(z.device)

        rows = get("cosines", z.device, z.dtype, height, make=lambda: cosine_transform(height).to(z))
        columns = get("cosines", z.device, z.dtype, width, make=lambda: cosine_transform(width).to(z))
        return rows, columns, get("spectrum", z.device, height, width, make=spectrum)


def color_basis() -> Tensor:
    """Brightness and two color differences of (red, green, blue), orthonormal rows, (3, 3), float64."""
    basis = torch.tensor([[1, 1, 1], [1, 0, -1], [1, -2, 1]], dtype=torch.float64)
    return basis / basis.norm(dim=1, keepdim=True)


def cosine_transform(n: int) -> Tensor:
    """The orthonormal DCT-II of n samples, rows by frequency, (n, n), float64."""
    k = torch.arange(n, dtype=torch.float64)
    transform = torch.cos(math.pi * (k + 0.5) * k[:, None] / n) * math.sqrt(2 / n)
    transform[0] /= math.sqrt(2)
    return transform


def natural_spectrum(channels: int, height: int, width: int) -> Tensor:
    """Variance of the cosine coefficients of photographs on [−1, 1], (C, H, W), float64."""
    down, right = (torch.arange(n, dtype=torch.float64) / (2 * n) for n in (height, width))
    square = down[:, None] ** 2 + right**2
    spectrum = POWER / (square + (LOWEST / max(height, width)) ** 2) * torch.exp(-square / CUTOFF)
    shares = SHARES if channels == 3 else (1.0,) * channels
    return torch.tensor(shares, dtype=torch.float64)[:, None, None] * spectrum
