r"""The Markovian VAE: an encoder chain and a prior chain over the same latents.

y = z_0 is modeled with latents z_1…z_L. The encoder P_enc(z_ℓ|z_{ℓ−1}) leads from data to noise, the prior
P_pri(z_{ℓ−1}|z_ℓ) leads back, its last step P_pri(z_0|z_1) is the decoder, and sampling the prior generates.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn

from markovae.diffusion.bound import Band, Bound
from markovae.networks.conditioning import Condition
from markovae.randomness import Source, Streams
from markovae.system.memory import kept_memory

if TYPE_CHECKING:
    from markovae.diffusion.decoder import Decoder


class Distribution(Protocol):
    """What a step of either chain returns: something to draw from and to weigh, for a batch."""

    def sample(self, source: Source) -> Tensor:
        """A draw, (B, *D)."""
        ...

    def log_prob(self, x: Tensor) -> Tensor:
        """ln P(x) in nats, (B,), float64."""
        ...


class MarkovianVAE(nn.Module, ABC):
    """Two chains over the same latents; subclasses supply their steps. Levels are 0 (data) … L (`num_levels`).

        path = model.encode(torch.zeros(2, *model.shape), torch.Generator())  # z_0 … z_L

    Source: lecture, "Markovian VAE".
    """

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
        """One path z_0…z_L of the encoder, z_0 = x: a list of L+1 tensors (B, *D), real numbers in float64."""
        path = [x.double() if x.is_floating_point() else x]
        for level in range(1, self.num_levels + 1):
            path.append(self.encoder_step(path[-1], level).sample(source))
        return path

    def generate(self, batch: int, source: Source) -> Tensor:
        """A batch of z_0 drawn from the prior chain, (B, *D): ancestral sampling through every level."""
        z = self.prior_top(batch).sample(source)
        for level in range(self.num_levels, 0, -1):
            z = self.prior_step(z, level).sample(source)
        return z


class LevelwiseVAE(MarkovianVAE):
    """A Markovian VAE of data of one shape whose bound, form E6, is drawn level by level; subclasses supply its terms.

        nats = model.bound(images).mean()

    Attributes:
        shape: of one example, D.
        decoder: P_pri(z_0|z_1).
    """

    shape: tuple[int, ...]
    decoder: Decoder

    @property
    def dims(self) -> int:
        """Number of data dimensions d."""
        return math.prod(self.shape)

    @abstractmethod
    def to_x(self, images: Any) -> Tensor:
        """Data on the model's scale, (B, *D), float64: pixel values (integers) are converted, floats are taken as is.

        Args:
            images: a tensor or an array, (B, *D).

        Raises:
            ValueError: for another shape than the model's, or numbers between the places of pixel values.
        """

    @abstractmethod
    def prior_nats(self, x: Tensor) -> Tensor:
        """KL(q(z_L|z_0) ‖ N(0, I)), (B,), nats; x from `to_x`."""

    @abstractmethod
    def level_nats(self, x: Tensor, level: Tensor, source: Source, condition: Condition | None = None) -> Tensor:
        """One unbiased draw of the KL of level ℓ ≥ 2, (B,), nats; level: (B,) int64, its own for each example."""

    @abstractmethod
    def reconstruction_nats(self, x: Tensor, source: Source, condition: Condition | None = None) -> Tensor:
        """One unbiased draw of −ln P_pri(z_0|z_1), (B,), nats."""

    @abstractmethod
    def bands_of(self, x: Tensor, nats: Tensor) -> tuple[Band, ...]:
        """What each band of a cascade costs, of the nats of its levels, (B, L−1); () of a model of one stage."""

    @final
    @torch.no_grad()
    def bound(self, images: Any, source: Source | None = None, condition: Condition | None = None) -> Bound:
        """The bound with every level's KL drawn once: L network evaluations an example.

        Args:
            images: pixel values, or their places on the scale, (B, *D), a tensor or an array.
            source: of the noise; None is one stream an example, keyed by seed 0 and its place in the batch.
        """
        x = self.to_x(images)
        if not len(x):
            raise ValueError("no images: the bound is of at least one")
        source = Streams(0, "bound", range(len(x))) if source is None else source
        with evaluating(self):
            levels = [
                self.level_nats(x, torch.full((len(x),), level), source, condition)
                for level in range(2, self.num_levels + 1)
            ]
            nats = torch.stack(levels, 1) if levels else x.new_zeros(len(x), 0)
            reconstruction = self.reconstruction_nats(x, source, condition)
        bands = self.bands_of(x, nats)
        return Bound(self.prior_nats(x), nats, reconstruction, self.dims, self.decoder.discrete, bands)


def checked_level(level: int, chain: MarkovianVAE, first: int = 1) -> int:
    """The level, where the chain has it.

    Raises:
        ValueError: outside first…L.
    """
    if not first <= level <= chain.num_levels:
        raise ValueError(f"level={level} must lie in {first}…{chain.num_levels}: the chain has no such step")
    return level


@runtime_checkable
class TractableEncoder(Protocol):
    """An encoder whose marginals and posteriors are known: what Bayes' rule needs in the forms E4–E6."""

    def marginal(self, x: Tensor, level: int) -> Distribution:
        """P_enc(z_ℓ | z_0), ℓ = 1…L."""
        ...

    def posterior(self, x: Tensor, z: Tensor, level: int) -> Distribution:
        """P_enc(z_{ℓ−1} | z_ℓ, z_0), ℓ = 2…L."""
        ...


@contextmanager
def evaluating(*models: nn.Module | None) -> Iterator[None]:
    """The models in evaluation mode (no dropout), and back as they were; memory stays with the process meanwhile."""
    training = [(model, model.training) for model in models if model is not None]
    for model, _ in training:
        model.eval()
    try:
        with kept_memory():
            yield
    finally:
        for model, was in training:
            model.train(was)
