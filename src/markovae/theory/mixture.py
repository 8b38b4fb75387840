"""Toys whose truth is known: Gaussian mixtures in any dimension, their entropy, denoiser and exact reverse step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor, nn

from markovae.diffusion.forward import noise_scale, posterior_coefficients, posterior_variance, signal_scale
from markovae.diffusion.gaussian import expand, symmetric
from markovae.diffusion.markovian_vae import Distribution
from markovae.randomness import Source, normal_like, uniform
from markovae.theory.quadrature import even_grid


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


class ToyDistribution(ABC):
    """A batch of distributions of x, (B, *D); a batch of one broadcasts. Everything in float64, densities in nats."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """ln P(x), (B,)."""

    @abstractmethod
    def sample(self, source: Source) -> Tensor:
        """A draw, (B, *D)."""

    @abstractmethod
    def mean(self) -> Tensor:
        """E[x], (B, *D)."""

    @abstractmethod
    def covariance(self) -> Tensor:
        """Cov[x], (B, d, d)."""

    @abstractmethod
    def blurred(self, shift: Tensor, gain: Tensor, variance: Tensor) -> Distribution:
        """The distribution of shift + gain·x + √variance·ξ; shift (B, *D), gain and variance (B,), variance > 0."""

    @abstractmethod
    def posterior(self, z: Tensor, logsnr: Tensor) -> ToyDistribution:
        """P(x | a x + s ε̄ = z), z (B, *D), logsnr (B,)."""


class Toy(ABC):
    """Data whose truth is known.

    `shape` is D of one example; every method takes log-SNRs as () or (B,) and promotes its input to float64.
    """

    shape: tuple[int, ...]

    @abstractmethod
    def distribution(self, batch: int) -> ToyDistribution:
        """The distribution of the data, for a batch."""

    @abstractmethod
    def entropy(self) -> float:
        """H(x) in nats an example: differential, or discrete where the data are digits."""

    @property
    def dims(self) -> int:
        """Number of data dimensions d."""
        return math.prod(self.shape)

    def sample(self, batch: int, source: Source) -> Tensor:
        """A batch of data, (B, *D), float64."""
        return self.distribution(batch).sample(source)

    def log_prob(self, x: Tensor) -> Tensor:
        """ln p(x) in nats, (B,), float64."""
        return self.distribution(len(x)).log_prob(self._checked(x))

    def marginal(self, logsnr: Tensor, batch: int = 1) -> Distribution:
        """p(z_ℓ) = ∫ p(x) N(z_ℓ; a x, s²), for a batch; logsnr finite, () or (B,)."""
        logsnr = logsnr.double().expand(batch)
        zero = torch.zeros(batch, *self.shape, dtype=torch.float64)
        return self.distribution(batch).blurred(zero, signal_scale(logsnr), noise_scale(logsnr) ** 2)

    def posterior(self, z: Tensor, logsnr: Tensor) -> ToyDistribution:
        """P(x | z_ℓ = z), z (B, *D): responsibilities and the components' own posteriors."""
        return self.distribution(len(z)).posterior(self._checked(z), logsnr.double().expand(len(z)))

    def reverse(self, z: Tensor, logsnr_prev: Tensor, logsnr: Tensor) -> Distribution:
        """The true P(z_{ℓ−1} | z_ℓ = z), () log-SNRs; at logsnr_prev = inf it is P(x|z)."""
        posterior = self.posterior(z, logsnr)
        if bool(torch.isinf(logsnr_prev)):
            return posterior
        c_z, c_x = posterior_coefficients(logsnr_prev, logsnr)
        count = len(z)
        return posterior.blurred(
            c_z * z.double(), c_x.expand(count), posterior_variance(logsnr_prev, logsnr).expand(count)
        )

    def denoise(self, z: Tensor, logsnr: Tensor) -> Tensor:
        """E[x | z_ℓ = z], (B, *D): the best x̂ there is."""
        return self.posterior(z, logsnr).mean()

    def covariance(self, z: Tensor, logsnr: Tensor) -> Tensor:
        """Cov[x | z_ℓ = z], (B, d, d): what the best x̂ leaves open."""
        return self.posterior(z, logsnr).covariance()

    def score(self, z: Tensor, logsnr: Tensor) -> Tensor:
        """∇ ln p(z_ℓ) = (a E[x|z] − z)/s², (B, *D).

        Source: Robbins 1956 (Tweedie's formula).
        """
        a, s = expand(signal_scale(logsnr), z), expand(noise_scale(logsnr), z)
        return (a * self.denoise(z, logsnr) - z.double()) / s**2

    def _checked(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"examples of shape {tuple(x.shape[1:])}: this toy's have shape {self.shape}")
        return x.double()


@final
class Denoiser(nn.Module):
    """A toy's E[x|z] in the place of a network: use it with the `data` target.

    Args:
        toy: the data's distribution.
    """

    def __init__(self, toy: Toy) -> None:
        super().__init__()
        self.toy = toy

    def forward(self, z: Tensor, logsnr: Tensor, condition: object = None) -> Tensor:
        """x̂ = E[x|z], (B, *D), float64; the condition is not used."""
        return self.toy.denoise(z, logsnr)


_REACH = 9.5
_MAX_NODES = 1 << 22


