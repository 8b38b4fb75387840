r"""Mixtures of Gaussians (one component: a Gaussian) in any number of dimensions, with the truth at every log-SNR."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from markovae.forward import noise_scale, signal_scale
from markovae.quadrature import even_grid
from markovae.randomness import Source, normal_like, uniform
from markovae.toys.law import Law, Toy
from markovae.toys.modes import Modes

_REACH = 9.5
_MAX_NODES = 1 << 22


@final
@dataclass(frozen=True)
class MixtureLaw(Law):
    """Σ_k w_k N(m_k, Q_k diag(v_k) Q_kᵀ), weights, means and variances each example's own.

    Args:
        log_weights: (B, K).   means: (B, K, d).   variances: along the modes, (B, K, d), ≥ 0.
        modes: the axes Q_k.   shape: D.
    """

    log_weights: Tensor
    means: Tensor
    variances: Tensor
    modes: Modes
    shape: tuple[int, ...]

    def component_log_prob(self, x: Tensor) -> Tensor:
        """ln w_k + ln N(x; k), (B, K)."""
        offset = self.modes.into(x.double().flatten(1).unsqueeze(1) - self.means)
        terms = offset**2 / self.variances + self.variances.log() + math.log(2 * math.pi)
        return self.log_weights - 0.5 * terms.sum(-1)

    def log_prob(self, x: Tensor) -> Tensor:
        """ln Σ_k w_k N(x; k), (B,)."""
        return self.component_log_prob(x).logsumexp(1)

    def sample(self, source: Source) -> Tensor:
        """A component by its weight, then a Gaussian draw, (B, *D)."""
        batch = len(self.means)
        edges = self.log_weights.exp().cumsum(1)
        quantile = uniform(batch, source).unsqueeze(1) * edges[:, -1:]
        chosen = torch.searchsorted(edges, quantile, right=True).clamp(max=edges.shape[1] - 1)
        noise = normal_like(self.means.new_zeros(batch, *self.shape), source).flatten(1).unsqueeze(1)
        draws = self.means + self.modes.out_of(self.variances.sqrt() * noise)
        return draws[torch.arange(batch), chosen[:, 0]].reshape(batch, *self.shape)

    def mean(self) -> Tensor:
        """Σ_k w_k m_k, (B, *D)."""
        return (self.log_weights.exp().unsqueeze(2) * self.means).sum(1).reshape(-1, *self.shape)

    def covariance(self) -> Tensor:
        """Σ_k w_k [Σ_k + (m_k − m)(m_k − m)ᵀ], (B, d, d): squares about the mean, so nothing cancels."""
        weights = self.log_weights.exp()
        offset = self.means - self.mean().flatten(1).unsqueeze(1)
        between = torch.einsum("bk,bki,bkj->bij", weights, offset, offset)
        return between + torch.einsum("bk,bkij->bij", weights, self.modes.matrix(self.variances))

    def third_moment(self) -> Tensor:
        """E(x − E x)³ in one dimension, (B,): the third cumulant."""
        offset = (self.means - self.mean().unsqueeze(1))[..., 0]
        return (self.log_weights.exp() * (offset**3 + 3 * offset * self.variances[..., 0])).sum(1)

    def blurred(self, shift: Tensor, gain: Tensor, variance: Tensor) -> MixtureLaw:
        """shift + gain·x + √variance·ξ is a mixture on the same axes."""
        gain, variance = gain.reshape(-1, 1, 1), variance.reshape(-1, 1, 1)
        means = shift.flatten(1).unsqueeze(1) + gain * self.means
        return MixtureLaw(self.log_weights, means, gain**2 * self.variances + variance, self.modes, self.shape)

    def posterior(self, z: Tensor, logsnr: Tensor) -> MixtureLaw:
        r"""P(x|z): weights w_k N(z; a m_k, V_k) up to a factor, V_k = a²Σ_k + s².

        Means m_k + aΣ_k V_k⁻¹ (z − a m_k), covariances s²Σ_k V_k⁻¹.
        """
        a, s = signal_scale(logsnr), noise_scale(logsnr)
        latent = self.blurred(torch.zeros_like(z), a, s**2)
        log_weights = latent.component_log_prob(z).log_softmax(1)
        a, s = a.reshape(-1, 1, 1), s.reshape(-1, 1, 1)
        gain = a * self.variances / latent.variances
        offset = self.modes.into(z.flatten(1).unsqueeze(1) - latent.means)
        means = self.means + self.modes.out_of(gain * offset)
        return MixtureLaw(log_weights, means, self.variances * s**2 / latent.variances, self.modes, self.shape)


@final
class Mixture(Toy):
    """Σ_k w_k N(m_k, Σ_k).

    Args:
        weights: w_k ≥ 0, summing to 1, (K,).
        means: (K, *D).
        modes: the K covariances by eigenvalues and axes.
    Raises:
        ValueError: where weights do not sum to one or numbers of components or dimensions differ.
    """

    def __init__(self, weights: Tensor, means: Tensor, modes: Modes) -> None:
        weights = checked_weights(weights)
        self.shape = tuple(means.shape[1:])
        self.weights, self.means, self.modes = weights, means.double().flatten(1), modes
        if not (len(weights) == len(means) == len(modes.variance)) or self.dims != modes.variance.shape[1]:
            raise ValueError(
                f"{len(weights)} weights, means of shape {tuple(means.shape)} and {tuple(modes.variance.shape)} "
                "eigenvalues do not match: one weight, mean and covariance each component"
            )

    @classmethod
    def full(cls, weights: Tensor, means: Tensor, covariances: Tensor) -> Self:
        """Components of any covariance, (K, d, d), d = ∏ D."""
        return cls(weights, means, Modes.of_matrices(covariances))

    @classmethod
    def gaussian(cls, mean: Tensor, covariance: Tensor) -> Self:
        """One Gaussian: mean (*D), covariance (d, d)."""
        return cls.full(torch.ones(1), mean.unsqueeze(0), covariance.unsqueeze(0))

    @classmethod
    def line(cls, weights: Sequence[float], means: Sequence[float], stds: Sequence[float]) -> Self:
        """A mixture on the line, D = (1,)."""
        if any(not std > 0 for std in stds):
            raise ValueError(f"standard deviations {list(stds)} must be positive: a component needs a density")
        column = torch.tensor([list(means)], dtype=torch.float64).T
        return cls(torch.tensor(weights, dtype=torch.float64), column, Modes(column.new_tensor([list(stds)]).T ** 2))

    def law(self, batch: int) -> MixtureLaw:
        """The same mixture for every example."""
        return MixtureLaw(
            self.weights.log().expand(batch, -1),
            self.means.expand(batch, -1, -1),
            self.modes.variance.expand(batch, -1, -1),
            self.modes,
            self.shape,
        )

    def noised(self, logsnr: Tensor) -> Mixture:
        """The law of z = a x + s ε̄ as a toy of its own, logsnr ()."""
        a, s = signal_scale(logsnr), noise_scale(logsnr)
        modes = Modes(a**2 * self.modes.variance + s**2, self.modes.rotations)
        return Mixture(self.weights, (a * self.means).reshape(-1, *self.shape), modes)

    def entropy(self) -> float:
        """H(x) in nats: closed for a Gaussian, else by quadrature in one or two dimensions to 1e-10.

        Components that share one covariance need quadrature only in the span of their whitened means.
        Raises:
            ValueError: where more than two dimensions would have to be integrated.
        """
        gaussian = 0.5 * math.log(2 * math.pi * math.e)
        variance = self.modes.variance
        if len(self.weights) == 1:
            return self.dims * gaussian + 0.5 * float(variance.log().sum())
        shared = bool((variance == variance[:1]).all()) and all(bool((r == r[:1]).all()) for r in self.modes.rotations)
        if not shared:
            return _grid_entropy(self)
        white = self.modes.into(self.means.unsqueeze(0))[0] / variance.sqrt()
        _, lengths, axes = torch.linalg.svd(white - white[:1])
        rank = max(int((lengths > 1e-12 * (1 + lengths[0])).sum()), 1)
        inner = Mixture(
            self.weights, (white - white[:1]) @ axes[:rank].T, Modes(torch.ones(len(white), rank, dtype=torch.float64))
        )
        return _grid_entropy(inner) + (self.dims - rank) * gaussian + 0.5 * float(variance[0].log().sum())

    def nodes(self, logsnr: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """A grid of latents for averages over p(z_ℓ) at N log-SNRs (N,): z (N, M, *D), weights p(z)·dz (N, M).

        M = count in one dimension, count² in two; a Gaussian's Cov[x|z] is the same everywhere, so more dimensions
        are refused.
        """
        a, s = signal_scale(logsnr).reshape(-1, 1, 1), noise_scale(logsnr).reshape(-1, 1, 1)
        reach = _REACH * (a**2 * self._coordinate_variance() + s**2).sqrt()
        low, high = (a * self.means - reach).amin(1), (a * self.means + reach).amax(1)
        grid, step = even_grid(low, high, count)
        if self.dims == 1:
            z, volume = grid.transpose(1, 2), step[:, 0]
        elif self.dims == 2:
            z = torch.stack([grid[:, 0].repeat_interleave(count, 1), grid[:, 1].repeat(1, count)], 2)
            volume = (step[:, 0].unsqueeze(2) * step[:, 1].unsqueeze(1)).flatten(1)
        else:
            raise ValueError(f"{self.dims} dimensions are too many for a grid of latents: use one or two")
        flat = z.reshape(-1, *self.shape)
        density = self.marginal(logsnr.repeat_interleave(z.shape[1]), len(flat)).log_prob(flat)
        return z.reshape(*z.shape[:2], *self.shape), volume * density.reshape(z.shape[:2]).exp()

    def _coordinate_variance(self) -> Tensor:
        return self.modes.matrix(self.modes.variance.unsqueeze(0))[0].diagonal(dim1=1, dim2=2)


def checked_weights(weights: Tensor) -> Tensor:
    """A mixture's weights in float64, (K,), normalised beyond what their type could hold.

    Raises:
        ValueError: for a negative weight, or a sum off one by more than the type's rounding.
    """
    total = float(weights.double().sum())
    slack = 1e-9 if weights.dtype == torch.float64 else 1e-6
    if weights.ndim != 1 or not abs(total - 1) <= slack or bool((weights < 0).any()):
        raise ValueError(f"weights sum to {total:.12g}: they must be >= 0 and sum to 1")
    return weights.double() / total


def _grid_entropy(toy: Mixture) -> float:
    """−∫ p ln p on even grids, twice as fine until two agree to 1e-11."""
    clean = torch.tensor([torch.inf], dtype=torch.float64)
    if toy.dims > 2:
        raise ValueError(
            f"the entropy of a mixture in {toy.dims} dimensions needs an integral over all of them: "
            "share one covariance among components with means in a plane, or use two dimensions"
        )
    widest = float((toy.means.amax(0) - toy.means.amin(0)).max()) + 2 * _REACH * float(toy.modes.variance.max().sqrt())
    count, before = 64 + math.ceil(2 * widest / float(toy.modes.variance.min().sqrt())), math.nan
    while count**toy.dims <= _MAX_NODES:
        z, weight = toy.nodes(clean, count)
        flat = z.reshape(-1, *toy.shape)
        logs = toy.log_prob(flat)
        now = -float((weight.flatten() * torch.where(weight.flatten() > 0, logs, 0.0)).sum())
        if abs(now - before) <= 1e-11 * (1 + abs(now)):
            return now
        count, before = 2 * count, now
    raise ValueError("the entropy did not settle to 1e-11 within 4 million nodes: components differ too much in width")
