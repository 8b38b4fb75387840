"""The levels of one band on a stack of bits: its latents on grids, and the Gaussians that code them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch

from markovae.compression.bit_stack import BitStack
from markovae.compression.lattice import IntegerDistribution, LatticeGaussian
from markovae.diffusion import forward
from markovae.diffusion.gaussian import Gaussian
from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.networks.conditioning import Condition

SPACING = 1.75  # of the grid of a latent, in standard deviations of the narrower of the two Gaussians that code it
GUARD = 1e-10  # by how much another machine's float64 outputs may differ
FINE = 2.0**-6  # of the step's standard deviation: what x̂ is rounded to in the portable mode


@final
class StageCoder:
    """The levels of a model of one stage, or of a cascade's stage: what is pushed and popped between two of them.

    Args:
        model: on the grid that codes.
        batch: images side by side.
        portable: whether float64 outputs are rounded, so that another machine computes the same.
        offset: of the keys of its noise: each stage has draws of its own.
    Raises:
        UserError: for a model that cannot be coded in the portable mode.
    """

    def __init__(self, model: Diffusion, batch: int, portable: bool, offset: int = 0) -> None:
        if portable and (model.reverse.channels != 1 or model.reverse.needs_jacobian):
            raise UserError(
                "portable=True needs a reverse variance that no network output sets: take target.reverse="
                "posterior, isotropic or diagonal"
            )
        self.model, self._batch, self._portable, self._offset = model, batch, portable, offset
        self._logsnr = self.model.schedule.logsnr.detach().double()
        self.num_levels = len(self._logsnr) - 1
        self.noise = [(math.nan, math.nan), *(self._noise_of(level) for level in range(1, self.num_levels + 1))]
        self._stds = [None, None, *(self._fixed_std(level) for level in range(2, self.num_levels + 1))]
        self._widths = [math.nan, *(self._width_of(level) for level in range(1, self.num_levels + 1))]
        self._noise_pmfs = [self._lattice(self.noise[k][1], k) for k in range(1, self.num_levels + 1)]
        self._step_pmfs = [None if std is None else self._lattice(std, k - 1) for k, std in enumerate(self._stds)]
        self._coefficients = [(math.nan, math.nan)] * 2 + [self._mean_of(k) for k in range(2, self.num_levels + 1)]
        self._top_pmf = self._lattice(1.0, self.num_levels)

    # -- the two directions mirror one another line by line --------------------------------------------------------

    def pop_first(self, stack: BitStack, x: Any, number: int) -> Any:
        """z_1 of data, (B, *D), drawn from the stack; `number` is the batch's."""
        return stack.pop_noise(self._noise_pmfs[0], self._noisy(x, 1), self._key(number, 1))

    def push_first(self, stack: BitStack, latent: Any, x: Any, number: int) -> None:
        """Give back what `pop_first` took."""
        stack.push_noise(self._noise_pmfs[0], latent, self._noisy(x, 1), self._key(number, 1))

    def push_levels(self, stack: BitStack, latent: Any, condition: Condition | None, number: int) -> None:
        """Code z_1, and all latents above it."""
        for level in range(2, self.num_levels + 1):
            below = self.real(latent, level - 1)
            key = self._key(number, level)
            above = stack.pop_noise(self._noise_pmfs[level - 1], self._noisy(below, level), key)
            pmf, mean, corrections = self._reverse(self.real(above, level), level, condition, None)
            stack.push(pmf, latent, mean)
            self.push_corrections(stack, corrections, above.size)
            latent = above
        stack.push(self._top_pmf, latent, np.zeros(latent.shape))

    def pop_top(self, stack: BitStack, size: int) -> Any:
        """The uppermost latent of so many images."""
        return stack.pop(self._top_pmf, np.zeros((size, *self.model.shape)))

    def pop_levels(self, stack: BitStack, size: int, condition: Condition | None, number: int) -> Any:
        """z_1 of so many images."""
        latent = self.pop_top(stack, size)
        for level in range(self.num_levels, 1, -1):
            latent = self.down(stack, latent, level, condition, number)
        return latent

    def down(self, stack: BitStack, latent: Any, level: int, condition: Condition | None, number: int) -> Any:
        """z_{ℓ−1} from z_ℓ, whose noise is given back."""
        corrections = self.pop_corrections(stack, latent.size)
        pmf, mean, _ = self._reverse(self.real(latent, level), level, condition, corrections)
        below = stack.pop(pmf, mean)
        noisy = self._noisy(self.real(below, level - 1), level)
        stack.push_noise(self._noise_pmfs[level - 1], latent, noisy, self._key(number, level))
        return below

    def _key(self, number: int, level: int) -> tuple[int, int]:
        return number, self._offset + level

    # -- the Gaussians, in units of the grid of what they code ---------------------------------------------------

    def _width_of(self, level: int) -> float:
        """The width of the grid of z_ℓ."""
        narrowest = self.noise[level][1]
        if level < self.num_levels:
            above = self._stds[level + 1]
            floor = math.sqrt(float(forward.posterior_variance(self._logsnr[level], self._logsnr[level + 1])))
            narrowest = min(narrowest, floor if above is None else float(np.min(above)))
        return short(SPACING * narrowest)

    def _noise_of(self, level: int) -> tuple[float, float]:
        """(signal kept, standard deviation) of the encoder's step to this level."""
        if level == 1:
            kept, std = forward.signal_scale(self._logsnr[1]), forward.noise_scale(self._logsnr[1])
        else:
            pair = self._logsnr[level - 1], self._logsnr[level]
            kept, std = forward.step_alpha(*pair), forward.step_variance(*pair).sqrt()
        return short(float(kept)), short(float(std))

    def _mean_of(self, level: int) -> tuple[float, float]:
        """What z and x̂ are multiplied by in the mean of the prior's step down from a level."""
        c_z, c_x = forward.posterior_coefficients(self._logsnr[level - 1], self._logsnr[level])
        return short(float(c_z)), short(float(c_x))

    def _fixed_std(self, level: int) -> Any:
        """The prior's standard deviation of the step down from a level, () or (*D); None where an output sets it."""
        reverse = self.model.reverse
        if reverse.channels != 1 or reverse.needs_jacobian:
            return None
        zero = torch.zeros(1, *self.model.shape, dtype=torch.float64)
        step = reverse.step(zero, zero, self._logsnr[level - 1], self._logsnr[level], None)
        assert isinstance(step, Gaussian)
        std = (step.variance.detach().cpu().double().numpy() ** 0.5).astype(np.float32).astype(np.float64)
        return std.ravel()[0] if std.max() == std.min() else std.reshape(self.model.shape)

    def _lattice(self, std: Any, level: int) -> LatticeGaussian:
        std = np.asarray(std) / self._widths[level]
        return LatticeGaussian(std if not std.ndim else np.tile(std.ravel(), self._batch))

    def _noisy(self, z: Any, level: int) -> Any:
        return self.noise[level][0] * z / self._widths[level]

    def real(self, latent: Any, level: int) -> Any:
        """A latent in its own units, float64."""
        return latent * self._widths[level]

    def _reverse(
        self, z: Any, level: int, condition: Condition | None, corrections: tuple[Any, Any] | None
    ) -> tuple[IntegerDistribution, Any, tuple[Any, Any] | None]:
        """(pmf, mean) of z_{ℓ−1}, and the corrections that another machine may need."""
        logsnr_prev, logsnr = self._logsnr[level - 1], self._logsnr[level]
        made, width, pmf = self.denoised(z, level, condition), self._widths[level - 1], self._step_pmfs[level]
        if pmf is not None:
            x_hat, found, (c_z, c_x) = made.x_hat, None, self._coefficients[level]
            if self._portable:
                x_hat, found = settled(x_hat, self._fine(level, c_x), corrections)
            return pmf, (c_z * z + c_x * x_hat) / width, found
        step = self.model.reverse.step(made.tensor, made.z, logsnr_prev, logsnr, made.head)
        if not isinstance(step, Gaussian):
            raise UserError("a full covariance cannot be coded: take another reverse variance (target.reverse)")
        std = step.variance.double().cpu().numpy() ** 0.5 / width
        pmf = LatticeGaussian(np.broadcast_to(std, z.shape).ravel())
        return pmf, step.mean.double().cpu().numpy() / width, None

    def _fine(self, level: int, c_x: float) -> float:
        """What x̂ is rounded to at this level, a power of 2."""
        return 2.0 ** math.floor(math.log2(FINE * float(np.min(self._stds[level])) / c_x))

    # -- what is the same on another machine ---------------------------------------------------------------------

    def push_corrections(self, stack: BitStack, corrections: tuple[Any, Any] | None, size: int) -> None:
        """Push what another machine may need; nothing outside the portable mode."""
        if corrections is not None:
            stack.push_corrections(*corrections, size)

    def pop_corrections(self, stack: BitStack, size: int) -> tuple[Any, Any] | None:
        """What `push_corrections` pushed."""
        return stack.pop_corrections(size) if self._portable else None

    def tensor(self, z: Any) -> torch.Tensor:
        """An array as the network reads it."""
        dtype = torch.float64 if self.model.precision == torch.float64 else torch.float32
        return torch.from_numpy(np.ascontiguousarray(z)).to(self.model.device, dtype)

    def denoised(self, z: Any, level: int, condition: Condition | None) -> Denoised:
        """What the network makes of latents at a level."""
        latent = self.tensor(z)
        where = None if condition is None else condition.to(self.model.device)
        x_hat, head = self.model.predict(latent, self._logsnr[level].to(latent.device), where)
        if not bool(x_hat.isfinite().all()):
            raise UserError("the model's outputs hold NaN or Inf: its weights are damaged")
        return Denoised(latent, x_hat, head)


