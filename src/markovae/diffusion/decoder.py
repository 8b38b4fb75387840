"""The decoder P_pri(z_0|z_1): what every decoder is, and Ho et al.'s, VDM's and the default."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.special import log_ndtr

from markovae.diffusion.forward import noise_scale, posterior_variance, signal_scale
from markovae.diffusion.gaussian import Gaussian, expand, sum_dims
from markovae.diffusion.markovian_vae import Distribution
from markovae.diffusion.pixels import Pixels
from markovae.errors import UserError
from markovae.randomness import Source, Streams, normal_like


class Decoder(nn.Module, ABC):
    """P_pri(z_0 | z_1), from what the network makes of z_1 and from z_1 itself.

    `discrete` is True where the decoder gives probabilities of pixel values; a density has no bits without a bin width.

    Args:
        pixels: the pixel values of the data and their scale; None for a continuous variable.
    """

    discrete: bool = True

    def __init__(self, pixels: Pixels | None) -> None:
        super().__init__()
        self.pixels = pixels

    @abstractmethod
    def distribution(
        self, x_hat: Tensor, logsnr: Tensor, z: Tensor | None = None, head: Tensor | None = None
    ) -> Distribution:
        """P_pri(z_0 | z_1), over (B, *D).

        Args:
            x_hat: the network's x̂ at level 1, (B, *D).
            logsnr: the chain's λ_0…λ_L, (L+1,), float64.
            z: the latent z_1, (B, *D); a decoder that reads it says so.
            head: the second half of the network's output there, (B, *D); a decoder that reads it says so.
        """


@final
class DensityDecoder(Decoder):
    """p(z_0 | z_1) = N(x̂, s_1²/a_1²): the density of a real vector. Data are floats, on the model's scale."""

    discrete: bool = False

    def __init__(self) -> None:
        super().__init__(None)

    def distribution(
        self, x_hat: Tensor, logsnr: Tensor, z: Tensor | None = None, head: Tensor | None = None
    ) -> Gaussian:
        """N(x̂, s_1²/a_1²), over (B, *D); z_1 itself is not read."""
        scale = noise_scale(logsnr[1]) / signal_scale(logsnr[1])
        return Gaussian(x_hat, (scale**2).to(x_hat.device))


NARROW = 1e-3  # of a bin's width times its distance: the fourth order that is left out is below 10⁻¹⁵


@dataclass(frozen=True)
class DiscretisedGaussian:
    r"""P(pixel value k) = Φ((x_k + h − μ)/τ) − Φ((x_k − h − μ)/τ), the two end bins open.

    Args:
        mean: μ on the pixel scale, (B, *D).
        scale: τ > 0, broadcastable to (B, *D).
        pixels: the pixel values and their scale; h is half a bin.
    Source: Ho et al. 2020, eq. 13 (with the exact Φ, and nothing clamped).
    """

    mean: Tensor
    scale: Tensor
    pixels: Pixels

    def log_prob(self, x: Tensor) -> Tensor:
        """ln P of the pixel values at the scale values `x` (bin centres), nats, (B,), float64: a log-probability."""
        return sum_dims(self.log_probs(x))

    def log_probs(self, x: Tensor) -> Tensor:
        """ln P of each pixel, (B, *D), float64, by differences of log Φ taken in the nearer tail.

        A bin across which the density hardly changes has its width times the density at its centre, and the curvature.
        """
        values = self.pixels.to_pixel_values(x)
        centre = self.pixels.to_x(values) - self.mean.double()
        scale = self.scale.double()
        upper = (centre + self.pixels.half_width) / scale
        lower = (centre - self.pixels.half_width) / scale
        upper = torch.where(values == self.pixels.bins - 1, torch.inf, upper)
        lower = torch.where(values == 0, -torch.inf, lower)
        flip = lower > 0
        upper, lower = torch.where(flip, -lower, upper), torch.where(flip, -upper, lower)
        narrow = (upper - lower) * (1 - lower) < NARROW
        width, middle = torch.where(narrow, upper - lower, 1.0), torch.where(narrow, (upper + lower) / 2, 0.0)
        curved = torch.log1p((middle**2 - 1) * width**2 / 24)
        even = width.log() - middle**2 / 2 - math.log(2 * math.pi) / 2 + curved
        # Where it is not taken a branch still has a gradient, which must be a number.
        exact = log_difference(log_ndtr(upper), log_ndtr(torch.where(narrow, upper - 1, lower)))
        return torch.where(narrow, even, exact)

    def sample(self, source: Source) -> Tensor:
        """A draw on the pixel scale, (B, *D): a Gaussian draw rounded to its bin has exactly these probabilities."""
        return self.round(self.mean + self.scale.to(self.mean) * normal_like(self.mean, source))

    def mode(self) -> Tensor:
        """The most probable pixel values, on the pixel scale, (B, *D)."""
        return self.round(self.mean)

    def round(self, x: Tensor) -> Tensor:
        """The centre of the bin that holds `x`, (B, *D)."""
        return self.pixels.to_x(self.pixels.to_pixel_values(x), x.dtype)


