r"""Images on a stack of bits along the chain: bits-back coding, at the length of the bound.

One image x and its latents z_1…z_K, each rounded to a grid of the width of its noise:

    pop z_1 with q(z_1|x), push x with p(x|z_1);
    for ℓ = 2…K: pop z_ℓ with q(z_ℓ|z_{ℓ−1}), push z_{ℓ−1} with p(z_{ℓ−1}|z_ℓ);
    push z_K with N(0, I).

Popping draws a symbol and shortens the stack; pushing lengthens it. The net length is −log p(x, z_1…z_K) +
log q(z_1…z_K|x) along the path: form E1, whose mean is the bound. In this order an image borrows two latents' worth of
bits at a time; drawing the whole path first would borrow K of them. The decoder takes the same steps backwards and
gives the borrowed bits back.

Source: Townsend et al. 2019 (bits back with ANS); Kingma et al. 2019 (Bit-Swap); Kingma et al. 2021, appendix.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch

from markovae.compression.bit_stack import BitStack, EmptyStackError
from markovae.compression.lattice import IntegerDistribution, LatticeGaussian, RoundedGaussian
from markovae.compression.plain_image import joined, parted, plain_code
from markovae.diffusion import forward
from markovae.diffusion.decoder import DiscretisedGaussian, SoftmaxBins
from markovae.diffusion.gaussian import Gaussian
from markovae.diffusion.markovian_vae import evaluating
from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.networks.conditioning import Condition

SPACING = 1.75  # of the grid of a latent, in standard deviations of the narrower of the two Gaussians that code it
GUARD = 1e-10  # by how much another machine's float64 outputs may differ
FINE = 2.0**-6  # of the step's standard deviation: what x̂ is rounded to in the portable mode
LEAST_BORROWED = 1.5  # bits per dimension that a batch borrows at the least
PROBED = 64  # numbers of a level that a portable probe looks at
LEAST_WORDS = 4  # that a stack has beneath what is popped
DAMAGED = "a group of the file does not decode with this model: get the file anew"


@dataclass(frozen=True)
class View:
    """What is known of an image by the time a part of its words is read.

    Args:
        level: ℓ of the latent that is known; 0 is the image itself.
        words: read by then.
        images: x̂(z_ℓ) as pixel values, (B, C, H, W), int64.
    """

    level: int
    words: int
    images: Any


@final
class ChainCoder:
    """A model's chain with latents on grids: what is pushed and popped, in which order, by the same numbers.

    Args:
        model: on the grid that codes.
        batch: images side by side.
        portable: whether float64 outputs are rounded, so that another machine computes the same.
    Raises:
        UserError: for a model that cannot be coded, or not in the portable mode.
    """

    def __init__(self, model: Diffusion, batch: int, portable: bool) -> None:
        # The portable mode computes in float64: in a copy, so that the caller's network stays as it is.
        self.model = copy.deepcopy(model) if portable else model
        self._batch, self._portable = batch, portable
        if portable:
            if self.model.reverse.channels != 1 or self.model.reverse.needs_jacobian:
                raise UserError(
                    "portable=True needs a reverse variance that no network output sets: take target.reverse="
                    "posterior, isotropic or diagonal"
                )
            self.model.precision = torch.float64
            self.model.double()
        self._logsnr = self.model.schedule.logsnr.detach().double()
        self.num_levels = len(self._logsnr) - 1
        self._pixels = self.model.pixels
        self._noise = [(math.nan, math.nan), *(self._noise_of(level) for level in range(1, self.num_levels + 1))]
        self._stds = [None, None, *(self._fixed_std(level) for level in range(2, self.num_levels + 1))]
        self._widths = [math.nan, *(self._width_of(level) for level in range(1, self.num_levels + 1))]
        self._noise_pmfs = [self._lattice(self._noise[k][1], k) for k in range(1, self.num_levels + 1)]
        self._step_pmfs = [None if std is None else self._lattice(std, k - 1) for k, std in enumerate(self._stds)]
        self._top_pmf = self._lattice(1.0, self.num_levels)
        self._pixel_pmfs: dict[float, IntegerDistribution] = {}

    @torch.no_grad()
    def probe(self) -> str:
        """SHA-256 of outputs on fixed latents, of the shape that is coded, 16 digits; portably a few, rounded."""
        made = hashlib.sha256(np.array([*self._noise[1:], (self.num_levels, self._batch)], "<f4").tobytes())
        source = torch.Generator().manual_seed(0)
        for level in sorted({1, (self.num_levels + 1) // 2, self.num_levels}):
            z = torch.randn(self._batch, *self.model.shape, generator=source, dtype=torch.float64)
            with evaluating(self.model):
                x_hat = self._denoised(z.numpy(), level, None).x_hat
            if self._portable:  # few and coarse, so that none lies where another machine rounds otherwise
                x_hat = np.round(x_hat.ravel()[:: max(1, x_hat.size // PROBED)], 3) + 0.0
            made.update(np.ascontiguousarray(x_hat).tobytes())
        return made.hexdigest()[:16]

    # -- groups --------------------------------------------------------------------------------------------------

    def encode(self, images: Any, condition: Condition | None, ticks: Iterator[Any]) -> tuple[Any, tuple[int, ...]]:
        """(words, places of the images that are written plainly): those are what the first latents borrow.

        Args:
            images: pixel values, (n, C, H, W).
            condition: of the n images.
            ticks: advanced once for each image.
        """
        lengths = [len(plain_code(image, self._pixels.bins, quick=True)) for image in images]
        cheapest = np.argsort(lengths, kind="stable")
        codes: list[bytes] = []
        for count in range(1, len(images)):
            codes.append(plain_code(images[cheapest[count - 1]], self._pixels.bins))
            if 8 * sum(map(len, codes)) < LEAST_BORROWED * self._batch * self.model.dims:
                continue
            plain = sorted(zip(cheapest[:count].tolist(), codes, strict=True))
            places = tuple(place for place, _ in plain)
            try:
                words, _ = self._encode(images, condition, joined([code for _, code in plain]), places, ticks)
            except EmptyStackError:
                continue
            _advance(ticks, count)
            return words, places
        _advance(ticks, len(images))
        return joined([plain_code(image, self._pixels.bins) for image in images]), tuple(range(len(images)))

    def encode_progressively(
        self, images: Any, condition: Condition | None, ticks: Iterator[Any]
    ) -> tuple[Any, tuple[int, ...]]:
        """As `encode`, for images that can be decoded in part: pseudo-random words are borrowed, and stay there."""
        count = images.size + LEAST_WORDS  # far more than is borrowed
        borrowed = np.random.Philox(key=np.array([0, 0], np.uint64)).random_raw(count // 2).view("<u4")
        words, untouched = self._encode(images, condition, borrowed.astype(np.uint32), (), ticks)
        return words[max(0, untouched - LEAST_WORDS) :], ()

    @torch.no_grad()
    def _encode(
        self, images: Any, condition: Condition | None, borrowed: Any, plain: tuple[int, ...], ticks: Iterator[Any]
    ) -> tuple[Any, int]:
        """(words, how many at the bottom were never touched)."""
        stack = BitStack(borrowed, borrowed=True)
        with evaluating(self.model):
            for number, places in self._batches(len(images), plain):
                self._push(stack, images[places].astype(np.int64), _rows(condition, places), number)
                _advance(ticks, len(places))
        return stack.words(borrowed=False), stack.lowest

    @torch.no_grad()
    def decode(
        self, words: Any, count: int, plain: tuple[int, ...], condition: Condition | None, ticks: Iterator[Any]
    ) -> Any:
        """The images of a group, (count, C, H, W), int64.

        Raises:
            UserError: for words that this model did not write.
        """
        images = np.zeros((count, *self.model.shape), np.int64)
        try:
            if len(plain) < count:
                stack = BitStack(words, borrowed=False)
                with evaluating(self.model):
                    for number, places in reversed(list(self._batches(count, plain))):
                        images[places] = self._pop(stack, len(places), _rows(condition, places), number)
                        _advance(ticks, len(places))
                words = stack.words(borrowed=True) if plain else words
        except (EmptyStackError, ValueError, AssertionError):
            raise UserError(DAMAGED) from None
        if plain:
            images[list(plain)] = parted(words, len(plain), self.model.shape, self._pixels.bins)
            _advance(ticks, len(plain))
        return images

    @torch.no_grad()
    def views(self, words: Any, count: int, condition: Condition | None) -> Iterator[View]:
        """What a part of the words of `encode_progressively` shows, level by level, as far as they reach."""
        try:
            stack = BitStack(words, borrowed=False)
        except EmptyStackError:
            return
        total = len(words) + LEAST_WORDS // 2
        with evaluating(self.model):
            try:
                latent = stack.pop(self._top_pmf, np.zeros((count, *self.model.shape)))
                for level in range(self.num_levels, 0, -1):
                    shown = self._denoised(self._real(latent, level), level, condition).tensor
                    yield View(
                        level, min(total - stack.lowest, len(words)), self._pixels.to_pixel_values(shown).numpy()
                    )
                    if level > 1:
                        latent = self._down(stack, latent, level, condition, 0)
                images = self._pop_pixels(stack, self._real(latent, 1), condition)
            except EmptyStackError:
                return
            yield View(0, min(total - stack.lowest, len(words)), images)

    def _batches(self, count: int, plain: tuple[int, ...]) -> Iterator[tuple[int, Any]]:
        """(number, places) of the images that are coded side by side."""
        places = np.setdiff1d(np.arange(count), np.array(plain, np.int64))
        for number, start in enumerate(range(0, len(places), self._batch)):
            yield number, places[start : start + self._batch]

    # -- one batch: the two directions mirror one another line by line -------------------------------------------

    def _push(self, stack: BitStack, images: Any, condition: Condition | None, number: int) -> None:
        x = self._pixels.to_x(torch.from_numpy(images)).numpy()
        latent = stack.pop_noise(self._noise_pmfs[0], self._noisy(x, 1), (number, 1))
        self._push_pixels(stack, images, self._real(latent, 1), condition)
        for level in range(2, self.num_levels + 1):
            below = self._real(latent, level - 1)
            above = stack.pop_noise(self._noise_pmfs[level - 1], self._noisy(below, level), (number, level))
            pmf, mean, corrections = self._reverse(self._real(above, level), level, condition, None)
            stack.push(pmf, latent, mean)
            self._push_corrections(stack, corrections, above.size)
            latent = above
        stack.push(self._top_pmf, latent, np.zeros(latent.shape))

    def _pop(self, stack: BitStack, size: int, condition: Condition | None, number: int) -> Any:
        latent = stack.pop(self._top_pmf, np.zeros((size, *self.model.shape)))
        for level in range(self.num_levels, 1, -1):
            latent = self._down(stack, latent, level, condition, number)
        images = self._pop_pixels(stack, self._real(latent, 1), condition)
        x = self._pixels.to_x(torch.from_numpy(images)).numpy()
        stack.push_noise(self._noise_pmfs[0], latent, self._noisy(x, 1), (number, 1))
        return images

    def _down(self, stack: BitStack, latent: Any, level: int, condition: Condition | None, number: int) -> Any:
        """z_{ℓ−1} from z_ℓ, whose noise is given back."""
        corrections = self._pop_corrections(stack, latent.size)
        pmf, mean, _ = self._reverse(self._real(latent, level), level, condition, corrections)
        below = stack.pop(pmf, mean)
        noisy = self._noisy(self._real(below, level - 1), level)
        stack.push_noise(self._noise_pmfs[level - 1], latent, noisy, (number, level))
        return below

    # -- the Gaussians, in units of the grid of what they code ---------------------------------------------------

    def _width_of(self, level: int) -> float:
        """The width of the grid of z_ℓ."""
        narrowest = self._noise[level][1]
        if level < self.num_levels:
            above = self._stds[level + 1]
            floor = math.sqrt(float(forward.posterior_variance(self._logsnr[level], self._logsnr[level + 1])))
            narrowest = min(narrowest, floor if above is None else float(np.min(above)))
        return _short(SPACING * narrowest)

    def _noise_of(self, level: int) -> tuple[float, float]:
        """(signal kept, standard deviation) of the encoder's step to this level."""
        if level == 1:
            kept, std = forward.signal_scale(self._logsnr[1]), forward.noise_scale(self._logsnr[1])
        else:
            pair = self._logsnr[level - 1], self._logsnr[level]
            kept, std = forward.step_alpha(*pair), forward.step_variance(*pair).sqrt()
        return _short(float(kept)), _short(float(std))

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
        return self._noise[level][0] * z / self._widths[level]

    def _real(self, latent: Any, level: int) -> Any:
        return latent * self._widths[level]

    def _reverse(
        self, z: Any, level: int, condition: Condition | None, corrections: tuple[Any, Any] | None
    ) -> tuple[IntegerDistribution, Any, tuple[Any, Any] | None]:
        """(pmf, mean) of z_{ℓ−1}, and the corrections that another machine may need."""
        logsnr_prev, logsnr = self._logsnr[level - 1], self._logsnr[level]
        made, width, pmf = self._denoised(z, level, condition), self._widths[level - 1], self._step_pmfs[level]
        if self._portable:
            c_z, c_x = (_short(float(value)) for value in forward.posterior_coefficients(logsnr_prev, logsnr))
            x_hat, found = _settled(made.x_hat, self._fine(level, c_x), corrections)
            assert pmf is not None
            return pmf, (c_z * z + c_x * x_hat) / width, found
        step = self.model.reverse.step(made.tensor, made.z, logsnr_prev, logsnr, made.head)
        if not isinstance(step, Gaussian):
            raise UserError("a full covariance cannot be coded: take another reverse variance (target.reverse)")
        if pmf is None:
            std = step.variance.double().cpu().numpy() ** 0.5 / width
            pmf = LatticeGaussian(np.broadcast_to(std, z.shape).ravel())
        return pmf, step.mean.double().cpu().numpy() / width, None

    def _fine(self, level: int, c_x: float) -> float:
        """What x̂ is rounded to at this level, a power of 2."""
        return 2.0 ** math.floor(math.log2(FINE * float(np.min(self._stds[level])) / c_x))

    # -- pixels --------------------------------------------------------------------------------------------------

    def _pixel_model(
        self, z: Any, condition: Condition | None, corrections: tuple[Any, Any] | None
    ) -> tuple[IntegerDistribution, Any, tuple[Any, Any] | None]:
        """(pmf, mean in pixel values) of x, and the corrections that another machine may need."""
        made, found = self._denoised(z, 1, condition), None
        logsnr = self.model.schedule.logsnr.to(made.z.device)
        model = self.model.decoder.distribution(made.tensor, logsnr, made.z, made.head)
        if not isinstance(model, DiscretisedGaussian | SoftmaxBins):
            raise UserError(f"the decoder {type(self.model.decoder).__name__} cannot be coded: take another one")
        bin_width, offset = 2 * self._pixels.half_width, 0.5 if self._pixels.centred else 0.0
        scale = model.scale.detach().double().cpu().numpy().astype(np.float32).astype(np.float64)
        mean = model.mean.double().cpu().numpy()
        if self._portable and isinstance(model, DiscretisedGaussian):
            mean, found = _settled(mean, 2.0 ** math.floor(math.log2(FINE * float(scale.min()))), corrections)
        elif self._portable:  # it reads z_1 alone, in sums that every machine does alike
            mean, found = z / self._noise[1][0], (np.zeros(0, np.int64), np.zeros(0, np.int64))
        return self._pixel_pmf(model, scale / bin_width, z.shape), (mean + 1) / bin_width - offset, found

    def _pixel_pmf(
        self, model: DiscretisedGaussian | SoftmaxBins, std: Any, shape: tuple[int, ...]
    ) -> IntegerDistribution:
        kind: type[RoundedGaussian | LatticeGaussian]
        kind = RoundedGaussian if isinstance(model, DiscretisedGaussian) else LatticeGaussian
        if std.size > 1:  # an output sets it
            return kind(np.broadcast_to(std, shape).ravel(), self._pixels.bins)
        key = float(std.reshape(()))
        if key not in self._pixel_pmfs:
            self._pixel_pmfs[key] = kind(key, self._pixels.bins)
        return self._pixel_pmfs[key]

    def _push_pixels(self, stack: BitStack, images: Any, z: Any, condition: Condition | None) -> None:
        pmf, mean, corrections = self._pixel_model(z, condition, None)
        stack.push(pmf, images, mean)
        self._push_corrections(stack, corrections, z.size)

    def _pop_pixels(self, stack: BitStack, z: Any, condition: Condition | None) -> Any:
        pmf, mean, _ = self._pixel_model(z, condition, self._pop_corrections(stack, z.size))
        images = stack.pop(pmf, mean)
        if not 0 <= int(images.min()) <= int(images.max()) < self._pixels.bins:
            raise EmptyStackError  # values that no window of an encoder holds
        return images

    # -- what is the same on another machine ---------------------------------------------------------------------

    def _push_corrections(self, stack: BitStack, corrections: tuple[Any, Any] | None, size: int) -> None:
        if corrections is not None:
            stack.push_corrections(*corrections, size)

    def _pop_corrections(self, stack: BitStack, size: int) -> tuple[Any, Any] | None:
        return stack.pop_corrections(size) if self._portable else None

    def _denoised(self, z: Any, level: int, condition: Condition | None) -> _Denoised:
        dtype = torch.float64 if self.model.precision == torch.float64 else torch.float32
        latent = torch.from_numpy(np.ascontiguousarray(z)).to(self.model.device, dtype)
        where = None if condition is None else condition.to(self.model.device)
        x_hat, head = self.model.predict(latent, self._logsnr[level].to(latent.device), where)
        if not bool(x_hat.isfinite().all()):
            raise UserError("the model's outputs hold NaN or Inf: its weights are damaged")
        return _Denoised(latent, x_hat, head)


