"""Fixed features of the log-SNR and of the latent's fine detail, computed above the network's precision."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from markovae.system.device import Constants

LIMIT = 24.0  # beyond ±24 the latent is data or noise to float32 precision: the features stop there, ±inf included


def working_type(weight: Tensor) -> torch.dtype:
    """What a network works in: float64 where its weights are float64 (`network.double()`), else float32."""
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


FREQUENCIES = 16  # of the log-SNR


class LogSNREmbedding(nn.Module):
    """(B,) log-SNR -> (B, width): MLP of [λ/10, cos(ω_i λ), sin(ω_i λ)], ω_i geometric from 1/16 to 2.

    The features are formed in float64 and handed on in the working type (see `working_type`), so that two close levels
    stay apart.

    Args:
        width: size of the embedding.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frequencies = tuple(2.0 ** (-4 + 5 * i / (FREQUENCIES - 1)) for i in range(FREQUENCIES))
        self.first = nn.Linear(2 * FREQUENCIES + 1, width)
        self.second = nn.Linear(width, width)
        self._constants = Constants()

    def features(self, logsnr: Tensor) -> Tensor:
        """The fixed features, (B, features), in the working type, finite for every log-SNR."""
        device, level = logsnr.device, logsnr.double().clamp(-LIMIT, LIMIT)[:, None]
        phase = level * self._constants.get(
            device, make=lambda: torch.tensor(self.frequencies, dtype=torch.float64, device=device)
        )
        return torch.cat([level / 10, phase.cos(), phase.sin()], dim=1).to(working_type(self.first.weight))

    def forward(self, logsnr: Tensor) -> Tensor:
        """Embed the log-SNR of each example, (B,) -> (B, width)."""
        hidden: Tensor = self.second(F.silu(self.first(self.features(logsnr))))
        return hidden


def positions(height: int, width: int, octaves: int, like: Tensor) -> Tensor:
    """Where a pixel is, relative to the image: u, v ∈ (−1, 1), and sin and cos of π·2^k·u, π·2^k·v.

    Args:
        octaves: how many k, from 0; the result has 2 + 4·octaves channels, or none where octaves is 0.
        like: gives batch, device and dtype.
    Returns: (B, channels, height, width).
    """
    batch = len(like)
    if not octaves:
        return like.new_zeros(batch, 0, height, width)
    precise = working_type(like)
    along = [(2 * torch.arange(n, device=like.device) + 1).to(precise) / n - 1 for n in (height, width)]
    found = list(torch.meshgrid(*along, indexing="ij"))
    for u in tuple(found):
        for k in range(octaves):
            found += [torch.sin(math.pi * 2**k * u), torch.cos(math.pi * 2**k * u)]
    return torch.stack(found).to(like.dtype).expand(batch, -1, -1, -1)


