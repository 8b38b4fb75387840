r"""A control variate whose sum over levels is known: a Wiener denoiser's cost at the very same latents.

x̂_W = μ + a S(a²S + s²)⁻¹(z − aμ) is the best linear denoiser of data with mean μ and covariance S. Along an axis of S
its error is (1 − a g)(x − μ) − g s ε, g = aS/(a²S + s²), so its expectation over ε, level by level, is closed-form:
    E‖x − x̂_W‖² = Σ_i [ (s²/(a²S_i + s²))² y_i² + (g_i s)² ],   y = Qᵀ(x − μ).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self, final

import torch
from torch import Tensor

from markovae.diffusion.forward import noise_scale, signal_scale


class ControlVariate(Protocol):
    """A function of image, noise and level whose sum over levels has a known mean over the noise."""

    def value(self, x: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Its value at each draw, (B,), float64, nats; x, noise (B, *D), level (B,) in 2…L."""
        ...

    def total(self, x: Tensor) -> Tensor:
        """Σ_ℓ E_ε of it for each image, (B,), float64, nats."""
        ...


@final
@dataclass(frozen=True)
class Wiener:
    """The linear denoiser of data with mean μ and covariance Q diag(S) Qᵀ + rest (I − QQᵀ).

    Args:
        mean: μ, (d,).   axes: Q, orthonormal columns, (d, k).   spectrum: S ≥ 0, (k,).
        rest: variance of every direction outside Q, ≥ 0.
    """

    mean: Tensor
    axes: Tensor
    spectrum: Tensor
    rest: float

    @classmethod
    def fit(cls, x: Tensor, components: int = 128) -> Self:
        """The first principal components of images (n, *D), and the mean variance of the rest.

        Raises:
            ValueError: for fewer than 2 images or components < 1.
        """
        if len(x) < 2 or components < 1:
            raise ValueError(f"{len(x)} images and {components} components: a covariance needs 2 images or more")
        flat = x.double().flatten(1)
        mean = flat.mean(0)
        centred = (flat - mean) / (len(flat) - 1) ** 0.5
        # The smaller of the two Gram matrices has the same nonzero spectrum.
        small = centred.T @ centred if flat.shape[1] <= len(flat) else centred @ centred.T
        values, vectors = torch.linalg.eigh(small)
        values, vectors = values.flip(0), vectors.flip(1)
        count = min(components, int((values > 1e-9 * values[0]).sum()))
        axes = vectors[:, :count] if flat.shape[1] <= len(flat) else centred.T @ vectors[:, :count]
        axes = axes / axes.norm(dim=0)
        left = flat.shape[1] - count
        rest = float(values[count:].clamp(min=0).sum()) / left if left else 0.0
        return cls(mean, axes, values[:count], rest)

    def error(self, x: Tensor, noise: Tensor, logsnr: Tensor) -> Tensor:
        """‖x − x̂_W‖² at z = a x + s ε, (B,), float64; logsnr (B,)."""
        y, y_rest = self._split(x.double().flatten(1) - self.mean)
        e, e_rest = self._split(noise.double().flatten(1))
        s = noise_scale(logsnr)[:, None]
        inside = self._keep(self.spectrum, logsnr) * y - self._gain(self.spectrum, logsnr) * s * e
        rest = torch.tensor([self.rest], dtype=torch.float64)
        outside = self._keep(rest, logsnr) * y_rest - self._gain(rest, logsnr) * s * e_rest
        return (inside**2).sum(1) + (outside**2).sum(1)

    def expected_sum(self, x: Tensor, weight: Tensor, logsnr: Tensor) -> Tensor:
        """Σ_ℓ weight_ℓ E_ε‖x − x̂_W‖², (B,), float64; weight, logsnr (N,)."""
        y, y_rest = self._split(x.double().flatten(1) - self.mean)
        rest = torch.tensor([self.rest], dtype=torch.float64)
        inside, outside = (weight @ self._keep(v, logsnr) ** 2 for v in (self.spectrum, rest))
        noise = noise_scale(logsnr)[:, None]
        count = y_rest.shape[1] - len(self.spectrum)
        floor = weight @ ((self._gain(self.spectrum, logsnr) * noise) ** 2).sum(1)
        floor = floor + count * (weight @ (self._gain(rest, logsnr) * noise)[:, 0] ** 2)
        return (y**2) @ inside + (y_rest**2).sum(1) * outside[0] + floor

    def _split(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates along the axes, (B, k), and what is left of the vector, (B, d)."""
        along = flat @ self.axes
        return along, flat - along @ self.axes.T

    def _keep(self, variance: Tensor, logsnr: Tensor) -> Tensor:
        """1 − a g = s²/(a²S + s²) = 1/(1 + γS), (N, k)."""
        return 1 / (1 + logsnr.double().exp()[:, None] * variance)

    def _gain(self, variance: Tensor, logsnr: Tensor) -> Tensor:
        """g = aS/(a²S + s²), (N, k)."""
        a, s = signal_scale(logsnr)[:, None], noise_scale(logsnr)[:, None]
        return a * variance / (a**2 * variance + s**2)


@final
@dataclass(frozen=True)
class WienerControl:
    """c_ℓ ½(γ_{ℓ−1} − γ_ℓ)‖x − x̂_W‖² + m_ℓ: the Wiener denoiser's nats, scaled and shifted level by level.

    Args:
        wiener: the denoiser.   logsnr: the grid λ_0…λ_L.
        coefficient, offset: c and m of levels 2…L, fitted on other images, (L−1,).
    """

    wiener: Wiener
    logsnr: Tensor
    coefficient: Tensor
    offset: Tensor

    def value(self, x: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Its value at each draw, (B,), nats."""
        return self._weight()[level - 2] * self.wiener.error(x, noise, self.logsnr[level]) + self.offset[level - 2]

    def total(self, x: Tensor) -> Tensor:
        """Σ_ℓ E_ε of it for each image, (B,), nats."""
        return self.wiener.expected_sum(x, self._weight(), self.logsnr[2:]) + self.offset.sum()

    def _weight(self) -> Tensor:
        return self.coefficient * half_snr_steps(self.logsnr)


def half_snr_steps(logsnr: Tensor) -> Tensor:
    """½(γ_{ℓ−1} − γ_ℓ) of levels 2…L, (L−1,), from λ_0…λ_L."""
    return -0.5 * logsnr[1:-1].exp() * torch.expm1(logsnr[2:] - logsnr[1:-1])


def regress(nats: Tensor, control: Tensor, place: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Slope and intercept of nats on the control by least squares, group by group: two tensors (count,).

    A control that varies by less than a thousandth of the nats has slope 0: images that are all alike leave it nothing
    but rounding errors. A slope is shrunk by 1 − (its standard error/itself)², and is 0 where that is negative: one
    that is mere chance would add noise where it is meant to take noise away.

    Args:
        nats, control: (N,).   place: group 0…count−1 of each, (N,); a group of one or none has slope 0.
    Source: of the shrinking, James & Stein 1961.
    """
    number = torch.bincount(place, minlength=count).double().clamp(min=1)

    def mean(values: Tensor) -> Tensor:
        return torch.zeros(count, dtype=torch.float64).index_add_(0, place, values) / number

    nats_mean, control_mean = mean(nats), mean(control)
    centred, high = control - control_mean[place], nats - nats_mean[place]
    variance = mean(centred**2)
    varies = variance > 1e-6 * mean(nats**2)
    slope = torch.where(varies, mean(centred * high) / variance, torch.zeros_like(variance))
    left = mean((high - slope[place] * centred) ** 2)
    error = left / ((number - 2).clamp(min=1) * variance)
    slope = torch.where(slope != 0, slope * (1 - error / slope**2).clamp(min=0), slope)
    return slope, nats_mean - slope * control_mean
