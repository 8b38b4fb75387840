r"""A hierarchical VAE: encoder and prior are both learned Gaussians, trained together through the bound's form E1.

A step is N(keep·z + m(z), v·e^{h(z)}) with a small network for (m, h) that starts at zero: before training it is
the linear step of a diffusion, and the encoder of one is the fixed encoder that a learned one is compared with.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import final

import torch
from torch import Tensor, nn

from markovae.diffusion.decoder import DiscretisedGaussian
from markovae.diffusion.forms import e1
from markovae.diffusion.gaussian import Gaussian
from markovae.diffusion.markovian_vae import Distribution, MarkovianVAE, checked_level
from markovae.diffusion.pixels import Pixels
from markovae.randomness import generator


class TrainStep(nn.Module, ABC):
    """A conditional distribution as a part of a chain.

    Args:
        dims_in: of what is given.
        dims_out: of what is drawn.
    """

    def __init__(self, dims_in: int, dims_out: int) -> None:
        super().__init__()
        self.dims_in, self.dims_out = dims_in, dims_out

    @abstractmethod
    def given(self, z: Tensor) -> Distribution:
        """P(·|z), z (B, dims_in)."""


@final
class FixedStep(TrainStep):
    """N(keep·z, 1 − keep²): one step of a diffusion, with nothing to learn.

    Args:
        dims: of both sides.
        keep: α in (0, 1).
    """

    def __init__(self, dims: int, keep: float) -> None:
        super().__init__(dims, dims)
        _check_keep(keep)
        self.keep = keep

    def given(self, z: Tensor) -> Gaussian:
        """N(keep·z, 1 − keep²)."""
        return Gaussian(self.keep * z, torch.full((), 1 - self.keep**2, dtype=torch.float64, device=z.device))


@final
class LearnedStep(TrainStep):
    """N(keep·z + m(z), (1 − keep²) e^{h(z)}), each coordinate with its own variance; keep·z only where sizes agree.

    Args:
        dims_in, dims_out: of both sides.
        keep: α in (0, 1).
        width: of the hidden layer.
    """

    def __init__(self, dims_in: int, dims_out: int, keep: float, width: int = 64) -> None:
        super().__init__(dims_in, dims_out)
        _check_keep(keep)
        self.keep, self.network = keep, _perceptron(dims_in, 2 * dims_out, width)

    def given(self, z: Tensor) -> Gaussian:
        """The Gaussian at z, (B, dims_out), float64."""
        shift, log_ratio = self.network(z.double()).chunk(2, dim=1)
        straight = self.keep * z if self.dims_in == self.dims_out else 0.0
        return Gaussian(straight + shift, (1 - self.keep**2) * log_ratio.exp())


@final
class DigitStep(TrainStep):
    """A decoder over pixel values: a discretised Gaussian of learned mean and one learned width.

    Args:
        dims_in: of z_1.
        dims_out: number of pixels.
        pixels: the pixel values and their scale.
        width: hidden layer.
    """

    def __init__(self, dims_in: int, dims_out: int, pixels: Pixels, width: int = 64) -> None:
        super().__init__(dims_in, dims_out)
        self.network, self.pixels = _perceptron(dims_in, dims_out, width), pixels
        self.log_scale = nn.Parameter(torch.full((), math.log(0.5), dtype=torch.float64))

    def given(self, z: Tensor) -> DiscretisedGaussian:
        """Probabilities of the pixel values at z, (B, dims_out)."""
        return DiscretisedGaussian(self.network(z.double()), self.log_scale.exp(), self.pixels)


@final
class HierarchicalVAE(MarkovianVAE):
    """Chains made of `TrainStep`s; P_pri(z_L) = N(0, I). Everything in float64.

    Args:
        encoder: steps ℓ = 1…L, from z_{ℓ−1} to z_ℓ.
        prior: steps ℓ = 1…L, from z_ℓ to z_{ℓ−1}.
    Raises:
        ValueError: for encoder and prior of different lengths or shapes.
    """

    def __init__(self, encoder: Sequence[TrainStep], prior: Sequence[TrainStep]) -> None:
        super().__init__()
        if len(encoder) < 1 or len(encoder) != len(prior):
            raise ValueError(
                f"{len(encoder)} encoder steps and {len(prior)} prior steps: both chains have L >= 1 steps"
            )
        for level, (up, down) in enumerate(zip(encoder, prior, strict=True), start=1):
            if (up.dims_in, up.dims_out) != (down.dims_out, down.dims_in):
                raise ValueError(
                    f"level {level}: the encoder maps {up.dims_in} dimensions to {up.dims_out}, "
                    f"the prior {down.dims_in} to {down.dims_out}"
                )
        if any(before.dims_out != after.dims_in for before, after in pairwise(encoder)):
            raise ValueError(
                f"encoder steps to {[step.dims_out for step in encoder]} dimensions do not join to one chain"
            )
        self.num_levels = len(encoder)
        self.encoder_steps, self.prior_steps = nn.ModuleList(encoder), nn.ModuleList(prior)
        self._encoder, self._prior = tuple(encoder), tuple(prior)

    def encoder_step(self, z_prev: Tensor, level: int) -> Distribution:
        """P_enc(z_ℓ|z_{ℓ−1})."""
        return _given(self._encoder[checked_level(level, self) - 1], z_prev)

    def prior_top(self, batch: int) -> Gaussian:
        """N(0, I)."""
        mean = torch.zeros(batch, self._encoder[-1].dims_out, dtype=torch.float64)
        return Gaussian(mean, torch.ones((), dtype=torch.float64))

    def prior_step(self, z: Tensor, level: int) -> Distribution:
        """P_pri(z_{ℓ−1}|z_ℓ)."""
        return _given(self._prior[checked_level(level, self) - 1], z)


def train_through_e1(
    vae: MarkovianVAE, data: Tensor, steps: int, batch: int = 256, lr: float = 3e-3, seed: int = 0
) -> Iterator[float]:
    """Minimize E1 over everything the chains can learn; yields each step's mean nats.

    Paths are drawn by reparameterisation, so one gradient trains encoder and prior together. Adam, the rate falling
    linearly to zero; batches and noise are keyed by (seed, step).

    Args:
        data: examples, (N, d).
        batch: examples a step, drawn with replacement.
    Raises:
        ValueError: without steps, examples or parameters.
    """
    parameters = [p for p in vae.parameters() if p.requires_grad]
    if steps < 1 or batch < 1 or not len(data) or not parameters:
        raise ValueError(
            f"steps={steps}, batch={batch}, {len(data)} examples and {len(parameters)} parameters: "
            "training needs at least one of each"
        )
    optimizer = torch.optim.Adam(parameters, lr)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        source = generator(seed, "train through E1", step)
        chosen = torch.randint(len(data), (batch,), generator=source)
        nats = e1(vae, vae.encode(data[chosen], source)).nats.mean()
        optimizer.zero_grad()
        nats.backward()
        optimizer.step()
        yield float(nats.detach())


def _given(step: TrainStep, z: Tensor) -> Distribution:
    if z.ndim != 2 or z.shape[1] != step.dims_in:
        raise ValueError(f"vectors of shape {tuple(z.shape)} must be (B, {step.dims_in}): flatten images first")
    return step.given(z)


def _perceptron(dims_in: int, dims_out: int, width: int) -> nn.Sequential:
    last = nn.Linear(width, dims_out, dtype=torch.float64)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    layers = [nn.Linear(dims_in, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
    return nn.Sequential(*[layer.double() for layer in layers], last)


def _check_keep(keep: float) -> None:
    if not 0 < keep < 1:
        raise ValueError(f"keep={keep!r} must lie in (0, 1): it is the signal kept in one step")
