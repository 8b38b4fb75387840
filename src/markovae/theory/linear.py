r"""A Markovian VAE whose steps are linear with Gaussian noise of any covariance: everything is closed form.

Encoder z_ℓ = A_ℓ z_{ℓ−1} + b_ℓ + N(0, Q_ℓ), prior z_{ℓ−1} = B_ℓ z_ℓ + c_ℓ + N(0, V_ℓ), P_pri(z_L) Gaussian. With
Gaussian data the bound, its terms and what it exceeds H(z_0) by are traces and determinants.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import torch
from torch import Tensor

from markovae.diffusion.bound import Bound
from markovae.diffusion.gaussian import FullGaussian, cholesky, symmetric
from markovae.diffusion.markovian_vae import MarkovianVAE, checked_level


@dataclass(frozen=True)
class Moments:
    """A Gaussian distribution of one vector.

    Args:
        mean: (d,).
        covariance: positive definite, (d, d). Both are promoted to float64.
    Raises:
        ValueError: for shapes that do not fit together, or a covariance that is not positive definite.
    """

    mean: Tensor
    covariance: Tensor

    def __post_init__(self) -> None:
        cholesky(self.covariance)
        if self.mean.ndim != 1 or self.covariance.shape != (len(self.mean), len(self.mean)):
            raise ValueError(
                f"mean {tuple(self.mean.shape)} and covariance {tuple(self.covariance.shape)} must be (d,) and (d, d)"
            )
        object.__setattr__(self, "mean", self.mean.double())
        object.__setattr__(self, "covariance", symmetric(self.covariance))

    def batch(self, size: int) -> FullGaussian:
        """The distribution, for a batch."""
        return FullGaussian(self.mean.expand(size, -1), self.covariance)

    def entropy(self) -> float:
        """H = ½ ln |2πe S| in nats."""
        factor = cholesky(self.covariance)
        return float(factor.diagonal().log().sum()) + 0.5 * len(factor) * math.log(2 * math.pi * math.e)


@dataclass(frozen=True)
class LinearStep:
    """P(y|z) = N(M z + c, S).

    Args:
        matrix: M, (d', d).
        offset: c, (d',).
        covariance: S, positive definite, (d', d'). Promoted to float64.
    Raises:
        ValueError: for shapes that do not fit together, or a covariance that is not positive definite.
    """

    matrix: Tensor
    offset: Tensor
    covariance: Tensor

    def __post_init__(self) -> None:
        cholesky(self.covariance)
        if (
            self.matrix.ndim != 2
            or self.offset.shape != self.matrix.shape[:1]
            or len(self.covariance) != len(self.offset)
        ):
            raise ValueError(
                f"a step's matrix {tuple(self.matrix.shape)}, offset {tuple(self.offset.shape)} and covariance "
                f"{tuple(self.covariance.shape)} must be (d', d), (d',) and (d', d')"
            )
        object.__setattr__(self, "matrix", self.matrix.double())
        object.__setattr__(self, "offset", self.offset.double())
        object.__setattr__(self, "covariance", symmetric(self.covariance))

    def given(self, z: Tensor) -> FullGaussian:
        """P(y|z) for a batch of z, (B, d).

        Raises:
            ValueError: for vectors of another size.
        """
        if z.ndim != 2 or z.shape[1] != self.matrix.shape[1]:
            raise ValueError(f"vectors of shape {tuple(z.shape)} must be (B, {self.matrix.shape[1]})")
        return FullGaussian(z.double() @ self.matrix.T + self.offset, self.covariance)

    def push(self, distribution: Moments) -> Moments:
        """The distribution of y when z follows `distribution`."""
        covariance = self.matrix @ distribution.covariance @ self.matrix.T + self.covariance
        return Moments(self.matrix @ distribution.mean + self.offset, symmetric(covariance))

    def then(self, after: LinearStep) -> LinearStep:
        """P(w|z) when w follows `after` at y."""
        pushed = after.push(Moments(self.offset, self.covariance))
        return LinearStep(after.matrix @ self.matrix, pushed.mean, pushed.covariance)

    def gain(self, covariance: Tensor) -> Tensor:
        """K = S_z Mᵀ (M S_z Mᵀ + S)⁻¹, (d, d'): the regression of z on y where z has covariance S_z."""
        innovation = self.matrix @ covariance @ self.matrix.T + self.covariance
        return torch.linalg.solve(innovation, self.matrix @ covariance).T

    def reverse(self, distribution: Moments) -> LinearStep:
        """P(z|y) when z follows `distribution`: Bayes' rule."""
        gain = self.gain(distribution.covariance)
        kept = torch.eye(len(distribution.mean), dtype=torch.float64) - gain @ self.matrix
        covariance = kept @ distribution.covariance @ kept.T + gain @ self.covariance @ gain.T
        return LinearStep(gain, kept @ distribution.mean - gain @ self.offset, symmetric(covariance))


@final
class LinearGaussianChain(MarkovianVAE):
    """Linear steps in both chains, each with a full covariance.

    Args:
        encoder: steps ℓ = 1…L.
        top: P_pri(z_L).
        prior: steps ℓ = 1…L, each from z_ℓ to z_{ℓ−1}.
    Raises:
        ValueError: for encoder and prior of different lengths or shapes.
    """

    def __init__(self, encoder: Sequence[LinearStep], top: Moments, prior: Sequence[LinearStep]) -> None:
        super().__init__()
        if len(encoder) < 1 or len(encoder) != len(prior):
            raise ValueError(
                f"{len(encoder)} encoder steps and {len(prior)} prior steps: both chains have L >= 1 steps"
            )
        for level, (up, down) in enumerate(zip(encoder, prior, strict=True), start=1):
            if up.matrix.shape != down.matrix.T.shape:
                raise ValueError(
                    f"level {level}: the encoder maps {up.matrix.shape[1]} dimensions to {up.matrix.shape[0]}, "
                    f"the prior {down.matrix.shape[1]} to {down.matrix.shape[0]}"
                )
        sizes = [step.matrix.shape[0] for step in encoder]
        if len(top.mean) != sizes[-1] or any(b.matrix.shape[1] != a.matrix.shape[0] for a, b in pairwise(encoder)):
            raise ValueError(f"steps to {sizes} dimensions and a top of {len(top.mean)} do not join to one chain")
        self.num_levels = len(encoder)
        self.encoder, self.top, self.prior = tuple(encoder), top, tuple(prior)

    def encoder_step(self, z_prev: Tensor, level: int) -> FullGaussian:
        """N(A_ℓ z_{ℓ−1} + b_ℓ, Q_ℓ)."""
        return self.encoder[checked_level(level, self) - 1].given(z_prev)

    def prior_top(self, batch: int) -> FullGaussian:
        """P_pri(z_L)."""
        return self.top.batch(batch)

    def prior_step(self, z: Tensor, level: int) -> FullGaussian:
        """N(B_ℓ z_ℓ + c_ℓ, V_ℓ)."""
        return self.prior[checked_level(level, self) - 1].given(z)

    def marginal_step(self, level: int) -> LinearStep:
        """P_enc(z_ℓ|z_0) as one linear step, ℓ ≥ 1."""
        step = self.encoder[0]
        for after in self.encoder[1 : checked_level(level, self)]:
            step = step.then(after)
        return step

    def marginal(self, x: Tensor, level: int) -> FullGaussian:
        """P_enc(z_ℓ|z_0)."""
        return self.marginal_step(level).given(x)

    def posterior_step(self, level: int) -> tuple[Tensor, LinearStep]:
        """(F, G): P_enc(z_{ℓ−1}|z_ℓ,z_0) = N(F z_0 + G's mean at z_ℓ, G's covariance), ℓ ≥ 2.

        Bayes' rule with z_{ℓ−1} given z_0, whose mean Φ z_0 + φ is carried through as F = (I − K A) Φ.
        """
        before, step = self.marginal_step(checked_level(level, self, 2) - 1), self.encoder[level - 1]
        back = step.reverse(Moments(before.offset, before.covariance))
        return before.matrix - back.matrix @ step.matrix @ before.matrix, back

    def posterior(self, x: Tensor, z: Tensor, level: int) -> FullGaussian:
        """P_enc(z_{ℓ−1}|z_ℓ,z_0), ℓ ≥ 2."""
        matrix, back = self.posterior_step(level)
        at_z = back.given(z)
        return FullGaussian(at_z.mean + x.double() @ matrix.T, at_z.covariance)


def exact_linear(data: Moments, encoder: Sequence[LinearStep]) -> LinearGaussianChain:
    """The chain whose prior is the true reverse of its encoder on these data: its bound equals H(z_0)."""
    distribution, prior = data, []
    for step in encoder:
        prior.append(step.reverse(distribution))
        distribution = step.push(distribution)
    return LinearGaussianChain(encoder, distribution, prior)


def expected_e1(chain: LinearGaussianChain, data: Moments) -> float:
    """E1 averaged: Σ_ℓ E[−ln P_pri(z_{ℓ−1}|z_ℓ)] + E[−ln P_pri(z_L)] − Σ_ℓ H(z_ℓ|z_{ℓ−1}), nats."""
    distribution, total = data, 0.0
    for up, down in zip(chain.encoder, chain.prior, strict=True):
        rest = torch.eye(len(distribution.mean), dtype=torch.float64) - down.matrix @ up.matrix
        spread = rest @ distribution.covariance @ rest.T + down.matrix @ up.covariance @ down.matrix.T
        shift = rest @ distribution.mean - down.matrix @ up.offset - down.offset
        total += _cost(down.covariance, shift, spread) - _entropy(up.covariance)
        distribution = up.push(distribution)
    return total + _cost(chain.top.covariance, distribution.mean - chain.top.mean, distribution.covariance)


def expected_e6(chain: LinearGaussianChain, data: Moments) -> Bound:
    """E6 averaged, in its terms: a Bound with a batch of one, nats."""
    last = chain.marginal_step(chain.num_levels)
    shift = last.matrix @ data.mean + last.offset - chain.top.mean
    prior = _kl(last.covariance, chain.top.covariance, shift, last.matrix @ data.covariance @ last.matrix.T)
    levels = [_level(chain, data, level) for level in range(2, chain.num_levels + 1)]
    decoder, z = chain.prior[0], chain.encoder[0]
    rest = torch.eye(len(data.mean), dtype=torch.float64) - decoder.matrix @ z.matrix
    spread = rest @ data.covariance @ rest.T + decoder.matrix @ z.covariance @ decoder.matrix.T
    off = rest @ data.mean - decoder.matrix @ z.offset - decoder.offset
    reconstruction = _cost(decoder.covariance, off, spread)
    return Bound(_row(prior)[0], _row(*levels), _row(reconstruction)[0], len(data.mean), discrete=False)


def path_kl(chain: LinearGaussianChain, data: Moments) -> float:
    r"""The divergence of the two joint distributions of z_0…z_L, split along the reverse chain, nats.

    KL(p(z_L) ‖ P_pri(z_L)) + Σ_ℓ E_{p(z_ℓ)} KL(p(z_{ℓ−1}|z_ℓ) ‖ P_pri(z_{ℓ−1}|z_ℓ)), p the encoder run on the data.
    It is what the bound exceeds H(z_0) by.
    """
    exact = exact_linear(data, chain.encoder)
    total = float(exact.prior_top(1).kl(chain.prior_top(1)))
    distribution = data
    for up, true, prior in zip(chain.encoder, exact.prior, chain.prior, strict=True):
        distribution = up.push(distribution)
        matrix = true.matrix - prior.matrix
        shift = matrix @ distribution.mean + true.offset - prior.offset
        total += _kl(true.covariance, prior.covariance, shift, matrix @ distribution.covariance @ matrix.T)
    return total


def _level(chain: LinearGaussianChain, data: Moments, level: int) -> float:
    """E KL(P_enc(z_{ℓ−1}|z_ℓ,z_0) ‖ P_pri(z_{ℓ−1}|z_ℓ)): the difference of the means is linear in (z_0, z_ℓ)."""
    on_x, back = chain.posterior_step(level)
    here, prior = chain.marginal_step(level), chain.prior[level - 1]
    on_z = back.matrix - prior.matrix
    on_data = on_x + on_z @ here.matrix
    shift = on_data @ data.mean + on_z @ here.offset + back.offset - prior.offset
    spread = on_data @ data.covariance @ on_data.T + on_z @ here.covariance @ on_z.T
    return _kl(back.covariance, prior.covariance, shift, spread)


def _cost(covariance: Tensor, shift: Tensor, spread: Tensor) -> float:
    """E[−ln N(Δ; 0, covariance)] for Δ of mean `shift` and covariance `spread`."""
    factor = cholesky(covariance)
    second = spread + torch.outer(shift, shift)
    log_det = 2 * factor.diagonal().log().sum() + len(shift) * math.log(2 * math.pi)
    return 0.5 * float(log_det + torch.cholesky_solve(second, factor).trace())


def _entropy(covariance: Tensor) -> float:
    return Moments(torch.zeros(len(covariance)), covariance).entropy()


def _kl(covariance: Tensor, other: Tensor, shift: Tensor, spread: Tensor) -> float:
    """E KL(N(μ, covariance) ‖ N(μ', other)) for μ − μ' of mean `shift` and covariance `spread`."""
    return _cost(other, shift, spread + covariance) - _entropy(covariance)


def _row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)
