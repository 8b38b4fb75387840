r"""Digits whose probabilities are known: mixtures of independent pixels, so all sums are over few terms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from markovae.diffusion.decoder import DiscretisedGaussian
from markovae.diffusion.forward import noise_scale, signal_scale
from markovae.diffusion.pixels import Pixels
from markovae.randomness import Source, normal_like, uniform
from markovae.theory.mixture import Toy, ToyDistribution, checked_weights

_MAX_IMAGES = 1 << 20


@final
@dataclass(frozen=True)
class DigitDistribution(ToyDistribution):
    """Σ_c w_c ∏_i P_ci(k_i): each example's own weights and pixel tables. `x` lies on the pixel scale.

    Args:
        log_weights: (B, K).
        log_probs: ln P_ci(k), (B, K, d, bins).
        pixels: the pixel values and their scale.
        shape: D.
    """

    log_weights: Tensor
    log_probs: Tensor
    pixels: Pixels
    shape: tuple[int, ...]

    def places(self) -> Tensor:
        """Where the pixel values lie on the scale, (bins,)."""
        return self.pixels.to_x(torch.arange(self.pixels.bins))

    def log_prob(self, x: Tensor) -> Tensor:
        """ln P of the pixel values nearest to x, (B,): a log-probability."""
        digits = self.pixels.to_pixel_values(x).flatten(1)[:, None, :, None]
        batch = max(len(x), len(self.log_probs))
        table = self.log_probs.expand(batch, -1, -1, -1)
        index = digits.expand(batch, table.shape[1], -1, -1)
        return (self.log_weights + table.gather(3, index)[..., 0].sum(2)).logsumexp(1)

    def sample(self, source: Source) -> Tensor:
        """A component, then its pixels one by one, on the pixel scale, (B, *D)."""
        batch, dims = len(self.log_probs), self.log_probs.shape[2]
        edges = self.log_weights.exp().cumsum(1)
        chosen = torch.searchsorted(edges, uniform(batch, source).unsqueeze(1) * edges[:, -1:], right=True)
        chosen = chosen.clamp(max=edges.shape[1] - 1)[:, 0]
        # Gumbel's maximum draws from each table with one noise an entry.
        table = self.log_probs.expand(batch, -1, -1, -1)[torch.arange(batch), chosen]
        normal = normal_like(torch.zeros(batch, dims, self.pixels.bins, dtype=torch.float64), source)
        gumbel = -torch.log(-torch.special.log_ndtr(normal))
        return self.places()[(table + gumbel).argmax(2)].reshape(batch, *self.shape)

    def mean(self) -> Tensor:
        """E[x], (B, *D)."""
        means = self.log_probs.exp() @ self.places()
        return (self.log_weights.exp().unsqueeze(2) * means).sum(1).reshape(-1, *self.shape)

    def covariance(self) -> Tensor:
        """Cov[x], (B, d, d): independent within a component, so only component means correlate."""
        weights, probs = self.log_weights.exp(), self.log_probs.exp()
        means = probs @ self.places()
        within = (probs * (self.places() - means.unsqueeze(3)) ** 2).sum(3)
        offset = means - self.mean().flatten(1).unsqueeze(1)
        between = torch.einsum("bk,bki,bkj->bij", weights, offset, offset)
        return between + torch.diag_embed((weights.unsqueeze(2) * within).sum(1))

    def blurred(self, shift: Tensor, gain: Tensor, variance: Tensor) -> BlurredDigits:
        """The distribution of shift + gain·x + √variance·ξ."""
        return BlurredDigits(self, shift, gain, variance)

    def posterior(self, z: Tensor, logsnr: Tensor) -> DigitDistribution:
        """P(x|z): Bayes in every pixel, then among the components."""
        a, s = signal_scale(logsnr), noise_scale(logsnr)
        joint = self.blurred(torch.zeros_like(z), a, s**2).joint(z)
        evidence = joint.logsumexp(3)
        log_weights = (self.log_weights + evidence.sum(2)).log_softmax(1)
        return DigitDistribution(log_weights, joint - evidence.unsqueeze(3), self.pixels, self.shape)


@final
@dataclass(frozen=True)
class BlurredDigits:
    """Digits moved, scaled and blurred by Gaussian noise: a density over latents.

    Args:
        distribution: of the pixel values.
        shift: (B, *D).
        gain, variance: (B,).
    """

    distribution: DigitDistribution
    shift: Tensor
    gain: Tensor
    variance: Tensor

    def joint(self, z: Tensor) -> Tensor:
        """ln P_ci(k) + ln N(z_i; shift_i + gain·x_k, variance), (B, K, d, bins)."""
        gain, variance = self.gain.reshape(-1, 1, 1), self.variance.reshape(-1, 1, 1)
        offset = (z.double() - self.shift).flatten(1).unsqueeze(2) - gain * self.distribution.places()
        normal = -0.5 * (offset**2 / variance + variance.log() + math.log(2 * math.pi))
        return self.distribution.log_probs + normal.unsqueeze(1)

    def log_prob(self, z: Tensor) -> Tensor:
        """ln p(z), (B,)."""
        return (self.distribution.log_weights + self.joint(z).logsumexp(3).sum(2)).logsumexp(1)

    def sample(self, source: Source) -> Tensor:
        """Digits, then noise, (B, *D)."""
        x = self.distribution.sample(source)
        view = (-1, *[1] * (x.ndim - 1))
        return self.shift + self.gain.reshape(view) * x + self.variance.sqrt().reshape(view) * normal_like(x, source)


@final
class DigitMixture(Toy):
    """Σ_c w_c ∏_i P_ci(k_i) over images of pixel values.

    Args:
        weights: w_c ≥ 0, summing to 1, (K,).
        probabilities: P_ci(k), each pixel's summing to 1, (K, *D, bins).
        pixels: the pixel values and their scale, with as many bins.
    Raises:
        ValueError: where probabilities do not sum to one or shapes differ.
    """

    def __init__(self, weights: Tensor, probabilities: Tensor, pixels: Pixels) -> None:
        weights = checked_weights(weights)
        slack = 1e-9 if probabilities.dtype == torch.float64 else 1e-5
        probabilities = probabilities.double()
        if probabilities.ndim < 3 or len(probabilities) != len(weights) or probabilities.shape[-1] != pixels.bins:
            raise ValueError(
                f"probabilities of shape {tuple(probabilities.shape)} must be (K, *D, bins) "
                f"with K={len(weights)} and bins={pixels.bins}"
            )
        worst = float((probabilities.sum(-1) - 1).abs().max())
        if not worst <= slack or bool((probabilities < 0).any()):
            raise ValueError(f"a pixel's probabilities miss one by {worst:g}: they must be >= 0 and sum to 1")
        self.shape = tuple(probabilities.shape[1:-1])
        self.pixels, self.weights = pixels, weights
        self.log_probs = (probabilities / probabilities.sum(-1, keepdim=True)).log().flatten(1, -2)

    @classmethod
    def discretised(cls, weights: Tensor, means: Tensor, stds: Tensor, pixels: Pixels) -> Self:
        """Independent Gaussians within a component, each pixel rounded to a pixel value; means, stds (K, *D)."""
        if not bool((stds > 0).all()):
            raise ValueError(f"standard deviation {float(stds.min()):g} must be positive: a bin needs a width")
        places = pixels.to_x(torch.arange(pixels.bins))
        mean, scale = means.double().unsqueeze(-1), stds.double().unsqueeze(-1)
        logs = DiscretisedGaussian(mean, scale, pixels).log_probs(places.expand(*means.shape, -1))
        return cls(weights, logs.exp(), pixels)

    def distribution(self, batch: int) -> DigitDistribution:
        """The same distribution for every example."""
        return DigitDistribution(
            self.weights.log().expand(batch, -1),
            self.log_probs.expand(batch, -1, -1, -1),
            self.pixels,
            self.shape,
        )

    def entropy(self) -> float:
        """H in nats: a sum over pixels for one component, else over all images.

        Raises:
            ValueError: for a mixture over more than 2^20 images.
        """
        bins, dims = self.pixels.bins, self.dims
        if len(self.weights) == 1:
            return float(-torch.xlogy(self.log_probs.exp(), self.log_probs.exp()).sum())
        if dims * math.log2(bins) > math.log2(_MAX_IMAGES):
            raise ValueError(
                f"{bins} bins in {dims} dimensions are too many images to sum over: "
                "use one component, or at most 2^20 images"
            )
        images = torch.cartesian_prod(*[torch.arange(bins)] * dims).reshape(-1, *self.shape)
        logs = torch.cat([self.log_prob(self.pixels.to_x(part)) for part in images.split(1 << 14)])
        return float(-torch.xlogy(logs.exp(), logs.exp()).sum())
