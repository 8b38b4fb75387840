r"""The Markovian VAE: an encoder chain, a prior chain, and the bound on the entropy of what is modelled.

y = z_0 is modelled with latents z_1…z_L. The encoder P_enc(z_ℓ|z_{ℓ−1}) walks from data to noise, the prior
P_pri(z_{ℓ−1}|z_ℓ) walks back, its last step P_pri(z_0|z_1) is the decoder, and sampling the prior generates.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from markovae.randomness import Source


class Distribution(Protocol):
    """What a step of either chain returns: something to draw from and to weigh, for a batch."""

    def sample(self, source: Source) -> Tensor:
        """A draw, (B, *D)."""
        ...

    def log_prob(self, x: Tensor) -> Tensor:
        """ln P(x) in nats, (B,), float64."""
        ...


class MarkovianVAE(nn.Module, ABC):
    """Two chains over the same latents; subclasses supply their steps. Levels are 0 (data) … L (`num_levels`)."""

    num_levels: int

    @abstractmethod
    def encoder_step(self, z_prev: Tensor, level: int) -> Distribution:
        """P_enc(z_ℓ | z_{ℓ−1}), ℓ = 1…L."""

    @abstractmethod
    def prior_top(self, batch: int) -> Distribution:
        """P_pri(z_L) for a batch."""

    @abstractmethod
    def prior_step(self, z: Tensor, level: int) -> Distribution:
        """P_pri(z_{ℓ−1} | z_ℓ), ℓ = L…1; ℓ = 1 is the decoder."""

    def encode(self, x: Tensor, source: Source) -> list[Tensor]:
        """One path z_0…z_L of the encoder, z_0 = x: a list of L+1 tensors (B, *D)."""
        path = [x]
        for level in range(1, self.num_levels + 1):
            path.append(self.encoder_step(path[-1], level).sample(source))
        return path

    def generate(self, batch: int, source: Source) -> Tensor:
        """A batch of z_0 drawn from the prior chain, (B, *D): ancestral sampling through every level."""
        z = self.prior_top(batch).sample(source)
        for level in range(self.num_levels, 0, -1):
            z = self.prior_step(z, level).sample(source)
        return z


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error; `stderr` is nan where one draw cannot tell it."""

    value: float
    stderr: float

    @property
    def ci95(self) -> tuple[float, float]:
        """value ± 1.96 stderr."""
        return self.value - 1.959964 * self.stderr, self.value + 1.959964 * self.stderr

    def __str__(self) -> str:
        return f"{self.value:.4f} ± {self.stderr:.4f}"


def estimate_mean(values: Tensor) -> Estimate:
    """The mean of independent values, (N,), and its standard error s/√N."""
    values = values.double()
    stderr = float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return Estimate(float(values.mean()), stderr)


@dataclass(frozen=True)
class Bound:
    """An upper bound on −ln P(z_0), example by example, in its terms (form E6), nats, float64.

    Args:
        prior: KL(q(z_L|z_0) ‖ P_pri(z_L)), (B,).
        levels: KL at level ℓ = 2…L, (B, L−1); column ℓ−2.
        reconstruction: −ln P_pri(z_0|z_1), (B,).
        dims: number of data dimensions, for the per-dim figures.
        discrete: True where P_pri(z_0|z_1) is a probability; a density has no bits until a bin width is named.
    """

    prior: Tensor
    levels: Tensor
    reconstruction: Tensor
    dims: int
    discrete: bool = True

    @property
    def total(self) -> Tensor:
        """The bound on −ln P(z_0), (B,), nats."""
        return self.prior + self.levels.sum(1) + self.reconstruction

    def mean(self) -> Estimate:
        """Mean over the batch ± its standard error, nats per example."""
        return estimate_mean(self.total)

    def bits_per_dim(self) -> Estimate:
        """Mean bits per dimension ± its standard error.

        Raises:
            ValueError: for the density of a continuous variable.
        """
        if not self.discrete:
            raise ValueError("bits per dimension of a density depend on a bin width: use a decoder over digits")
        nats = self.mean()
        scale = 1 / (self.dims * math.log(2))
        return Estimate(nats.value * scale, nats.stderr * scale)


def stack_bounds(bounds: list[Bound]) -> Bound:
    """One Bound for the examples of several batches of the same model."""
    return Bound(
        torch.cat([b.prior for b in bounds]),
        torch.cat([b.levels for b in bounds]),
        torch.cat([b.reconstruction for b in bounds]),
        bounds[0].dims,
        bounds[0].discrete,
    )
