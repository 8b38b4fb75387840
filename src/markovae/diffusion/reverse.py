"""The variance of the prior's steps: σ², β̃, isotropic, diagonal, learned and full."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor, nn

from markovae.diffusion.forward import (
    noise_scale,
    posterior,
    posterior_coefficients,
    posterior_variance,
    signal_scale,
    step_variance,
)
from markovae.diffusion.gaussian import FullGaussian, Gaussian, expand, sum_dims, variance_cost
from markovae.diffusion.markovian_vae import Distribution
from markovae.diffusion.schedule import interpolate
from markovae.errors import UserError
from markovae.randomness import Source


class ReverseVariance(nn.Module, ABC):
    """How wide the prior's step is.

    `channels` is how many outputs a network needs for one data channel: 1, or 2 with a head for the variance.
    `needs_jacobian` says that `head` is ∂x̂/∂z, (B, d, d), which the model works out from its network.
    """

    channels: int = 1
    needs_jacobian: bool = False

    @abstractmethod
    def step(
        self, x_hat: Tensor, z: Tensor, logsnr_prev: Tensor, logsnr: Tensor, head: Tensor | None = None
    ) -> Distribution:
        """P_pri(z_{ℓ−1} | z_ℓ) at the network's x̂, over (B, *D)."""

    @abstractmethod
    def kl(self, x: Tensor, x_hat: Tensor, logsnr_prev: Tensor, logsnr: Tensor, head: Tensor | None = None) -> Tensor:
        """KL( q(z_{ℓ−1}|z_ℓ,x) ‖ P_pri(z_{ℓ−1}|z_ℓ) ) in nats, (B,), float64; ℓ ≥ 2."""


class IndependentVariance(ReverseVariance, ABC):
    """A variance of its own for each coordinate, or one for all: the prior's step is a diagonal Gaussian."""

    @abstractmethod
    def variance(self, logsnr_prev: Tensor, logsnr: Tensor, head: Tensor | None) -> Tensor:
        """Variance of P_pri(z_{ℓ−1}|z_ℓ), (), (B,) or (B, *D), float64; ℓ ≥ 2."""

    def step(
        self, x_hat: Tensor, z: Tensor, logsnr_prev: Tensor, logsnr: Tensor, head: Tensor | None = None
    ) -> Gaussian:
        """P_pri(z_{ℓ−1} | z_ℓ) at the network's x̂, over (B, *D)."""
        variance = self.variance(logsnr_prev, logsnr, head)
        return Gaussian(posterior(x_hat, z, logsnr_prev, logsnr).mean, expand(variance, z).to(z.device))

    def kl(self, x: Tensor, x_hat: Tensor, logsnr_prev: Tensor, logsnr: Tensor, head: Tensor | None = None) -> Tensor:
        r"""KL( q(z_{ℓ−1}|z_ℓ,x) ‖ P_pri(z_{ℓ−1}|z_ℓ) ) in nats, (B,), float64; ℓ ≥ 2.

        ½ Σ [ r − 1 − ln r + c_x² (x − x̂)²/v ], r = β̃/v; with v = β̃ it is ½(γ_{ℓ−1} − γ_ℓ)‖x − x̂‖².
        The means share c_z z, so their difference is formed from x − x̂ and loses no digits.
        """
        error = x.double() - x_hat.double()
        variance = expand(self.variance(logsnr_prev, logsnr, head), x)
        c_x = expand(posterior_coefficients(logsnr_prev, logsnr)[1], x)
        floor = expand(posterior_variance(logsnr_prev, logsnr), x)
        terms = variance_cost(floor, variance) + (c_x * error) ** 2 / variance
        return 0.5 * sum_dims(terms)


@final
class StepVariance(IndependentVariance):
    """σ_ℓ², the variance of the encoder's step: right where the data are broad against the step.

    Source: Ho et al. 2020, section 3.2 (the "large" choice); lecture, "Rewriting the ELBO".
    """

    def variance(self, logsnr_prev: Tensor, logsnr: Tensor, head: Tensor | None) -> Tensor:
        """σ_ℓ²."""
        return step_variance(logsnr_prev, logsnr)


@final
class PosteriorVariance(IndependentVariance):
    """β̃_ℓ, the variance of q(z_{ℓ−1}|z_ℓ,z_0): right where z_0 is known, and then the KL is a weighted square.

    Source: Ho et al. 2020, eq. 7 (the "small" choice).
    """

    def variance(self, logsnr_prev: Tensor, logsnr: Tensor, head: Tensor | None) -> Tensor:
        """β̃_ℓ."""
        return posterior_variance(logsnr_prev, logsnr)


# An exactly known pixel has error 0 and v = β̃; the logarithm needs a number, and this one is 0 beside any β̃.
_TINY = 1e-30


