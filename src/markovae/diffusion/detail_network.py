"""The network of a cascade's detail stage: an ordinary network of images that sees the coarse image as well."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from markovae.diffusion import haar
from markovae.diffusion.forward import noise_scale, signal_scale
from markovae.diffusion.gaussian import expand
from markovae.networks.conditioning import Condition
from markovae.networks.network import Network
from markovae.networks.unet import UNet

LOGSNR_UNIT = 10.0  # of the plane that says how noisy the coarse image is


@final
class DetailNetwork(Network):
    """net(z, log-SNR, condition) -> out over details, (B, 3C, h, w), by a network of the images they belong to.

    The inner network sees the image of which `z` are the details: a x + s P ε in pixels, where P projects onto the
    details and the rest of x is the coarse image; beside it, enlarged, the coarse image itself and its log-SNR. What it
    makes of that is projected onto the details again. It is orthonormal both ways, so a squared error is one of pixels.

    Args:
        inner: of images, (C, 2h, 2w), with C + 1 plain channels.
        scale: what details are divided by before they are diffused: their log-SNR is that of the pixels + 2 ln scale.
    """

    def __init__(self, inner: UNet, scale: float) -> None:
        super().__init__()
        self.inner, self.scale = inner, scale
        self.stride, self.num_classes = max(1, inner.stride // 2), inner.num_classes

    def outer_weights(self) -> tuple[Tensor, ...]:
        """The inner network's."""
        return self.inner.outer_weights()

    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> Tensor:
        """Predict the target of the details, (B, 3C, h, w), or twice as many channels with a head.

        Raises:
            ValueError: without a coarse image.
        """
        coarse = None if condition is None else condition.coarse
        if condition is None or coarse is None:
            raise ValueError("a detail stage needs the coarse image: give it in condition.coarse")
        pixels = logsnr.double() - 2 * math.log(self.scale)
        details = z * expand(noise_scale(pixels) / noise_scale(logsnr), z).to(z)
        coarse = coarse.to(z)
        low = coarse[:, :-1] * expand(2 * signal_scale(pixels), z).to(z)
        beside = F.interpolate(coarse, scale_factor=2, mode="nearest")
        seen = torch.cat([haar.merge(low, details), beside], 1)
        out = self.inner(seen, pixels, replace(condition, coarse=None))
        channels = low.shape[1]
        return torch.cat([haar.split(part)[1] for part in out.split(channels, 1)], 1)


def coarse_planes(image: Tensor, logsnr: Tensor) -> Tensor:
    """What `Condition.coarse` holds: the coarse image and a plane of its log-SNR, (B, C + 1, h, w).

    Args:
        image: z/a of the coarse image, (B, C, h, w).
        logsnr: its own, (B,) or ().
    """
    plane = expand(logsnr.to(image.device, torch.float64) / LOGSNR_UNIT, image).to(image)
    return torch.cat([image, plane.expand(len(image), 1, *image.shape[2:])], 1)
