"""What every decoder is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from markovae.pixels import Pixels
from markovae.vae import Distribution


class Decoder(nn.Module, ABC):
    """P_pri(z_0 | z_1), from what the network makes of z_1 and from z_1 itself.

    `discrete` is True where the decoder gives probabilities of digits; a density has no bits without a bin width.

    Args:
        pixels: the digits of the data and their scale; None for a continuous variable.
    """

    discrete: bool = True

    def __init__(self, pixels: Pixels | None) -> None:
        super().__init__()
        self.pixels = pixels

    @abstractmethod
    def distribution(self, x_hat: Tensor, logsnr: Tensor, z: Tensor | None = None) -> Distribution:
        """P_pri(z_0 | z_1), over (B, *D).

        Args:
            x_hat: the network's x̂ at level 1, (B, *D).   logsnr: the chain's λ_0…λ_L, (L+1,), float64.
            z: the latent z_1, (B, *D); a decoder that reads it says so.
        """
