"""The decoder of a continuous variable: its nats are of a density, and have no bits until a bin width is named."""

from __future__ import annotations

from typing import final

from torch import Tensor

from markovae.decoder.base import Decoder
from markovae.forward import noise_scale, signal_scale
from markovae.gaussian import Gaussian


@final
class DensityDecoder(Decoder):
    """p(z_0 | z_1) = N(x̂, s_1²/a_1²): the density of a real vector. Data are floats, on the model's scale."""

    discrete: bool = False

    def __init__(self) -> None:
        super().__init__(None)

    def distribution(self, x_hat: Tensor, logsnr: Tensor, z: Tensor | None = None) -> Gaussian:
        """N(x̂, s_1²/a_1²), over (B, *D); z_1 itself is not read."""
        scale = noise_scale(logsnr[1]) / signal_scale(logsnr[1])
        return Gaussian(x_hat, (scale**2).to(x_hat.device))
