r"""Images on a stack of bits along the chain: bits-back coding, at the length of the bound.

One image x and its latents z_1…z_K, each rounded to a grid of the width of its noise:

    pop z_1 with q(z_1|x), push x with p(x|z_1);
    for ℓ = 2…K: pop z_ℓ with q(z_ℓ|z_{ℓ−1}), push z_{ℓ−1} with p(z_{ℓ−1}|z_ℓ);
    push z_K with N(0, I).

Of a cascade z_1 has a part for each band. The levels of the finest band come first, given the z_1 of the coarser ones,
the base's last; the decoder begins with the base.

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
from markovae.compression.stage_coder import FINE, Denoised, StageCoder, settled, short
from markovae.diffusion import forward
from markovae.diffusion.cascade import Cascade, Model, merged, stages_of
from markovae.diffusion.decoder import DiscretisedGaussian, SoftmaxBins
from markovae.diffusion.markovian_vae import Distribution, evaluating
from markovae.errors import UserError
from markovae.networks.conditioning import Condition

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

    def __init__(self, model: Model, batch: int, portable: bool) -> None:
        model = model.base if isinstance(model, Cascade) and not model.octaves else model
        # The portable mode computes in float64: in a copy, so that the caller's network stays as it is.
        self.model = copy.deepcopy(model) if portable else model
        self._batch, self._portable = batch, portable
        if portable:
            self.model.precision = torch.float64
            self.model.double()
        self._stages: list[StageCoder] = []
        for stage in stages_of(self.model):
            offset = sum(other.num_levels for other in self._stages)
            self._stages.append(StageCoder(stage, batch, portable, offset))
        self._pixels = self.model.pixels
        self._pixel_pmfs: dict[float, IntegerDistribution] = {}

    @torch.no_grad()
    def probe(self) -> str:
        """SHA-256 of outputs on fixed latents, of the shape that is coded, 16 digits; portably a few, rounded."""
        source, made = torch.Generator().manual_seed(0), hashlib.sha256()
        firsts: list[Any] = []
        for stage in self._stages:
            made.update(np.array([*stage.noise[1:], (stage.num_levels, self._batch)], "<f4").tobytes())
            condition = self._given(firsts, None)
            for level in sorted({1, (stage.num_levels + 1) // 2, stage.num_levels}):
                z = torch.randn(self._batch, *stage.model.shape, generator=source, dtype=torch.float64).numpy()
                with evaluating(self.model):
                    x_hat = stage.denoised(z, level, condition).x_hat
                if self._portable:  # few and coarse, so that none lies where another machine rounds otherwise
                    x_hat = np.round(x_hat.ravel()[:: max(1, x_hat.size // PROBED)], 3) + 0.0
                made.update(np.ascontiguousarray(x_hat).tobytes())
            firsts.append(z)
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
                firsts: list[Any] = []
                for b, stage in enumerate(self._stages):
                    given = self._given(firsts, condition)
                    latent, finer = stage.pop_top(stack, count), self._stages[b + 1 :]
                    for level in range(stage.num_levels, 0, -1):
                        if level > 1 or not finer:
                            images = self._shown(b, stage.denoised(stage.real(latent, level), level, given), given)
                            below = sum(other.num_levels - 1 for other in finer)
                            yield View(below + level, min(total - stack.lowest, len(words)), images)
                        if level > 1:
                            latent = stage.down(stack, latent, level, given, 0)
                    firsts.append(stage.real(latent, 1))
                images = self._pop_pixels(stack, firsts, condition)
            except EmptyStackError:
                return
            yield View(0, min(total - stack.lowest, len(words)), images)

    def _shown(self, b: int, made: Denoised, given: Condition | None) -> Any:
        """x̂ of a stage as pixel values in full size."""
        image = made.tensor
        if b and given is not None and given.coarse is not None:
            assert isinstance(self.model, Cascade), "only its stages are given a coarse image"
            image = self.model.refined(given.coarse[:, :-1], image, b)
        times = self.model.shape[-1] // image.shape[-1]
        values: Any = self._pixels.to_pixel_values(image).numpy()
        return values.repeat(times, -1).repeat(times, -2)

    def _batches(self, count: int, plain: tuple[int, ...]) -> Iterator[tuple[int, Any]]:
        """(number, places) of the images that are coded side by side."""
        places = np.setdiff1d(np.arange(count), np.array(plain, np.int64))
        for number, start in enumerate(range(0, len(places), self._batch)):
            yield number, places[start : start + self._batch]

    # -- one batch: the two directions mirror one another line by line -------------------------------------------

    def _push(self, stack: BitStack, images: Any, condition: Condition | None, number: int) -> None:
        stages, bands = self._stages, self._bands(images)
        latents = [stage.pop_first(stack, x, number) for stage, x in zip(stages, bands, strict=True)]
        firsts = [stage.real(latent, 1) for stage, latent in zip(stages, latents, strict=True)]
        self._push_pixels(stack, images, firsts, condition)
        for b in reversed(range(len(stages))):
            stages[b].push_levels(stack, latents[b], self._given(firsts[:b], condition), number)

    def _pop(self, stack: BitStack, size: int, condition: Condition | None, number: int) -> Any:
        stages, latents = self._stages, []
        firsts: list[Any] = []
        for stage in stages:
            latents.append(stage.pop_levels(stack, size, self._given(firsts, condition), number))
            firsts.append(stage.real(latents[-1], 1))
        images = self._pop_pixels(stack, firsts, condition)
        for stage, latent, x in reversed(list(zip(stages, latents, self._bands(images), strict=True))):
            stage.push_first(stack, latent, x, number)
        return images

    # -- bands ---------------------------------------------------------------------------------------------------

    def _bands(self, images: Any) -> list[Any]:
        """Each stage's data of pixel values, float64."""
        x = self._pixels.to_x(torch.from_numpy(images))
        return [band.numpy() for band in (self.model.bands(x) if isinstance(self.model, Cascade) else [x])]

    def _in_pixels(self, firsts: Sequence[Any]) -> list[torch.Tensor]:
        """The z_1 of bands in the pixels' units, as the networks read them."""
        assert isinstance(self.model, Cascade), "one stage is in the pixels' units"
        ratios = [short(float(self.model.unit_ratio(b, 1))) for b in range(len(firsts))]
        return [self._stages[0].tensor(ratio * z) for ratio, z in zip(ratios, firsts, strict=True)]

    def _given(self, firsts: Sequence[Any], condition: Condition | None) -> Condition | None:
        """What the stage above these bands is given, whose z_1 are known."""
        if not isinstance(self.model, Cascade) or not firsts:
            return condition
        given = None if condition is None else condition.to(self.model.device)
        return self.model.given_latents(self._in_pixels(firsts), given)

    # -- pixels --------------------------------------------------------------------------------------------------

    def _decoded(self, firsts: Sequence[Any], condition: Condition | None) -> tuple[Distribution, Any]:
        """(P_pri(z_0|z_1), z_1 in pixels' units, float64) of the z_1 of the bands."""
        finest = self._stages[-1]
        made = finest.denoised(firsts[-1], 1, self._given(firsts[:-1], condition))
        if not isinstance(self.model, Cascade):
            logsnr = self.model.schedule.logsnr.to(made.z.device)
            return self.model.decoder.distribution(made.tensor, logsnr, made.z, made.head), firsts[-1]
        latents = self._in_pixels(firsts)
        z, logsnr = merged(latents), self.model.level_logsnr.to(made.z.device)
        x_hat = self.model.decoded(latents, made.tensor)
        return self.model.decoder.distribution(x_hat, logsnr, z), z.double().cpu().numpy()

    def _pixel_model(
        self, firsts: Sequence[Any], condition: Condition | None, corrections: tuple[Any, Any] | None
    ) -> tuple[IntegerDistribution, Any, tuple[Any, Any] | None]:
        """(pmf, mean in pixel values) of x, and the corrections that another machine may need."""
        (model, z), found = self._decoded(firsts, condition), None
        if not isinstance(model, DiscretisedGaussian | SoftmaxBins):
            raise UserError(f"the decoder {type(self.model.decoder).__name__} cannot be coded: take another one")
        bin_width, offset = 2 * self._pixels.half_width, 0.5 if self._pixels.centred else 0.0
        scale = model.scale.detach().double().cpu().numpy().astype(np.float32).astype(np.float64)
        mean = model.mean.double().cpu().numpy()
        if self._portable and isinstance(model, DiscretisedGaussian):
            mean, found = settled(mean, 2.0 ** math.floor(math.log2(FINE * float(scale.min()))), corrections)
        elif self._portable:  # it reads z_1 alone, in sums that every machine does alike
            mean, found = (
                z / short(float(forward.signal_scale(self.model.level_logsnr[1]))),
                (np.zeros(0, np.int64), np.zeros(0, np.int64)),
            )
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

    def _push_pixels(self, stack: BitStack, images: Any, firsts: Sequence[Any], condition: Condition | None) -> None:
        pmf, mean, corrections = self._pixel_model(firsts, condition, None)
        stack.push(pmf, images, mean)
        self._stages[-1].push_corrections(stack, corrections, images.size)

    def _pop_pixels(self, stack: BitStack, firsts: Sequence[Any], condition: Condition | None) -> Any:
        size = sum(z.size for z in firsts)
        pmf, mean, _ = self._pixel_model(firsts, condition, self._stages[-1].pop_corrections(stack, size))
        images = stack.pop(pmf, mean)
        if not 0 <= int(images.min()) <= int(images.max()) < self._pixels.bins:
            raise EmptyStackError  # values that no window of an encoder holds
        return images


def model_hash(model: Model) -> str:
    """SHA-256 of every weight and buffer, of the model's levels, and of what the output means."""
    if isinstance(model, Cascade):
        stages = [model_hash(stage) for stage in stages_of(model)]
        whole = (stages, model.scales, type(model.decoder).__name__, model.decoder.pixels)
        return hashlib.sha256(repr(whole).encode()).hexdigest()
    kinds = (model.target.name, type(model.reverse).__name__, type(model.decoder).__name__)
    made = hashlib.sha256(repr((*kinds, model.clip, model.decoder.pixels)).encode())
    made.update(model.schedule.logsnr.detach().cpu().float().numpy().tobytes())
    tables = [*model.network.named_parameters(), *model.network.named_buffers()]
    for name, value in sorted([*tables, *((f"reverse.{n}", v) for n, v in model.reverse.named_buffers())]):
        made.update(name.encode() + np.ascontiguousarray(value.detach().cpu().double().numpy()).tobytes())
    return made.hexdigest()


def _rows(condition: Condition | None, places: Sequence[int]) -> Condition | None:
    return None if condition is None else condition.take(torch.as_tensor(np.asarray(places)))


def _advance(ticks: Iterator[Any], count: int) -> None:
    for _ in range(count):
        next(ticks, None)