@final
@dataclass(frozen=True)
class MixtureDistribution(ToyDistribution):
    """Σ_k w_k N(m_k, Q_k diag(v_k) Q_kᵀ), weights, means and variances each example's own.

    Args:
        log_weights: (B, K).
        means: (B, K, d).
        variances: along the modes, (B, K, d), ≥ 0.
        modes: the axes Q_k.
        shape: D.
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

    def blurred(self, shift: Tensor, gain: Tensor, variance: Tensor) -> MixtureDistribution:
        """shift + gain·x + √variance·ξ is a mixture on the same axes."""
        gain, variance = gain.reshape(-1, 1, 1), variance.reshape(-1, 1, 1)
        means = shift.flatten(1).unsqueeze(1) + gain * self.means
        return MixtureDistribution(self.log_weights, means, gain**2 * self.variances + variance, self.modes, self.shape)

    def posterior(self, z: Tensor, logsnr: Tensor) -> MixtureDistribution:
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
        return MixtureDistribution(log_weights, means, self.variances * s**2 / latent.variances, self.modes, self.shape)


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

    def distribution(self, batch: int) -> MixtureDistribution:
        """The same mixture for every example."""
        return MixtureDistribution(
            self.weights.log().expand(batch, -1),
            self.means.expand(batch, -1, -1),
            self.modes.variance.expand(batch, -1, -1),
            self.modes,
            self.shape,
        )

    def noised(self, logsnr: Tensor) -> Mixture:
        """The distribution of z = a x + s ε̄ as a toy of its own, logsnr ()."""
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
    """A mixture's weights in float64, (K,), normalized beyond what their type could hold.

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


def cosine_basis(size: int) -> Tensor:
    """Orthonormal cosines in columns, (size, size): the DCT-II, lowest frequency first."""
    place = (torch.arange(size, dtype=torch.float64) + 0.5).unsqueeze(1)
    frequency = torch.arange(size, dtype=torch.float64)
    basis = torch.cos(math.pi / size * place * frequency) * math.sqrt(2 / size)
    basis[:, 0] = 1 / math.sqrt(size)
    return basis


def pink_modes(shape: Sequence[int], std: float = 0.5, exponent: float = 2.0, color: float = 0.9) -> Modes:
    r"""Power ∝ 1/(1 + f)^exponent over cosine modes, f = √(i² + j²): amplitude falls as 1/f for exponent 2.

    Args:
        shape: (C, H, W).
        std: root mean variance of a pixel.
        exponent: of the power spectrum.
        color: correlation of two channels, in (−1/(C−1), 1).
    Raises:
        ValueError: for another rank, or numbers that give no positive definite covariance.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape={tuple(shape)} must be (C, H, W)")
    if not std > 0:
        raise ValueError(f"std={std:g} must be positive: it is a pixel's standard deviation")
    channels, height, width = shape
    rows = torch.arange(height, dtype=torch.float64).unsqueeze(1)
    columns = torch.arange(width, dtype=torch.float64)
    power = (1 + (rows**2 + columns**2).sqrt()) ** -exponent
    between = torch.full((channels, channels), color, dtype=torch.float64).fill_diagonal_(1.0)
    strength, mixing = torch.linalg.eigh(between)
    variance = strength.reshape(-1, 1, 1) * power
    variance = variance * (std**2 / variance.mean())
    rotations = (mixing.unsqueeze(0), cosine_basis(height).unsqueeze(0), cosine_basis(width).unsqueeze(0))
    return Modes(variance.reshape(1, -1), rotations)


def pink_gaussian(shape: Sequence[int], std: float = 0.5, exponent: float = 2.0, color: float = 0.9) -> Mixture:
    """A Gaussian over images (C, H, W) with a 1/f spectrum; entropy in closed form."""
    modes = pink_modes(shape, std, exponent, color)
    return Mixture(torch.ones(1), torch.zeros(1, *shape), modes)


def pink_pair(shape: Sequence[int], separation: float = 3.0, weight: float = 0.5, std: float = 0.5) -> Mixture:
    """Two kinds of 1/f images: the same covariance, means ± `separation` of its strongest mode's deviations apart.

    Its entropy is a one-dimensional integral beside closed terms, so it is known to 1e-10 in any resolution.

    Args:
        weight: probability of the first kind, in (0, 1).
    """
    if not 0 < weight < 1:
        raise ValueError(f"weight={weight:g} must lie in (0, 1): it is the probability of the first kind")
    modes = pink_modes(shape, std)
    strongest = int(modes.variance[0].argmax())
    along = torch.zeros_like(modes.variance).unsqueeze(0)
    along[0, 0, strongest] = separation * modes.variance[0, strongest].sqrt()
    mean = modes.out_of(along).reshape(tuple(shape))
    both = Modes(modes.variance.expand(2, -1), modes.rotations)
    return Mixture(torch.tensor([weight, 1 - weight], dtype=torch.float64), torch.stack([mean, -mean]), both)


def line_mixture() -> Mixture:
    """Three unequal components on the line: skewed, and of no unit variance."""
    return Mixture.line([0.3, 0.5, 0.2], [-1.2, 0.1, 1.1], [0.4, 0.5, 0.3])


def correlated_gaussian() -> Mixture:
    """A Gaussian in three dimensions whose axes are not its coordinates."""
    covariance = torch.tensor([[1.0, 0.4, 0.1], [0.4, 0.5, -0.1], [0.1, -0.1, 0.08]], dtype=torch.float64)
    return Mixture.gaussian(torch.tensor([0.3, -0.2, 0.1]), covariance)
