"""The digits, small U-Nets for them, and what the experiments need to say about networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

import markovae as mv
from markovae.data.images import ImageData
from markovae.diffusion.forward import noised
from markovae.diffusion.schedule import NoiseSchedule
from markovae.diffusion.target import noise_ratio
from markovae.networks.conditioning import Condition
from markovae.networks.network import Network
from markovae.randomness import Streams

SMALL = (
    "network.width=16",
    "network.multipliers=[1,2]",
    "network.patch=1",
    "network.blocks=1",
    "network.attention=[]",
    "network.embedding=64",
    "network.classes=false",
    "train.precision=float32",
    "train.batch=32",
    "train.level_sampling=uniform",
)
"""75,000 weights."""
DIMS = 64


def parts() -> tuple[ImageData, Tensor]:
    """The 1,437 digits to train on, without labels, and the 360 held out."""
    splits = mv.load_data("digits")
    held_out = torch.cat([torch.from_numpy(part.images) for part in (splits.validation, splits.test)])
    return ImageData(splits.train.images, bins=splits.train.bins), held_out


def config(settings: Sequence[str]) -> mv.Config:
    """The small model's configuration with these settings."""
    return mv.Config().with_settings([*SMALL, *settings])


def model(made: mv.Config) -> mv.Diffusion:
    """A fresh model of digits."""
    return mv.create(made, (1, 8, 8), bins=17)


def bits_of(measured: mv.Measurement) -> list[float]:
    """Bits/dim image by image."""
    return (measured.total / (DIMS * math.log(2))).tolist()


def noise_error(trained: mv.Diffusion, images: Tensor, draws: int = 16) -> list[float]:
    """E‖ε̄ − ε̂‖²/d of each held-out image, levels drawn evenly; the same draws for every model."""
    x, grid = trained.to_x(images).float(), trained.schedule.logsnr
    count = len(x)
    total = torch.zeros(count, dtype=torch.float64)
    for draw in range(draws):
        level = 1 + _spread(count, draws, draw, trained.num_levels)
        noise = Streams(0, "held-out noise", range(count), draw).normal(x.shape[1:], torch.float32)
        with torch.no_grad():
            x_hat = trained.denoise(noised(x, noise, grid[level]), grid[level])
        # z is known, so a x + s ε̄ = a x̂ + s ε̂.
        scale = (0.5 * grid[level]).exp().reshape(-1, 1, 1, 1)
        total += ((scale * (x_hat - x)) ** 2).flatten(1).mean(1)
    return (total / draws).tolist()


def _spread(count: int, draws: int, draw: int, levels: int) -> Tensor:
    """Places 0…levels−1, (count,): multiples of the golden ratio, even over the images and over each one's draws."""
    place = (torch.arange(count, dtype=torch.float64) * draws + draw) * (5**0.5 - 1) / 2
    return (place % 1 * levels).long()


@final
class ScaledByRho(Network):
    """ρ_ℓ·net(z, λ): a network of one step's noise whose inner output has the scale of the cumulative noise.

    Args:
        inner: predicts ε̄.   schedule: the training grid.
    """

    def __init__(self, inner: Network, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.inner, grid = inner, schedule.logsnr
        self.stride, self.num_classes = inner.stride, inner.num_classes
        self.rho = noise_ratio(grid[:-1], grid[1:])[0]
        self.falling = -grid[1:].contiguous()

    def outer_weights(self) -> tuple[Tensor, ...]:
        return self.inner.outer_weights()

    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> Tensor:
        level = torch.searchsorted(self.falling, -logsnr.double() - 1e-9)
        return self.rho[level].float().reshape(-1, 1, 1, 1) * self.inner(z, logsnr, condition)


@final
class LevelBlind(Network):
    """A network that is told log-SNR 0 whatever the level."""

    def __init__(self, inner: Network) -> None:
        super().__init__()
        self.inner = inner
        self.stride, self.num_classes = inner.stride, inner.num_classes

    def outer_weights(self) -> tuple[Tensor, ...]:
        return self.inner.outer_weights()

    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> Tensor:
        return self.inner(z, torch.zeros_like(logsnr), condition)
