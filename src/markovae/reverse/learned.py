"""A variance for each pixel, read from the second half of the network's output."""

from __future__ import annotations

from typing import final

from torch import Tensor

from markovae.forward import noise_scale, posterior_variance
from markovae.gaussian import expand
from markovae.reverse.base import IndependentVariance


@final
class LearnedVariance(IndependentVariance):
    r"""ln v = ln β̃_ℓ + f (ln σ_ℓ² − ln β̃_ℓ), f = (1 + head)/2: geometric between β̃ and σ², and free to go beyond.

    A head of −1 is β̃, 1 is σ², 0 their geometric mean; no bound is put on it, so that v can be wider or narrower
    than both. ln σ² − ln β̃ = ln s_ℓ² − ln s_{ℓ−1}².
    Source: Nichol & Dhariwal 2021, eq. 15.
    """

    channels: int = 2

    def variance(self, logsnr_prev: Tensor, logsnr: Tensor, head: Tensor | None) -> Tensor:
        """v, (B, *D), float64.

        Raises:
            ValueError: without a head.
        """
        if head is None:
            raise ValueError("a learned variance needs the second half of the network's output")
        spread = 2 * (noise_scale(logsnr).log() - noise_scale(logsnr_prev).log())
        fraction = 0.5 * (1 + head.double())
        floor = posterior_variance(logsnr_prev, logsnr).log()
        return (expand(floor, head) + fraction * expand(spread, head)).exp()

    def head_loss(self, x: Tensor, x_hat: Tensor, logsnr_prev: Tensor, logsnr: Tensor, head: Tensor) -> Tensor:
        """The level's KL with the mean's gradient detached: it teaches the head alone, nats, (B,); ℓ ≥ 2.

        Source: Nichol & Dhariwal 2021, section 3.1.
        """
        return self.kl(x, x_hat.detach(), logsnr_prev, logsnr, head)
