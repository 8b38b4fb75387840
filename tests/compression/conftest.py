"""Small images, and a model of them that is good and fast: the best one of a Gaussian population."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from markovae.build import create
from markovae.compression.mvz_format import read_mvz
from markovae.config import Config
from markovae.diffusion.decoder import decoder_named
from markovae.diffusion.fitted_variance import variance_named
from markovae.diffusion.model import Diffusion
from markovae.diffusion.pixels import Pixels
from markovae.diffusion.schedule import LogSNRLinear
from markovae.diffusion.target import DATA

pytest.importorskip("constriction", reason="the extra codec is not installed")


def pictures(count: int, channels: int = 1, seed: int = 0, side: int = 8) -> Any:
    """Smooth images of side x side pixels."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(128, 50, (count, channels, side // 4, side // 4))
    fine = coarse.repeat(4, 2).repeat(4, 3) + rng.normal(0, 12, (count, channels, side, side))
    return fine.round().clip(0, 255).astype(np.uint8)


class GaussianDenoiser(nn.Module):
    """E[x | z] for a Gaussian population with the mean and covariance of these images; and of no class."""

    num_classes = 0

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        flat = x.flatten(1).double()
        values, vectors = torch.linalg.eigh(torch.cov(flat.T))
        self.mean, self.values, self.vectors = nn.Parameter(flat.mean(0).float()), values, vectors

    def forward(self, z: Tensor, logsnr: Tensor, condition: object = None) -> Tensor:
        level = logsnr.double().expand(len(z))[:, None]
        signal, noise = torch.sigmoid(level).sqrt(), torch.sigmoid(-level)
        shrunk = signal * self.values / (signal**2 * self.values + noise)
        mean = self.mean.double()
        x_hat = ((z.flatten(1).double() - signal * mean) @ self.vectors * shrunk) @ self.vectors.T + mean
        return x_hat.view_as(z).to(z.dtype)


def gaussian_model(
    channels: int = 1, reverse: str = "posterior", decoder: str = "step", levels: int = 64, side: int = 8
) -> Diffusion:
    """The best model of a Gaussian population like `pictures`."""
    pixels, shape = Pixels(256), (channels, side, side)
    known = pictures(max(1000, 5 * channels * side**2), channels, seed=9, side=side)
    network = GaussianDenoiser(pixels.to_x(torch.from_numpy(known)))
    parts = variance_named(reverse, shape), decoder_named(decoder, pixels)
    return Diffusion(network, LogSNRLinear(levels), DATA, *parts, shape).eval()


@pytest.fixture
def gaussian() -> Callable[..., Diffusion]:
    """`gaussian_model`."""
    return gaussian_model


@pytest.fixture
def model_of(tiny_config: Config) -> Callable[..., Diffusion]:
    """`model_of(num_classes, target__reverse="learned")`: the package's own network, which was never trained."""

    def make(num_classes: int = 0, **settings: str) -> Diffusion:
        named = [f"{name.replace('__', '.')}={value}" for name, value in settings.items()]
        made = create(tiny_config.with_settings(named), (1, 8, 8), num_classes=num_classes)
        torch.manual_seed(0)
        for weight in made.network.parameters():  # a first output of zero would hide what the network says
            torch.nn.init.normal_(weight, std=0.05)
        return made

    return make


def with_header(data: bytes, **changed: Any) -> bytes:
    """The file with another header, and the checksums that belong to it."""
    file = read_mvz(data)
    header = replace(file.header, **changed)
    records = [file.record(number).to_bytes(header.check, number) for number in range(header.num_groups)]
    return header.to_bytes() + b"".join(records)