@final
class ErrorTable(nn.Module):
    """E(x − x̂)² at some log-SNRs, ln-interpolated between them; buffers, so that it is saved with the model.

    Args:
        knots: how many log-SNRs, K ≥ 2.
        shape: of one error: () for one a level, D for one a coordinate.
    """

    logsnr: Tensor
    error: Tensor

    def __init__(self, knots: int, shape: Sequence[int] = ()) -> None:
        super().__init__()
        if knots < 2:
            raise ValueError(f"knots={knots} must be at least 2: errors are interpolated between log-SNRs")
        empty = torch.full((knots, *shape), torch.nan, dtype=torch.float64)
        self.register_buffer("logsnr", torch.full((knots,), torch.nan, dtype=torch.float64))
        self.register_buffer("error", empty)

    @property
    def fitted(self) -> bool:
        """Whether it holds errors yet."""
        return not bool(self.logsnr.isnan().any())

    def fit(self, logsnr: Tensor, error: Tensor) -> Self:
        """Take the errors, (K, *shape), at the decreasing log-SNRs, (K,), and return self.

        Raises:
            ValueError: for another number or shape than declared.
            UserError: as `check_errors`.
        """
        if logsnr.shape != self.logsnr.shape or error.shape != self.error.shape:
            raise ValueError(
                f"errors of shape {tuple(error.shape)} at {len(logsnr)} log-SNRs: this table takes "
                f"{tuple(self.error.shape)}"
            )
        check_errors(logsnr, error)
        self.logsnr.copy_(logsnr)
        self.error.copy_(error)
        return self

    def forget(self) -> None:
        """Hold no errors, as before `fit`."""
        self.logsnr.fill_(torch.nan)
        self.error.fill_(torch.nan)

    def at(self, logsnr: Tensor) -> Tensor:
        """E(x − x̂)² at λ, shape of `logsnr` + shape of one error, float64.

        Raises:
            UserError: before `fit`.
        """
        if not self.fitted:
            raise UserError(
                "the reverse variance is not fitted yet: a run fits it with every held-out bound and at its end; "
                "fit it on training images with with_reverse"
            )
        table = self.error.clamp(min=_TINY).log()
        return interpolate(-logsnr.to(self.logsnr.device), -self.logsnr, table).exp()


def check_errors(logsnr: Tensor, error: Tensor) -> None:
    """Check the numbers of an error table: errors, (K, *D), at log-SNRs, (K,).

    Raises:
        UserError: for log-SNRs that do not fall, or an error that is negative, NaN or Inf.
    """
    if not bool((logsnr[1:] < logsnr[:-1]).all()):
        raise UserError("the log-SNRs of an error table must fall from knot to knot")
    if not bool((error.isfinite() & (error >= 0)).all()):
        raise UserError("the network's squared errors must be finite and at least 0: its weights are too large")


def _optimal(error: Tensor, logsnr_prev: Tensor, logsnr: Tensor) -> Tensor:
    c_x = posterior_coefficients(logsnr_prev, logsnr)[1]
    floor = posterior_variance(logsnr_prev, logsnr)
    if logsnr.ndim:  # an example each: (B,) against (B, *D)
        c_x, floor = expand(c_x, error), expand(floor, error)
    return floor + c_x**2 * error


@final
class IsotropicVariance(IndependentVariance):
    r"""v_ℓ = β̃_ℓ + c_x² E‖x − x̂‖²/d: the best variance that is one number a level.

    Args:
        knots: size of the table of errors (see `ErrorTable`).
    Source: Bao et al. 2022 (Analytic-DPM), theorem 1, with the network's own error in place of the score's norm.
    """

    def __init__(self, knots: int = 65) -> None:
        super().__init__()
        self.errors = ErrorTable(knots)

    def variance(self, logsnr_prev: Tensor, logsnr: Tensor, head: Tensor | None) -> Tensor:
        """β̃_ℓ + c_x² e_ℓ, shape of `logsnr`."""
        return _optimal(self.errors.at(logsnr), logsnr_prev, logsnr)


@final
class DiagonalVariance(IndependentVariance):
    r"""v_{ℓ,i} = β̃_ℓ + c_x² E(x_i − x̂_i)²: the best variance that is one number a level and coordinate.

    Args:
        shape: of one example, D.
        knots: size of the table of errors (see `ErrorTable`).
    """

    def __init__(self, shape: Sequence[int], knots: int = 65) -> None:
        super().__init__()
        self.errors = ErrorTable(knots, shape)

    def variance(self, logsnr_prev: Tensor, logsnr: Tensor, head: Tensor | None) -> Tensor:
        """β̃_ℓ + c_x² e_{ℓ,i}, shape of `logsnr` + D; one level for the whole batch gives (1, *D)."""
        error = self.errors.at(logsnr)
        return _optimal(error if logsnr.ndim else error[None], logsnr_prev, logsnr)


