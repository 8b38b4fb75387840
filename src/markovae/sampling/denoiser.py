"""What a sampler asks of a model, and the wrappers that keep x̂ within the pixels' range."""

from __future__ import annotations

from typing import Protocol, final

import torch
from torch import Tensor

from markovae.diffusion.gaussian import expand
from markovae.diffusion.model import Diffusion
from markovae.networks.conditioning import Condition


class Denoiser(Protocol):
    """Anything that predicts z_0: a `Diffusion`, or a wrapper around one."""

    def predict(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
        """(x̂, head) at z, (B, *D); logsnr () or (B,), float64; head is for a learned reverse variance."""
        ...


@final
class Clipped:
    """Static thresholding: x̂ held to [−limit, limit]. Off by default; it defines another model.

    Args:
        inner: the denoiser.
        limit: > 0, on the model's scale; 1 is the range of the pixels.
    Source: Saharia et al. 2022 (Imagen), section 2.3.
    """

    def __init__(self, inner: Denoiser, limit: float = 1.0) -> None:
        if not limit > 0:
            raise ValueError(f"limit={limit:g} must be positive: x̂ is held to [-limit, limit]")
        self.inner, self.limit = inner, limit

    def predict(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
        """(clipped x̂, head)."""
        x_hat, head = self.inner.predict(z, logsnr, condition)
        return x_hat.clamp(-self.limit, self.limit), head


@final
class DynamicallyClipped:
    """Dynamic thresholding: x̂ clipped to [−m, m] and divided by m, m = max(1, a quantile of |x̂|) an example.

    Args:
        inner: the denoiser.
        quantile: in (0, 1].
    Source: Saharia et al. 2022 (Imagen), section 2.3.
    """

    def __init__(self, inner: Denoiser, quantile: float = 0.995) -> None:
        if not 0 < quantile <= 1:
            raise ValueError(f"quantile={quantile:g} must lie in (0, 1]: it is a share of the pixels")
        self.inner, self.quantile = inner, quantile

    def predict(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
        """(thresholded x̂, head)."""
        x_hat, head = self.inner.predict(z, logsnr, condition)
        reach = torch.quantile(x_hat.abs().flatten(1).float(), self.quantile, dim=1).clamp(min=1).to(x_hat)
        reach = expand(reach, x_hat)
        return x_hat.clamp(-reach, reach) / reach, head


@final
class MeanOnly:
    """x̂ alone: what a solver needs of a model whose reverse variance would also ask for ∂x̂/∂z.

    Args:
        model: a model whose `denoise` gives x̂.
    """

    def __init__(self, model: Diffusion) -> None:
        self.model = model

    def predict(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
        """(x̂, None)."""
        return self.model.denoise(z, logsnr, condition), None