def log_difference(larger: Tensor, smaller: Tensor) -> Tensor:
    """ln(e^larger − e^smaller) for larger ≥ smaller, float64, accurate when they nearly agree and when they do not."""
    gap = smaller - larger
    near = gap > -math.log(2)
    safe_near = torch.where(near, gap, -1.0)
    return larger + torch.where(near, (-torch.expm1(safe_near)).log(), torch.log1p(-gap.exp()))


class DiscretisedDecoder(Decoder, ABC):
    """A Gaussian of mean x̂ and width τ, cut into the bins of the pixel values.

    Args:
        pixels: the pixel values of the data and their scale.
    """

    def __init__(self, pixels: Pixels) -> None:
        super().__init__(pixels)
        self.bins = pixels

    @abstractmethod
    def scale(self, logsnr: Tensor, head: Tensor | None = None) -> Tensor:
        """Standard deviation τ at the chain's log-SNRs λ_0…λ_L, (L+1,) -> () or (B, *D), float64."""

    def distribution(
        self, x_hat: Tensor, logsnr: Tensor, z: Tensor | None = None, head: Tensor | None = None
    ) -> DiscretisedGaussian:
        """P_pri(z_0 | z_1) at x̂, (B, *D), on the grid λ_0…λ_L; z_1 itself is not read."""
        return DiscretisedGaussian(x_hat, self.scale(logsnr, head).to(x_hat.device), self.bins)


@final
class StepDecoder(DiscretisedDecoder):
    """τ = s_1/a_1: what z_1 alone leaves unknown of a pixel. The default."""

    def scale(self, logsnr: Tensor, head: Tensor | None = None) -> Tensor:
        """s_1/a_1."""
        return noise_scale(logsnr[1]) / signal_scale(logsnr[1])


@final
class HoLargeDecoder(DiscretisedDecoder):
    """τ = √β_1 = σ_1: level 1 with the step variance σ_t² = β_t of Ho et al.'s text."""

    def scale(self, logsnr: Tensor, head: Tensor | None = None) -> Tensor:
        """σ_1 = s_1, since level 0 is clean."""
        return noise_scale(logsnr[1])


@final
class HoSmallDecoder(DiscretisedDecoder):
    """τ = √β̃_2: Ho et al.'s "fixedsmall", where the posterior variance of level 1 is replaced by that of level 2.

    Their code decodes so under its "fixedlarge" too.
    """

    def scale(self, logsnr: Tensor, head: Tensor | None = None) -> Tensor:
        """√β̃_2.

        Raises:
            UserError: on a grid with one level.
        """
        if len(logsnr) < 3:
            raise UserError("Ho's small decoder takes the variance of level 2: measure on at least 2 levels")
        return posterior_variance(logsnr[1], logsnr[2]).sqrt()


@final
class LearnedDecoder(DiscretisedDecoder):
    r"""ln τ² = ln β̃_2 + f (ln β_1 − ln β̃_2), f = (1 + head)/2: geometric between `HoSmallDecoder` and `HoLargeDecoder`.

    It is level 1 of a learned variance (`LearnedVariance`), with Ho et al.'s β̃_2 for the β̃_1 that is 0.
    Source: Nichol & Dhariwal 2021, whose code decodes so.
    """

    def scale(self, logsnr: Tensor, head: Tensor | None = None) -> Tensor:
        """τ, (B, *D).

        Raises:
            ValueError: without a head.
            UserError: on a grid with one level.
        """
        if head is None:
            raise ValueError("the learned decoder needs the second half of the network's output")
        if len(logsnr) < 3:
            raise UserError("the learned decoder takes the variance of level 2: measure on at least 2 levels")
        low = posterior_variance(logsnr[1], logsnr[2]).log().to(head.device)
        high = 2 * noise_scale(logsnr[1]).log().to(head.device)
        return (0.5 * (low + 0.5 * (1 + head.double()) * (high - low))).exp()