@final
class LearnedVariance(IndependentVariance):
    r"""ln v = ln β̃_ℓ + f (ln σ_ℓ² − ln β̃_ℓ), f = (1 + head)/2: geometric between β̃ and σ², and free to go beyond.

    A head of −1 is β̃, 1 is σ², 0 their geometric mean; no bound is put on it, so that v can be wider or narrower
    than both. ln σ² − ln β̃ = ln s_ℓ² − ln s_{ℓ−1}².
    Source: Nichol & Dhariwal 2021, eq. 15.
    """

    channels: int = 2

    def variance(self, logsnr_prev: Tensor, logsnr: Tensor, head: Tensor | None) -> Tensor:
        """v, (B, *D), float64.

        Raises:
            ValueError: without a head.
        """
        if head is None:
            raise ValueError("a learned variance needs the second half of the network's output")
        spread = 2 * (noise_scale(logsnr).log() - noise_scale(logsnr_prev).log())
        fraction = 0.5 * (1 + head.double())
        floor = posterior_variance(logsnr_prev, logsnr).log()
        return (expand(floor, head) + fraction * expand(spread, head)).exp()

    def head_loss(self, x: Tensor, x_hat: Tensor, logsnr_prev: Tensor, logsnr: Tensor, head: Tensor) -> Tensor:
        """The level's KL with the mean's gradient detached: it teaches the head alone, nats, (B,); ℓ ≥ 2.

        Source: Nichol & Dhariwal 2021, section 3.1.
        """
        return self.kl(x, x_hat.detach(), logsnr_prev, logsnr, head)


@dataclass(frozen=True)
class Shaped:
    """A Gaussian over vectors, seen over (*D).

    Args:
        flat: over (d,), one for each example.
        like: a tensor (B, *D) of the shape and type of its draws.
    """

    flat: FullGaussian
    like: Tensor

    def sample(self, source: Source) -> Tensor:
        """A draw, (B, *D)."""
        return self.flat.sample(source).reshape(self.like.shape).to(self.like)

    def log_prob(self, x: Tensor) -> Tensor:
        """Its log-density in nats, (B,), float64."""
        return self.flat.log_prob(x.flatten(1))


@final
class FullVariance(ReverseVariance):
    r"""V = β̃ I + c_x² C = β̃ (I + Δγ C), C = Cov[x|z_ℓ] = (s_ℓ²/a_ℓ) ∂x̂/∂z.

    The identity for C holds for the exact denoiser. A network's Jacobian is made a covariance by the model's
    definition: its symmetric part, with negative eigenvalues put to zero. `head` is the Jacobian, (B, d, d).
    The gap to the truth is O(Δγ³) a level, so O(1/L²) in all.
    Source: second-order Tweedie formula (Efron 2011, section 2).
    """

    needs_jacobian: bool = True

    def covariance(self, logsnr: Tensor, head: Tensor | None) -> tuple[Tensor, Tensor]:
        """C by its eigenvalues ≥ 0, (B, d), and orthonormal eigenvectors as columns, (B, d, d), float64.

        Raises:
            ValueError: without a Jacobian.
        """
        if head is None:
            raise ValueError("a full covariance needs the network's Jacobian at z")
        scale = noise_scale(logsnr) ** 2 / signal_scale(logsnr)
        symmetric = expand(scale, head) * (head.double() + head.double().mT) / 2
        values, vectors = torch.linalg.eigh(symmetric)
        return values.clamp(min=0), vectors

    def step(self, x_hat: Tensor, z: Tensor, logsnr_prev: Tensor, logsnr: Tensor, head: Tensor | None = None) -> Shaped:
        """N(posterior mean at x̂, β̃ (I + Δγ C)), over (B, *D)."""
        values, vectors = self.covariance(logsnr, head)
        floor, width = _expand(posterior_variance(logsnr_prev, logsnr)), _expand(_snr_step(logsnr_prev, logsnr))
        mean = posterior(x_hat, z, logsnr_prev, logsnr).mean
        covariance = (vectors * (floor * (1 + width * values))[:, None]) @ vectors.mT
        return Shaped(FullGaussian(mean.flatten(1), (covariance + covariance.mT) / 2), mean)

    def kl(self, x: Tensor, x_hat: Tensor, logsnr_prev: Tensor, logsnr: Tensor, head: Tensor | None = None) -> Tensor:
        r"""½ Σ_i [ ln(1 + u_i) − u_i/(1 + u_i) + Δγ e_i²/(1 + u_i) ] nats, (B,), float64; ℓ ≥ 2.

        u_i = Δγ c_i over the eigenvalues of C, e_i the error x − x̂ along the eigenvectors.
        """
        values, vectors = self.covariance(logsnr, head)
        width = _expand(_snr_step(logsnr_prev, logsnr))
        error = (vectors.mT @ (x.double() - x_hat.double()).flatten(1)[..., None])[..., 0]
        u = width * values
        return 0.5 * (u.log1p() + (width * error**2 - u) / (1 + u)).sum(1)


def _snr_step(logsnr_prev: Tensor, logsnr: Tensor) -> Tensor:
    """Δγ = γ_{ℓ−1} − γ_ℓ = −γ_{ℓ−1} expm1(λ_ℓ − λ_{ℓ−1}), float64."""
    return -logsnr_prev.double().exp() * torch.expm1(logsnr.double() - logsnr_prev.double())


def _expand(values: Tensor) -> Tensor:
    return values[:, None] if values.ndim else values
