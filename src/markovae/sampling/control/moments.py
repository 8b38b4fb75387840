r"""Posterior sampling by moment matching: an observation y = A x + σ_y n turns one denoiser into another.

Where P(x|z) is taken as N(x̂, C), the denoiser given y too is
    E[x|z, y] = x̂ + C Aᵀ (σ_y² I + A C Aᵀ)⁻¹ (y − A x̂),
and any sampler run with it samples P(x|y). For Gaussian data P(x|z) is Gaussian, and it is exact.
Source: Rozet et al. 2024 (moment matching posterior sampling); Song et al. 2023 (ΠGDM).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from markovae.forward import noise_scale, signal_scale
from markovae.gaussian import expand, sum_dims
from markovae.networks.condition import Condition
from markovae.sampling.control.operators import LinearOperator
from markovae.sampling.denoiser import Denoiser

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Observation:
    """y = A x + σ_y n.

    Args:
        operator: A.   y: (B, *observation).   noise: σ_y ≥ 0, on the model's scale.
    """

    operator: LinearOperator
    y: Tensor
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not self.noise >= 0:
            raise ValueError(f"noise={self.noise:g} must be at least 0: it is the observation's standard deviation")


class PosteriorCovariance(ABC):
    """C ≈ Cov[x|z], as a product."""

    @abstractmethod
    def at(
        self, inner: Denoiser, z: Tensor, logsnr: Tensor, condition: Condition | None
    ) -> tuple[Tensor, Tensor | None, Product]:
        """(x̂, head, v ↦ C v) at z; v as x̂, (B, *D)."""


@final
class FullCovariance(PosteriorCovariance):
    """C = (s²/a) ∂x̂/∂z, exact for an exact denoiser; a product is one backward pass through the network.

    Source: second-order Tweedie formula (Efron 2011, section 2).
    """

    def at(
        self, inner: Denoiser, z: Tensor, logsnr: Tensor, condition: Condition | None
    ) -> tuple[Tensor, Tensor | None, Product]:
        """(x̂, head, v ↦ (s²/a) (∂x̂/∂z)ᵀ v)."""
        scale = expand(noise_scale(logsnr) ** 2 / signal_scale(logsnr), z).to(z)
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            x_hat, head = inner.predict(z, logsnr, condition)

        def product(v: Tensor) -> Tensor:
            return scale * torch.autograd.grad(x_hat, z, v.to(x_hat), retain_graph=True)[0]

        return x_hat.detach(), None if head is None else head.detach(), product


@final
class IsotropicCovariance(PosteriorCovariance):
    """C = r² I, r² = v s²/(a² v + s²): that of independent pixels of variance v. No backward pass.

    Args:
        variance: v > 0, of a pixel, on the model's scale.
    """

    def __init__(self, variance: float = 1.0) -> None:
        if not variance > 0:
            raise ValueError(f"variance={variance:g} must be positive: it is that of the data")
        self.variance = variance

    def at(
        self, inner: Denoiser, z: Tensor, logsnr: Tensor, condition: Condition | None
    ) -> tuple[Tensor, Tensor | None, Product]:
        """(x̂, head, v ↦ r² v)."""
        x_hat, head = inner.predict(z, logsnr, condition)
        a2, s2 = signal_scale(logsnr) ** 2, noise_scale(logsnr) ** 2
        width = expand(self.variance * s2 / (a2 * self.variance + s2), z).to(z)
        return x_hat, head, lambda v: width * v


@final
class MomentMatched:
    """E[x|z, y] as a denoiser.

    The inner problem is solved by conjugate residuals, each iteration one product with C.

    Args:
        inner: the denoiser without the observation.   observation: A, y, σ_y.
        covariance: C.   iterations: of the solver, ≥ 1.
    """

    def __init__(
        self,
        inner: Denoiser,
        observation: Observation,
        covariance: PosteriorCovariance | None = None,
        iterations: int = 5,
    ) -> None:
        if iterations < 1:
            raise ValueError(f"iterations={iterations} must be at least 1: each is one product with the covariance")
        self.inner, self.observation = inner, observation
        self.covariance = FullCovariance() if covariance is None else covariance
        self.iterations = iterations

    def predict(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
        """(E[x|z, y], head); logsnr () or (B,)."""
        operator, noise = self.observation.operator, self.observation.noise
        x_hat, head, product = self.covariance.at(self.inner, z, logsnr.to(z.device), condition)

        def normal(w: Tensor) -> Tensor:
            return noise**2 * w + operator.apply(product(operator.transpose(w)))

        residual = self.observation.y.to(x_hat) - operator.apply(x_hat)
        solution = least_residual(normal, residual, self.iterations)
        return x_hat + product(operator.transpose(solution)), head


def least_residual(product: Product, b: Tensor, iterations: int) -> Tensor:
    """w with K w ≈ b for a matrix K given by its product, each example by itself, (B, *D).

    Each iteration makes ‖b − K w‖ the least it can be over one more direction, so that a K which is no covariance — a
    network's Jacobian is neither symmetric nor positive — cannot make w run away, as conjugate gradients let it. An
    example stops where its residual is within rounding of nothing, or where K adds no new direction.
    Source: Eisenstat, Elman & Schultz 1983 (generalised conjugate residuals).
    """
    w, residual = torch.zeros_like(b), b
    least = sum_dims(b**2) * torch.finfo(b.dtype).eps ** 2
    past: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(iterations):
        direction, image = residual, product(residual)
        whole = sum_dims(image**2)
        for other, its_image, size in past:
            share = expand(
                torch.where(size > 0, sum_dims(image * its_image) / torch.where(size > 0, size, 1.0), 0.0), b
            )
            direction, image = direction - share * other, image - share * its_image
        size = sum_dims(image**2)
        going = (sum_dims(residual**2) > least) & (size > whole * torch.finfo(b.dtype).eps)
        if not bool(going.any()):
            break
        size = torch.where(going, size, 0.0)
        step = expand(torch.where(going, sum_dims(residual * image) / torch.where(going, size, 1.0), 0.0), b)
        w, residual = w + step * direction, residual - step * image
        past.append((direction, image, size))
    return w
