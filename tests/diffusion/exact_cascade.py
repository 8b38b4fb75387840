"""Gaussian images of a 1/f kind, and the cascade whose stages have the exact conditional denoisers."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor, nn

from markovae.diffusion.cascade import Cascade, separated
from markovae.diffusion.decoder import DensityDecoder, decoder_named
from markovae.diffusion.forward import noise_scale, signal_scale
from markovae.diffusion.model import Diffusion
from markovae.diffusion.pixels import Pixels
from markovae.diffusion.reverse import PosteriorVariance
from markovae.diffusion.schedule import LogSNRLinear
from markovae.diffusion.target import target_named
from markovae.randomness import generator

SCALES = (0.4, 0.3)


def covariance(side: int) -> Tensor:
    """Of grey images, (side², side²): power falls as 1/f² of a cosine transform, plus a little white noise."""
    k = torch.arange(side, dtype=torch.float64)
    basis = torch.cos(math.pi * (2 * k[None, :] + 1) * k[:, None] / (2 * side))
    basis = basis / basis.norm(dim=1, keepdim=True)
    power = 0.5 / (1 + (k[:, None] ** 2 + k[None, :] ** 2)).flatten() + 0.01
    both = torch.kron(basis, basis)
    return both.T @ (power[:, None] * both)


class ExactNetwork(nn.Module):
    """E[y | z, coarse] of jointly Gaussian y and coarse image m, seen as m + e^{−λ_c/2} ε; the target is `data`.

    Args:
        own, coarse: rows of the maps x → y and x → m, of images with this covariance; no coarse rows for the base.
    """

    def __init__(self, covariance: Tensor, own: Tensor, coarse: Tensor, logsnr: Tensor) -> None:
        super().__init__()
        self.prior, self.between = own @ covariance @ own.T, own @ covariance @ coarse.T
        self.coarse = coarse @ covariance @ coarse.T
        self.values = self.given(float(logsnr))[1]  # eigenvalues of Cov(y | coarse), where the bound is measured

    @cache  # noqa: B019 - a few log-SNRs of a network that a test drops
    def given(self, logsnr: float) -> tuple[Tensor, Tensor, Tensor]:
        """(gain, eigenvalues, eigenvectors) of y given the coarse image at this log-SNR."""
        seen = self.coarse + math.exp(-logsnr) * torch.eye(len(self.coarse), dtype=torch.float64)
        gain = self.between @ torch.linalg.inv(seen)
        return gain, *torch.linalg.eigh(self.prior - gain @ self.between.T)

    def forward(self, z: Tensor, logsnr: Tensor, condition=None) -> Tensor:
        flat, a, s = z.double().flatten(1), signal_scale(logsnr)[:, None], noise_scale(logsnr)[:, None]
        coarse = None if condition is None else condition.coarse
        at = 0.0 if coarse is None else round(float(coarse[0, -1, 0, 0]) * 10, 6)
        gain, values, vectors = self.given(at)
        mean = torch.zeros_like(flat) if coarse is None else coarse[:, :-1].double().flatten(1) @ gain.T
        moved = ((flat - a * mean) @ vectors) * (a * values / (a**2 * values + s**2))
        return (mean + moved @ vectors.T).reshape(z.shape)


def white_details(side: int, octaves: int) -> Tensor:
    """A covariance whose details are independent, each as wide as its stage's scale says, (side², side²)."""
    units = torch.eye(side**2, dtype=torch.float64).reshape(-1, 1, side, side)
    bands = torch.cat([band.flatten(1) for band in separated(units, octaves)], 1).T
    parts = [covariance(side >> octaves) * 4.0**octaves]
    for number, scale in enumerate(SCALES[:octaves]):
        count = 3 * (side >> (octaves - number)) ** 2
        parts.append(torch.eye(count, dtype=torch.float64) * (scale * 2.0 ** (octaves - 1 - number)) ** 2)
    return bands.T @ torch.block_diag(*parts) @ bands


