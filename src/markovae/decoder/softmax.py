r"""VDM's decoder: each digit's share of the likelihood of z_1, whatever the network says.

P(k | z_1) = exp(−(x_k − m)²/2τ²) / Σ_j exp(−(x_j − m)²/2τ²),   m = z_1/a_1,   τ = s_1/a_1.
Source: Kingma et al. 2021, appendix E.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from markovae.decoder.base import Decoder
from markovae.forward import noise_scale, signal_scale
from markovae.gaussian import expand, sum_dims
from markovae.pixels import Pixels
from markovae.randomness import Source, Streams

_MAX_TERMS = 2**24


@dataclass(frozen=True)
class SoftmaxBins:
    """P(k) ∝ exp(−(x_k − m)²/2τ²) over the digits k of a pixel; each pixel by itself.

    Args:
        mean: m on the pixel scale, (B, *D).   scale: τ > 0, ().   pixels: the digits and their scale.
    """

    mean: Tensor
    scale: Tensor
    pixels: Pixels

    def log_prob(self, x: Tensor) -> Tensor:
        """ln P of the digits at the scale values `x` (bin centres), nats, (B,), float64: a log-probability."""
        return sum_dims(self.log_probs(x))

    def log_probs(self, x: Tensor) -> Tensor:
        """ln P of each pixel, (B, *D), float64."""
        mean = self.mean.double()
        place = self.pixels.to_x(self.pixels.to_digits(x))
        return -0.5 * ((place - mean) / self.scale.double()) ** 2 - self._log_normaliser(mean)

    def sample(self, source: Source) -> Tensor:
        """A draw on the pixel scale, (B, *D), by inversion: the first digit whose cumulated P exceeds U."""
        mean = self.mean.double()
        u, total = _uniform_like(mean, source).log() + self._log_normaliser(mean), torch.full_like(mean, -torch.inf)
        digit = torch.zeros_like(mean, dtype=torch.int64)
        for part in self._parts(mean):
            cumulated = torch.logaddexp(total[..., None], part.logcumsumexp(-1))
            digit += (cumulated < u[..., None]).sum(-1)
            total = cumulated[..., -1]
        return self.pixels.to_x(digit.clamp(max=self.pixels.bins - 1), self.mean.dtype)

    def mode(self) -> Tensor:
        """The most probable digits, on the pixel scale, (B, *D): those nearest to m."""
        return self.pixels.to_x(self.pixels.to_digits(self.mean), self.mean.dtype)

    def _log_normaliser(self, mean: Tensor) -> Tensor:
        total = torch.full_like(mean, -torch.inf)
        for part in self._parts(mean):
            total = torch.logaddexp(total, part.logsumexp(-1))
        return total

    def _parts(self, mean: Tensor) -> Iterator[Tensor]:
        """−(x_k − m)²/2τ² for all digits in turn, (*mean, ≤ width): memory stays bounded with 65,536 bins."""
        width = max(1, min(self.pixels.bins, _MAX_TERMS // max(1, mean.numel())))
        scale = self.scale.double()
        for digits in torch.arange(self.pixels.bins, device=mean.device).split(width):
            yield -0.5 * ((self.pixels.to_x(digits) - mean[..., None]) / scale) ** 2


def _uniform_like(z: Tensor, source: Source) -> Tensor:
    if isinstance(source, Streams):
        return source.uniform(z.shape[1:]).to(z.device)
    return torch.rand(z.shape, generator=source, dtype=torch.float64, device=source.device).to(z.device)


@final
class SoftmaxDecoder(Decoder):
    """VDM's softmax over the bins; it reads z_1 alone, so it is good only where level 1 blurs less than a bin.

    Args:
        pixels: the digits of the data and their scale (VDM: `centres`).
    """

    def __init__(self, pixels: Pixels) -> None:
        super().__init__(pixels)
        self.digits = pixels

    def distribution(self, x_hat: Tensor, logsnr: Tensor, z: Tensor | None = None) -> SoftmaxBins:
        """P(k | z_1), over (B, *D); x̂ is not read.

        Raises:
            ValueError: without z_1.
        """
        if z is None:
            raise ValueError("the softmax decoder reads the latent: give z at level 1")
        a, s = signal_scale(logsnr[1]), noise_scale(logsnr[1])
        return SoftmaxBins(z.double() / expand(a, z).to(z.device), (s / a).to(z.device), self.digits)