@dataclass(frozen=True)
class _Denoised:
    """What the network makes of latents: as tensors, and x̂ as float64 numbers."""

    z: torch.Tensor
    tensor: torch.Tensor
    head: torch.Tensor | None

    @property
    def x_hat(self) -> Any:
        return self.tensor.double().cpu().numpy()


def model_hash(model: Diffusion) -> str:
    """SHA-256 of every weight and buffer, of the model's levels, and of what the output means."""
    said = (model.target.name, type(model.reverse).__name__, type(model.decoder).__name__, model.clip, model.pixels)
    made = hashlib.sha256(repr(said).encode())
    made.update(model.schedule.logsnr.detach().cpu().float().numpy().tobytes())
    tables = [*model.network.named_parameters(), *model.network.named_buffers()]
    for name, value in sorted([*tables, *((f"reverse.{n}", v) for n, v in model.reverse.named_buffers())]):
        made.update(name.encode() + np.ascontiguousarray(value.detach().cpu().double().numpy()).tobytes())
    return made.hexdigest()


def _settled(x_hat: Any, fine: float, corrections: tuple[Any, Any] | None) -> tuple[Any, tuple[Any, Any] | None]:
    """x̂ rounded to multiples of `fine`; which numbers lie near a boundary, and to which side they were rounded.

    A correction names a number's place and the parity of its multiple, so that whoever computes it slightly
    differently takes the same one.
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


def _short(value: float) -> float:
    """The nearest float32: machines whose functions differ in the last bit of a float64 agree on it."""
    return float(np.float32(value))


def _rows(condition: Condition | None, places: Sequence[int]) -> Condition | None:
    return None if condition is None else condition.take(torch.as_tensor(np.asarray(places)))


def _advance(ticks: Iterator[Any], count: int) -> None:
    for _ in range(count):
        next(ticks, None)