_MAX_TERMS = 2**24


@dataclass(frozen=True)
class SoftmaxBins:
    """P(k) ∝ exp(−(x_k − m)²/2τ²) over the values k of a pixel; each pixel by itself.

    Args:
        mean: m on the pixel scale, (B, *D).
        scale: τ > 0, ().
        pixels: the pixel values and their scale.
    """

    mean: Tensor
    scale: Tensor
    pixels: Pixels

    def log_prob(self, x: Tensor) -> Tensor:
        """ln P of the pixel values at the scale values `x` (bin centres), nats, (B,), float64: a log-probability."""
        return sum_dims(self.log_probs(x))

    def log_probs(self, x: Tensor) -> Tensor:
        """ln P of each pixel, (B, *D), float64."""
        mean = self.mean.double()
        place = self.pixels.to_x(self.pixels.to_pixel_values(x))
        return -0.5 * ((place - mean) / self.scale.double()) ** 2 - self._log_normalizer(mean)

    def sample(self, source: Source) -> Tensor:
        """A draw on the pixel scale, (B, *D), by inversion: the first value whose cumulated P exceeds U."""
        mean = self.mean.double()
        u, total = _uniform_like(mean, source).log() + self._log_normalizer(mean), torch.full_like(mean, -torch.inf)
        value = torch.zeros_like(mean, dtype=torch.int64)
        for part in self._parts(mean):
            cumulated = torch.logaddexp(total[..., None], part.logcumsumexp(-1))
            value += (cumulated < u[..., None]).sum(-1)
            total = cumulated[..., -1]
        return self.pixels.to_x(value.clamp(max=self.pixels.bins - 1), self.mean.dtype)

    def mode(self) -> Tensor:
        """The most probable pixel values, on the pixel scale, (B, *D): those nearest to m."""
        return self.pixels.to_x(self.pixels.to_pixel_values(self.mean), self.mean.dtype)

    def _log_normalizer(self, mean: Tensor) -> Tensor:
        total = torch.full_like(mean, -torch.inf)
        for part in self._parts(mean):
            total = torch.logaddexp(total, part.logsumexp(-1))
        return total

    def _parts(self, mean: Tensor) -> Iterator[Tensor]:
        """−(x_k − m)²/2τ² for all pixel values in turn, (*mean, ≤ width): memory stays bounded with 65,536 bins."""
        width = max(1, min(self.pixels.bins, _MAX_TERMS // max(1, mean.numel())))
        scale = self.scale.double()
        for values in torch.arange(self.pixels.bins, device=mean.device).split(width):
            yield -0.5 * ((self.pixels.to_x(values) - mean[..., None]) / scale) ** 2


def _uniform_like(z: Tensor, source: Source) -> Tensor:
    if isinstance(source, Streams):
        return source.uniform(z.shape[1:]).to(z.device)
    return torch.rand(z.shape, generator=source, dtype=torch.float64, device=source.device).to(z.device)


@final
class SoftmaxDecoder(Decoder):
    """VDM's softmax over the bins; it reads z_1 alone, so it is good only where level 1 blurs less than a bin.

    Args:
        pixels: the pixel values of the data and their scale (VDM: `centres`).
    """

    def __init__(self, pixels: Pixels) -> None:
        super().__init__(pixels)
        self.bins = pixels

    def distribution(
        self, x_hat: Tensor, logsnr: Tensor, z: Tensor | None = None, head: Tensor | None = None
    ) -> SoftmaxBins:
        """P(k | z_1), over (B, *D); x̂ is not read.

        Raises:
            ValueError: without z_1.
        """
        if z is None:
            raise ValueError("the softmax decoder reads the latent: give z at level 1")
        a, s = signal_scale(logsnr[1]), noise_scale(logsnr[1])
        return SoftmaxBins(z.double() / expand(a, z).to(z.device), (s / a).to(z.device), self.bins)


def decoder_named(name: str, pixels: Pixels) -> Decoder:
    """The decoder of a configuration's word, one of `DECODERS`."""
    made: dict[str, Callable[[Pixels], Decoder]] = {
        "step": StepDecoder,
        "ho_small": HoSmallDecoder,
        "ho_large": HoLargeDecoder,
        "softmax": SoftmaxDecoder,
        "learned": LearnedDecoder,
    }
    return made[name](pixels)
