"""Decoders over digits around the network's x̂: discretised Gaussians of three widths."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

from torch import Tensor

from markovae.decoder.base import Decoder
from markovae.decoder.discretised import DiscretisedGaussian
from markovae.errors import UserError
from markovae.forward import noise_scale, posterior_variance, signal_scale
from markovae.pixels import Pixels


class DiscretisedDecoder(Decoder, ABC):
    """A Gaussian of mean x̂ and width τ, cut into the bins of the digits.

    Args:
        pixels: the digits of the data and their scale.
    """

    def __init__(self, pixels: Pixels) -> None:
        super().__init__(pixels)
        self.digits = pixels

    @abstractmethod
    def scale(self, logsnr: Tensor) -> Tensor:
        """Standard deviation τ at the chain's log-SNRs λ_0…λ_L, (L+1,) -> (), float64."""

    def distribution(self, x_hat: Tensor, logsnr: Tensor, z: Tensor | None = None) -> DiscretisedGaussian:
        """P_pri(z_0 | z_1) at x̂, (B, *D), on the grid λ_0…λ_L; z_1 itself is not read."""
        return DiscretisedGaussian(x_hat, self.scale(logsnr).to(x_hat.device), self.digits)


@final
class StepDecoder(DiscretisedDecoder):
    """τ = s_1/a_1: what z_1 alone leaves unknown of a pixel. The default."""

    def scale(self, logsnr: Tensor) -> Tensor:
        """s_1/a_1."""
        return noise_scale(logsnr[1]) / signal_scale(logsnr[1])


@final
class HoLargeDecoder(DiscretisedDecoder):
    """τ = √β_1 = σ_1: level 1 with the step variance σ_t² = β_t of Ho et al.'s text."""

    def scale(self, logsnr: Tensor) -> Tensor:
        """σ_1 = s_1, since level 0 is clean."""
        return noise_scale(logsnr[1])


@final
class HoSmallDecoder(DiscretisedDecoder):
    """τ = √β̃_2: Ho et al.'s "fixedsmall", where the posterior variance of level 1 is replaced by that of level 2.

    Their code decodes so under its "fixedlarge" too.
    """

    def scale(self, logsnr: Tensor) -> Tensor:
        """√β̃_2.

        Raises:
            UserError: on a grid with one level.
        """
        if len(logsnr) < 3:
            raise UserError("Ho's small decoder takes the variance of level 2: measure on at least 2 levels")
        return posterior_variance(logsnr[1], logsnr[2]).sqrt()