@dataclass(frozen=True)
class Denoised:
    """What the network makes of latents: as tensors, and x̂ as float64 numbers."""

    z: torch.Tensor
    tensor: torch.Tensor
    head: torch.Tensor | None

    @property
    def x_hat(self) -> Any:
        """Of the tensor, float64."""
        return self.tensor.double().cpu().numpy()


def settled(x_hat: Any, fine: float, corrections: tuple[Any, Any] | None) -> tuple[Any, tuple[Any, Any] | None]:
    """x̂ rounded to multiples of `fine`; which numbers lie near a boundary, and to which side they were rounded.

    A correction names a number's place and the parity of its multiple, so that a machine
    whose result differs slightly rounds it to the same one.
    """
    scaled = x_hat / fine
    rounded = np.round(scaled)
    if corrections is None:
        near = np.abs(np.abs(scaled - np.floor(scaled) - 0.5)) < GUARD / fine
        positions = np.flatnonzero(near.ravel())
        return rounded * fine, (positions, (rounded.ravel()[positions] % 2).astype(np.int64))
    positions, parities = corrections
    flat, exact = rounded.ravel(), scaled.ravel()
    for position, parity in zip(positions, parities, strict=True):
        if int(flat[position]) % 2 != parity:
            flat[position] += 1 if exact[position] > flat[position] else -1
    return flat.reshape(rounded.shape) * fine, None


def short(value: float) -> float:
    """The nearest float32: machines whose functions differ in the last bit of a float64 agree on it."""
    return float(np.float32(value))