def smoothed_difference(z: Tensor, noise: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """How far each pixel lies from the like-colored pixels around it, in units of the noise.

    A bilateral filter at the scale of the noise, over the window j of (2·radius + 1)² pixels around i:

        w_ij = exp(−‖z_j − z_i‖² / (4Cs²)),   D_i = Σ_j w_ij (z_i − z_j) / (s Σ_j w_ij)

    On a flat area D is the pixel's noise up to the window's mean, however small s; alone on an edge it is 0.

    Args:
        z: (B, C, H, W).
        noise: s, (B, 1, 1, 1).
        radius: of the window.
    Returns: D, (B, C, H, W), and the log of the mean weight over the window, (B, 1, H, W).
    Source: Tomasi and Manduchi 1998, with the noise's own scale for the range.
    """
    height, width = z.shape[2:]
    scaled = z / noise
    if z.device.type != "cpu":
        return _in_rows(scaled, radius)
    total, weight = torch.zeros_like(scaled), torch.ones_like(scaled[:, :1])
    reach = min(radius, width - 1)
    # Each pair of pixels once: one of them is `here`, the other `there`, moved by (down, right).
    for down in range(min(radius, height - 1) + 1):
        for right in range(-reach if down else 1, reach + 1):
            left, shifted = max(0, -right), max(0, right)
            here = (..., slice(0, height - down), slice(left, width - shifted))
            there = (..., slice(down, height), slice(shifted, width - left))
            apart = scaled[here] - scaled[there]
            similar = torch.exp(apart.square().mean(1, keepdim=True) * -0.25)
            weight[here] += similar
            weight[there] += similar
            pull = similar * apart
            total[here] += pull
            total[there] -= pull
    return total / weight, (weight / (2 * radius + 1) ** 2).log()


FAR = 1e18  # weighs nothing, and its square is a float32 still


def _in_rows(scaled: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """`smoothed_difference` of z/s, a row of the window at a time: few large operations, twice the products."""
    height, width = scaled.shape[2:]
    around = F.pad(scaled, (radius,) * 4, value=FAR).unfold(3, width, 1).movedim(3, 1)
    pulls, weights = [], []
    for row in around.unfold(3, height, 1).unbind(3):
        apart = scaled[:, None] - row.mT
        similar = torch.exp(apart.square().mean(2, keepdim=True) * -0.25)
        weights.append(similar.sum(1))
        pulls.append((similar * apart).sum(1))
    total, weight = torch.stack(pulls).sum(0), torch.stack(weights).sum(0)
    return total / weight, (weight / (2 * radius + 1) ** 2).log()


class Detail(nn.Module):
    """The latent and its detail in units of the noise, (B, C, H, W) -> (B, channels, H, W), in the type of the latent.

    Near the data the noise s is far below the grey levels that bf16 keeps apart, and a convolution of unit
    weights cannot amplify it. Three fixed features bring it to unit size, from s alone:

    - differences to the right and lower neighbour, tanh((z_j − z_i)/(2s)): ±1 across an edge, the difference
      of two noises on a flat area;
    - tanh(D/2) and the log weight of `smoothed_difference`: the distance from the like-colored pixels around;
    - for each frequency f in cycles per unit of data, sin and cos of 2πf·z/a, damped by their expected
      contrast exp(−½(2πf·s/a)²): the phase of the value on the grid of its grey levels once that is visible.
      (VDM, Kingma et al. 2021, section 5.1, uses such features undamped.)

    Args:
        channels: C.
        differences: whether the neighbor differences are included.
        frequencies: f; 127.5 is the grid of x/127.5 − 1.
        radius: of the window of `smoothed_difference`; 0 leaves it out.
    """

    def __init__(
        self, channels: int, differences: bool = True, frequencies: tuple[float, ...] = (), radius: int = 0
    ) -> None:
        super().__init__()
        self.differences, self.frequencies, self.radius = differences, frequencies, radius
        self.channels = channels * (1 + 2 * differences + 2 * len(frequencies))
        self.channels += (channels + 1) * (radius > 0)

    def forward(self, z: Tensor, logsnr: Tensor) -> Tensor:
        """Stack the latent and its features; logsnr is (B,)."""
        level = logsnr.clamp(-LIMIT, LIMIT).to(z.dtype)[:, None, None, None]
        found = [z]
        if self.differences:
            scale = 0.5 * torch.sigmoid(-level).rsqrt()
            right = F.pad(z[..., 1:] - z[..., :-1], (0, 1))
            below = F.pad(z[..., 1:, :] - z[..., :-1, :], (0, 0, 0, 1))
            found += [torch.tanh(right * scale), torch.tanh(below * scale)]
        if self.radius:
            apart, weight = smoothed_difference(z, torch.sigmoid(-level).sqrt(), self.radius)
            found += [torch.tanh(0.5 * apart), weight]
        for frequency in self.frequencies:
            omega = 2 * math.pi * frequency
            phase = z * (omega * torch.sigmoid(level).rsqrt())
            contrast = torch.exp(-0.5 * omega**2 * torch.exp(-level))
            found += [phase.sin() * contrast, phase.cos() * contrast]
        return torch.cat(found, dim=1)