def exact_cascade(
    side: int, octaves: int, num_levels: int, start: float = 13.0, end: float = -9.0, cov: Tensor | None = None
) -> tuple[Cascade, Tensor]:
    """The cascade of grey images of this side, and their covariance."""
    cov = covariance(side) if cov is None else cov
    units = torch.eye(side**2, dtype=torch.float64).reshape(-1, 1, side, side)
    scales = SCALES[:octaves]
    factors = [2 * math.log(c * 2.0 ** (octaves - b)) for b, c in enumerate((1.0, *scales))]

    def stage(shape: tuple[int, int, int], unit: float, network: nn.Module) -> Diffusion:
        schedule = LogSNRLinear(num_levels, start + unit, end)
        made = Diffusion(network, schedule, target_named("data"), PosteriorVariance(), DensityDecoder(), shape)
        made.precision = torch.float64
        return made

    maps = []
    low, *details = separated(units, octaves)
    images = [low / 2.0**octaves]
    for b, (band, scale) in enumerate(zip(details, scales, strict=True)):
        maps.append((band / (scale * 2.0 ** (octaves - 1 - b))).flatten(1).T)
    x = units
    for _ in range(octaves - 1):
        x = separated(x, 1)[0] / 2
        images.insert(1, x)
    stages = []
    none = torch.zeros(0, side**2, dtype=torch.float64)
    base = ExactNetwork(cov, images[0].flatten(1).T, none, torch.tensor(0.0, dtype=torch.float64))
    stages.append(stage((1, side >> octaves, side >> octaves), factors[0], base))
    for b, own in enumerate(maps):
        at = torch.tensor(start + 2 * (octaves - b) * math.log(2), dtype=torch.float64)
        network = ExactNetwork(cov, own, images[b].flatten(1).T, at)
        half = side >> (octaves - b)
        stages.append(stage((3, half, half), factors[b + 1], network))
    return Cascade(stages, scales, DensityDecoder()), cov


def pixel_cascade(num_levels: int, octaves: int = 2, side: int = 8) -> tuple[Cascade, Tensor]:
    """A cascade of 256 pixel values with exact denoisers, and 400 images as it expects them, uint8."""
    model, cov = exact_cascade(side, octaves, num_levels, start=11.0, cov=white_details(side, octaves) / 8)
    stages = [model.stage(b) for b in range(octaves + 1)]
    made = Cascade(stages, model.scales, decoder_named("step", Pixels(256))).eval()
    return made, made.pixels.to_pixel_values(draw(cov, 400)).to(torch.uint8)


def draw(cov: Tensor, n: int, seed: int = 0) -> Tensor:
    """n images of this covariance, (n, 1, side, side), float64."""
    root = torch.linalg.cholesky(cov)
    side = math.isqrt(len(cov))
    noise = torch.randn(n, len(cov), generator=generator(seed, "images"), dtype=torch.float64)
    return (noise @ root.T).reshape(n, 1, side, side)


def expected_nats(model: Cascade, cov: Tensor) -> Tensor:
    """E of the bound over images and noise, in closed form, nats: top and levels of each band, and reconstruction."""
    total = torch.zeros((), dtype=torch.float64)
    for b in range(model.octaves + 1):
        stage = model.stage(b)
        network, grid = stage.network, stage.schedule.logsnr
        snr, values = grid[1:].exp(), network.values
        steps = -0.5 * snr[:-1] * torch.expm1(grid[2:] - grid[1:-1])
        total = total + (steps[:, None] * values / (1 + snr[1:, None] * values)).sum()
        variance = torch.sigmoid(-grid[-1])
        squares = torch.sigmoid(grid[-1]) * torch.diagonal(network.prior)
        total = total + 0.5 * (squares + variance - 1 - variance.log()).sum()
    width = torch.exp(-model.first_logsnr)
    finest = model.stage(-1)
    snr = finest.schedule.logsnr[1].exp()
    error = (finest.network.values / (1 + snr * finest.network.values)).sum()
    scale = model.scales[-1] ** 2 if model.octaves else 1.0
    low = model.dims // 4 if model.octaves else 0
    reconstruction = 0.5 * model.dims * torch.log(2 * math.pi * width) + 0.5 * low + 0.5 * scale * error / width
    return total + reconstruction


def entropy(cov: Tensor) -> Tensor:
    """½ ln det 2πe Σ, nats."""
    return 0.5 * (torch.linalg.slogdet(cov)[1] + len(cov) * math.log(2 * math.pi * math.e))
