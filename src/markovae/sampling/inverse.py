"""What an observation keeps of an image: linear maps A with their transposes, on (B, C, H, W)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from markovae.diffusion.forward import noise_scale, signal_scale
from markovae.diffusion.gaussian import expand, factor, sum_dims
from markovae.networks.conditioning import Condition
from markovae.sampling.denoiser import Denoiser


class LinearOperator(ABC):
    """A and Aᵀ, with ⟨A x, y⟩ = ⟨x, Aᵀ y⟩; every example of a batch alike."""

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """A x, (B, *D) -> (B, *observation)."""

    @abstractmethod
    def transpose(self, y: Tensor) -> Tensor:
        """Aᵀ y, (B, *observation) -> (B, *D)."""


@final
class Known(LinearOperator):
    """Inpainting: the known pixels, the others put to zero.

    Args:
        known: True where a pixel is known; broadcastable to (B, *D).
    """

    def __init__(self, known: Tensor) -> None:
        self.known = known.bool()

    def apply(self, x: Tensor) -> Tensor:
        """x where known, else 0."""
        return torch.where(self.known.to(x.device), x, torch.zeros_like(x))

    def transpose(self, y: Tensor) -> Tensor:
        """The same map: it is a projection."""
        return self.apply(y)


@final
class BoxDown(LinearOperator):
    """The mean of each factor × factor square: the super-resolution problem.

    Args:
        factor: ≥ 2; height and width must be multiples of it.
    """

    def __init__(self, factor: int) -> None:
        if factor < 2:
            raise ValueError(f"factor={factor} must be at least 2: it is the side of the squares that are averaged")
        self.factor = factor

    def apply(self, x: Tensor) -> Tensor:
        """Means of squares, (B, C, H/f, W/f).

        Raises:
            ValueError: where f does not divide the height and the width.
        """
        if x.shape[-1] % self.factor or x.shape[-2] % self.factor:
            raise ValueError(f"an image of {x.shape[-2]}x{x.shape[-1]} does not divide into squares of {self.factor}")
        return functional.avg_pool2d(x, self.factor)

    def transpose(self, y: Tensor) -> Tensor:
        """Each value spread over its square, divided by f², (B, C, H, W)."""
        spread = y.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)
        return spread / self.factor**2


@final
class Blur(LinearOperator):
    """A Gaussian blur, K_h x K_wᵀ, each row of K a kernel summing to 1 and mirrored at the borders.

    Args:
        height, width: of the images.
        std: of the kernel in pixels, > 0.
    """

    def __init__(self, height: int, width: int, std: float) -> None:
        if not std > 0:
            raise ValueError(f"std={std:g} must be positive: it is the blur's width in pixels")
        self.rows, self.columns = _mirrored(height, std), _mirrored(width, std)

    def apply(self, x: Tensor) -> Tensor:
        """The blurred image, (B, C, H, W)."""
        return self.rows.to(x) @ x @ self.columns.to(x).T

    def transpose(self, y: Tensor) -> Tensor:
        """K_hᵀ y K_w, (B, C, H, W)."""
        return self.rows.to(y).T @ y @ self.columns.to(y)


@final
class Grey(LinearOperator):
    """Luminance of a color image, 0.299 R + 0.587 G + 0.114 B: the colorization problem.

    Source: ITU-R BT.601.
    """

    def __init__(self) -> None:
        self.weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).reshape(3, 1, 1)

    def apply(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 1, H, W).

        Raises:
            ValueError: for images without three channels.
        """
        if x.shape[1] != 3:
            raise ValueError(f"images of {x.shape[1]} channel(s) have no color to take away: three are needed")
        return (self.weights.to(x) * x).sum(1, keepdim=True)

    def transpose(self, y: Tensor) -> Tensor:
        """The luminance times each channel's weight, (B, 3, H, W)."""
        return self.weights.to(y) * y


def _mirrored(size: int, std: float) -> Tensor:
    reach = math.ceil(4 * std)
    offset = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-0.5 * (offset.double() / std) ** 2)
    place = (torch.arange(size)[:, None] + offset) % (2 * size)  # mirrored without end: 0 … n−1, n−1 … 0, 0 …
    place = torch.where(place < size, place, 2 * size - 1 - place)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    return matrix.scatter_add_(1, place, (kernel / kernel.sum()).expand(size, -1))


Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Observation:
    """y = A x + σ_y n.

    Args:
        operator: A.
        y: (B, *observation).
        noise: σ_y ≥ 0, on the model's scale; of all numbers, or of each one, as y.
        covariance: of further noise, as a product, (B, *observation) -> (B, *observation).
    """

    operator: LinearOperator
    y: Tensor
    noise: float | Tensor = 0.0
    covariance: Product | None = None

    def __post_init__(self) -> None:
        least = float(torch.as_tensor(self.noise).min())
        if not least >= 0:
            raise ValueError(f"noise={least:g} must be at least 0: it is the observation's standard deviation")

    def noisy(self, w: Tensor) -> Tensor:
        """The noise's covariance times w, (B, *observation)."""
        spread = self.noise.to(w) if isinstance(self.noise, Tensor) else self.noise
        own = spread**2 * w
        return own if self.covariance is None else own + self.covariance(w)


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
        scale = factor(noise_scale(logsnr) ** 2 / signal_scale(logsnr), z)
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
        width = factor(self.variance * s2 / (a2 * self.variance + s2), z)
        return x_hat, head, lambda v: width * v


@final
class MomentMatched:
    """E[x|z, y] as a denoiser.

    The inner problem is solved by conjugate residuals, each iteration one product with C.

    Args:
        inner: the denoiser without the observation.
        observation: A, y, σ_y.
        covariance: C.
        iterations: of the solver, ≥ 1.
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
        operator = self.observation.operator
        x_hat, head, product = self.covariance.at(self.inner, z, logsnr, condition)

        def normal(w: Tensor) -> Tensor:
            return self.observation.noisy(w) + operator.apply(product(operator.transpose(w)))

        residual = self.observation.y.to(x_hat) - operator.apply(x_hat)
        solution = least_residual(normal, residual, self.iterations)
        return x_hat + product(operator.transpose(solution)), head


def least_residual(product: Product, b: Tensor, iterations: int) -> Tensor:
    """w with K w ≈ b for a matrix K given by its product, each example by itself, (B, *D).

    Each iteration makes ‖b − K w‖ the least it can be over one more direction, so that a K which is no covariance — a
    network's Jacobian is neither symmetric nor positive — cannot make w run away, as conjugate gradients let it. An
    example stops where its residual is within rounding of nothing, or where K adds no new direction.
    Source: Eisenstat, Elman & Schultz 1983 (generalized conjugate residuals).
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
