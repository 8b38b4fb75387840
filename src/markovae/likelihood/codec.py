r"""Lossless compression at the measured bits/dim: bits-back coding with ANS along the chain.

One image x and its latents z_1…z_L, each rounded to a grid finer than the noise of a step:

    pop z_1 with q(z_1|x), push x with p(x|z_1);
    for ℓ = 2…L: pop z_ℓ with q(z_ℓ|z_{ℓ−1}), push z_{ℓ−1} with p(z_{ℓ−1}|z_ℓ);
    push z_L with N(0, I).

Popping from the stack of an entropy coder draws a symbol and shortens the stack; pushing lengthens it. The net length
is −log p(x, z_1…z_L) + log q(z_1…z_L|x) along the path: form E1, whose mean is the bound. In this order (Kingma et al.
2019, "Bit-Swap") an image borrows two latents' worth of bits at a time; drawing the whole path first would borrow L of
them. The decoder takes the same steps backwards and gives the borrowed bits back.

What the first image of a group borrows is a code of its own: the first few images, written plainly. A prior whose
variance is not fitted leaves bits that do not look random, and latents drawn from those make a file longer than the
bound: hence `fit`.

Source: Townsend et al. 2019 (bits back with ANS); Duda 2009 (ANS); Kingma et al. 2021, appendix (diffusion models).
"""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import json
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, final

import numpy as np
import torch
from PIL import Image

from markovae.data.image_reader import open_image
from markovae.diffusion import forward
from markovae.diffusion.decoder import DiscretisedGaussian, SoftmaxBins
from markovae.diffusion.gaussian import Gaussian
from markovae.diffusion.markovian_vae import evaluating
from markovae.diffusion.model import Diffusion
from markovae.diffusion.reverse import IsotropicVariance
from markovae.diffusion.schedule import NoiseSchedule, Tabulated
from markovae.errors import UserError
from markovae.likelihood.fitting import with_reverse
from markovae.log import track
from markovae.networks.conditioning import Condition, class_numbers

MAGIC = b"MVZ\x01"
FORMAT = 1
MAX_HEADER = 1 << 26
BINS_PER_STD = 2.0  # of the narrower of the two Gaussians that code a latent
TAILS = 12.0  # standard deviations that a Gaussian model reaches at first; further symbols double it
MARGIN = 256  # bits that must be left on a stack before it is popped from
GUARD = 1e-10  # by how much another machine's float64 outputs may differ
FINE = 2.0**-6  # of the step's standard deviation: what x̂ is rounded to in the portable mode
DEFAULT_LEVELS = 100


def compress(
    model: Diffusion,
    images: Any,
    labels: Any = None,
    *,
    levels: int | None = DEFAULT_LEVELS,
    group: int | None = None,
    batch: int = 1,
    fit: Any = None,
    names: Sequence[str] = (),
    portable: bool = False,
    verify: bool = True,
    progress: bool = False,
) -> bytes:
    """Compress images losslessly: the bound of `measure` on the same levels, plus what a group borrows.

        data = mv.compress(model, images)
        assert (mv.decompress(model, data) == images).all()

    Args:
        images: pixel values, (n, C, H, W), integers.   labels: classes, (n,), for a model of classes; coded too.
        levels: of the sub-grid at even strides that codes; None is all L. Fewer are faster and longer.
        group: images that are decoded together; None is all. Each group borrows bits of its own.
        batch: images side by side: faster, and each borrows bits.
        fit: training images that an isotropic reverse variance is fitted to; the file keeps it. None codes with the
            model's own; where that is not fitted, files are longer than the bound.
        names: of the images, n, kept in the file.
        portable: float64 with rounded outputs, so that another machine decodes what this one encodes.
        verify: decode each group at once and compare.   progress: show it on stderr.
    Returns: the file's bytes.
    Raises:
        UserError: for images that do not fit the model, a model without a decoder for pixels or without a grid, or a
            missing package constriction (the extra `codec`).
    """
    images, classes = _checked(model, images, labels, names)
    table = None if fit is None else _fitted_table(model, fit)
    chain = _Chain(_with_table(model, table), levels, batch, portable)
    size = len(images) if group is None else group
    if size < 1 or batch < 1:
        raise UserError(f"group={size} and batch={batch} must be at least 1: they count images")
    starts: Sequence[int] = range(0, len(images), size)
    payloads, groups = [], []
    for start in track(starts, "compressing") if progress else starts:
        part = images[start : start + size]
        label = None if classes is None else classes[start : start + size]
        words, plain = chain.encode(part, label)
        if verify and not np.array_equal(chain.decode(words, len(part), plain, label), part):
            raise UserError(
                f"images {start}…{start + len(part) - 1} do not decode to themselves on this machine: its sums are not "
                "repeatable; use fewer threads, or portable=True"
            )
        payloads.append(words.astype("<u4").tobytes())
        groups.append(
            {
                "count": len(part),
                "plain": plain,
                "bytes": len(payloads[-1]),
                "check": hashlib.sha256(payloads[-1]).hexdigest()[:16],
                "sha256": hashlib.sha256(np.ascontiguousarray(part).tobytes()).hexdigest(),
            }
        )
    header = {
        **chain.facts,
        "variance": table,
        "probe": chain.probe(),
        "dtype": str(images.dtype),
        "names": list(names),
        "labels": None if classes is None else classes.tolist(),
        "groups": groups,
    }
    text = zlib.compress(json.dumps(header, separators=(",", ":")).encode(), 9)
    return b"".join([MAGIC, struct.pack("<I", len(text)), hashlib.sha256(text).digest()[:16], text, *payloads])


def decompress(model: Diffusion, data: bytes, *, groups: Sequence[int] | None = None, progress: bool = False) -> Any:
    """The images that `compress` was given, bit for bit.

    Args:
        data: the file's bytes.   groups: which groups to decode, in order; None is all.
    Returns: pixel values, (n, C, H, W).
    Raises:
        UserError: for a damaged file, another model or version, or a machine whose sums differ; before any decoding.
    """
    header, payload = _opened(data)
    chain = _Chain(_with_table(model, header["variance"]), None, header["batch"], header["portable"], header["grid"])
    for name, said in chain.facts.items():
        if header[name] != said:
            raise UserError(_DIFFERS.get(name, f"the file was written with {name}={header[name]} and this is {said}"))
    if header["probe"] != chain.probe():
        raise UserError(
            "this machine's network outputs differ from the encoder's in their last bits, so nothing could be decoded: "
            "use the encoder's threads, kind of processor and version of torch, or compress with portable=True"
        )
    edges = np.cumsum([0, *(entry["bytes"] for entry in header["groups"])])
    counts = np.cumsum([0, *(entry["count"] for entry in header["groups"])])
    chosen = range(len(header["groups"])) if groups is None else groups
    made = []
    for number in track(chosen, "decompressing") if progress else chosen:
        if not 0 <= number < len(header["groups"]):
            raise UserError(f"group {number} is not in the file, which has groups 0…{len(header['groups']) - 1}")
        entry, words = header["groups"][number], payload[edges[number] : edges[number + 1]]
        labels = header["labels"]
        label = None if labels is None else np.array(labels[counts[number] : counts[number + 1]], dtype=np.int64)
        images = chain.decode(np.frombuffer(words, "<u4"), entry["count"], entry["plain"], label)
        images = images.astype(header["dtype"])
        if hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest() != entry["sha256"]:
            raise UserError(f"group {number} did not decode to the images that were compressed (SHA-256 differs)")
        made.append(images)
    return np.concatenate(made) if made else np.zeros((0, *model.shape), dtype=header["dtype"])


def describe(data: bytes) -> dict[str, Any]:
    """What a compressed file says of itself: version, model's hash, grid, counts, names, sizes.

    Raises:
        UserError: for a damaged file, or one of another version.
    """
    header, _ = _opened(data)
    count = sum(entry["count"] for entry in header["groups"])
    dims = math.prod(header["shape"])
    return {**header, "count": count, "bytes": len(data), "bits_per_dim": 8 * len(data) / max(1, count * dims)}


_DIFFERS = {
    "model": "the file was compressed with another model: give the run whose SHA-256 `markovae inspect FILE` shows",
    "format": "the file is of another version of the format: update markovae",
}


def _opened(data: bytes) -> tuple[dict[str, Any], bytes]:
    """(header, payload) of a file whose every part is there and matches its checksum."""
    if len(data) < 24 or data[:4] != MAGIC:
        raise UserError("this is not a compressed file of markovae (.mvz)")
    (length,) = struct.unpack("<I", data[4:8])
    text = data[24 : 24 + length]
    if length > MAX_HEADER or len(text) != length or hashlib.sha256(text).digest()[:16] != data[8:24]:
        raise UserError("the file's header is damaged or cut short: get it anew")
    unpacked = zlib.decompressobj().decompress(text, MAX_HEADER)
    header: dict[str, Any] = json.loads(unpacked)
    payload = data[24 + length :]
    if len(payload) != sum(entry["bytes"] for entry in header["groups"]):
        raise UserError(f"the file has {len(payload):,} bytes of images where its header says otherwise: get it anew")
    at = 0
    for number, entry in enumerate(header["groups"]):
        if hashlib.sha256(payload[at : at + entry["bytes"]]).hexdigest()[:16] != entry["check"]:
            raise UserError(f"group {number} of the file is damaged: get it anew")
        at += entry["bytes"]
    return header, payload


def _checked(model: Diffusion, images: Any, labels: Any, names: Sequence[str]) -> tuple[Any, Any]:
    if not model.decoder.discrete:
        raise UserError("this model has no decoder for pixels, so there are no pixel values to compress")
    images = np.asarray(images.cpu() if isinstance(images, torch.Tensor) else images)
    if not np.issubdtype(images.dtype, np.integer):
        raise UserError(f"images of type {images.dtype} must be integers: pass pixel values 0…{model.pixels.bins - 1}")
    if images.ndim != 4 or images.shape[1:] != model.shape:
        raise UserError(f"images of shape {images.shape[1:]} do not fit the model, which takes {model.shape}")
    if not len(images) or not 0 <= int(images.min()) <= int(images.max()) < model.pixels.bins:
        raise UserError(f"images must be one or more, with pixel values 0…{model.pixels.bins - 1}")
    if names and len(names) != len(images):
        raise UserError(f"{len(names)} names for {len(images)} images: give one each, or none")
    classes = None if labels is None else class_numbers(labels).numpy()
    if classes is not None and classes.shape != (len(images),):
        raise UserError(f"{classes.size} labels for {len(images)} images: give one each")
    return images, classes


def _fitted_table(model: Diffusion, images: Any) -> str:
    """The isotropic variance fitted to images, as text: K log-SNRs and K errors in float32."""
    made = with_reverse(model, "isotropic", images)
    assert isinstance(made.reverse, IsotropicVariance)
    table = torch.stack([made.reverse.errors.logsnr, made.reverse.errors.error])
    return base64.b64encode(table.cpu().numpy().astype("<f4").tobytes()).decode()


def _with_table(model: Diffusion, table: str | None) -> Diffusion:
    if table is None:
        return model
    logsnr, error = np.frombuffer(base64.b64decode(table), "<f4").astype(np.float64).reshape(2, -1)
    reverse = IsotropicVariance(len(logsnr))
    reverse.errors.fit(torch.from_numpy(logsnr), torch.from_numpy(error))
    return model.with_reverse(reverse)


class _EmptyStackError(Exception):
    """More bits were borrowed than the stack held."""


@final
class _Stack:
    """Numbers on a grid, under Gaussians, on one ANS stack. What is pushed last is popped first.

    Args:
        words: uint32.   raw: True for bits of any kind, to be borrowed; False for what another stack's `words` gave.
    """

    def __init__(self, words: Any, raw: bool) -> None:
        try:
            import constriction
        except ImportError:
            raise UserError("compression needs the package constriction: pip install 'markovae[codec]'") from None
        self._models = constriction.stream.model
        self._coder = constriction.stream.stack.AnsCoder(np.ascontiguousarray(words, np.uint32), seal=raw)
        # How far a Gaussian reaches: nearly always TAILS, else twice, four times … as far.
        chances = np.array([0.9999, *(1e-4 * 0.5 ** (k + 1) for k in range(19))])
        self._reach = self._models.Categorical(chances / chances.sum(), perfect=False)

    def words(self, raw: bool) -> Any:
        """All that is on the stack, uint32; raw: the bits that were borrowed, once all else is popped."""
        return self._coder.get_compressed(unseal=raw)

    def pop_normal(self, mean: Any, std: Any) -> Any:
        """Integers under N(mean, std²) cut into bins of width 1, the shape of `mean`."""
        self._require(mean, std)
        (doublings,) = self._coder.decode(self._reach, 1)
        return self._pop(mean, std, int(doublings))

    def push_normal(self, values: Any, mean: Any, std: Any) -> None:
        """What `pop_normal` gives back."""
        doublings, furthest = 0, int(np.abs(values - np.round(mean).astype(np.int64)).max())
        while furthest > self._half(std, doublings):
            doublings += 1
        self._push(values, mean, std, doublings)
        self._coder.encode_reverse(np.array([doublings], np.int32), self._reach)

    def pop_noise(self, mean: Any, std: Any) -> Any:
        """As `pop_normal`, of symbols that this stack itself draws: none lies beyond the first reach."""
        self._require(mean, std)
        return self._pop(mean, std, 0)

    def push_noise(self, values: Any, mean: Any, std: Any) -> None:
        """What `pop_noise` gives back."""
        self._push(values, mean, std, 0)

    def _require(self, mean: Any, std: Any) -> None:
        if self._coder.num_bits() < MARGIN + mean.size * (math.log2(float(np.max(std))) + 2.1):
            raise _EmptyStackError

    def _pop(self, mean: Any, std: Any, doublings: int) -> Any:
        base = np.round(mean)
        symbols = self._coder.decode(self._gaussian(std, doublings), *self._parameters(mean - base, std))
        return base.astype(np.int64) + symbols.reshape(mean.shape)

    def _push(self, values: Any, mean: Any, std: Any, doublings: int) -> None:
        base = np.round(mean)
        symbols = (values - base.astype(np.int64)).ravel().astype(np.int32)
        self._coder.encode_reverse(symbols, self._gaussian(std, doublings), *self._parameters(mean - base, std))

    def pop_pixels(self, mean: Any, std: Any, bins: int) -> Any:
        """Pixel values 0…bins−1 under N(mean, std²), the end bins open, the shape of `mean`."""
        model = self._models.QuantizedGaussian(0, bins - 1)
        return self._coder.decode(model, *self._parameters(mean, std)).reshape(mean.shape)

    def push_pixels(self, values: Any, mean: Any, std: Any, bins: int) -> None:
        """What `pop_pixels` gives back."""
        model = self._models.QuantizedGaussian(0, bins - 1)
        self._coder.encode_reverse(values.ravel().astype(np.int32), model, *self._parameters(mean, std))

    def pop_table(self, chances: Any) -> Any:
        """One symbol for each row of probabilities (N, bins), (N,)."""
        return self._coder.decode(self._models.Categorical(perfect=False), chances)

    def push_table(self, values: Any, chances: Any) -> None:
        """What `pop_table` gives back."""
        self._coder.encode_reverse(values.ravel().astype(np.int32), self._models.Categorical(perfect=False), chances)

    def pop_corrections(self, expected: float, size: int) -> Any:
        """(positions, parities) of the numbers that lie near a rounding boundary."""
        (count,) = self._coder.decode(self._poisson(expected), 1)
        both = self._coder.decode(self._models.Uniform(2 * size), int(count)) if count else np.zeros(0, np.int32)
        return both // 2, both % 2

    def push_corrections(self, positions: Any, parities: Any, expected: float, size: int) -> None:
        """What `pop_corrections` gives back."""
        if len(positions):
            self._coder.encode_reverse((2 * positions + parities).astype(np.int32), self._models.Uniform(2 * size))
        self._coder.encode_reverse(np.array([len(positions)], np.int32), self._poisson(expected))

    def _poisson(self, expected: float) -> Any:
        count = np.arange(256)
        log = count * math.log(max(expected, 1e-6)) - np.array([math.lgamma(k + 1) for k in count])
        chances = np.exp(log - log.max()) + 1e-9
        return self._models.Categorical(chances / chances.sum(), perfect=False)

    def _half(self, std: Any, doublings: int) -> int:
        return math.ceil(TAILS * float(np.max(std)) + 1) << doublings

    def _gaussian(self, std: Any, doublings: int) -> Any:
        half = self._half(std, doublings)
        return self._models.QuantizedGaussian(-half, half)

    def _parameters(self, mean: Any, std: Any) -> tuple[Any, Any]:
        flat = np.ascontiguousarray(mean.ravel(), np.float64)
        return flat, np.ascontiguousarray(np.broadcast_to(std, mean.shape).ravel(), np.float64)


@final
class _Chain:
    """A model's chain on a grid of rounded latents: what is pushed and popped, in which order, by the same numbers.

    Args:
        levels: of the sub-grid; None is all, or those of `grid`.   batch: images side by side.
        portable: whether outputs are rounded.   grid: log-SNRs of a file that was written before.
    """

    def __init__(
        self, model: Diffusion, levels: int | None, batch: int, portable: bool, grid: Sequence[str] | None = None
    ) -> None:
        if grid is not None:
            schedule: NoiseSchedule = Tabulated(
                torch.tensor([float.fromhex(text) for text in grid], dtype=torch.float64)
            )
        elif levels is None or levels >= model.num_levels:
            schedule = model.schedule
        else:
            if levels < 2:
                raise UserError(f"levels={levels} must be at least 2")
            schedule = model.schedule.subgrid(levels)
        # The portable mode computes in float64: in a copy, so that the caller's network stays as it is.
        self._model = (copy.deepcopy(model) if portable else model).on_grid(schedule)
        self._batch, self._portable = batch, portable
        if portable:
            self._require_plain_variance()
            self._model.precision = torch.float64
            self._model.double()
        self._logsnr = schedule.logsnr.detach().double()
        self._levels = len(self._logsnr) - 1
        self._widths = self._grid_widths()

    def _require_plain_variance(self) -> None:
        reverse = self._model.reverse
        if (
            reverse.channels != 1
            or reverse.needs_jacobian
            or not isinstance(self._decoder_sample(), DiscretisedGaussian)
        ):
            raise UserError(
                "portable=True needs a reverse variance that no network output sets, and a Gaussian decoder: take "
                "target.reverse=posterior, isotropic or diagonal"
            )

    def _decoder_sample(self) -> Any:
        zero = torch.zeros(1, *self._model.shape, dtype=torch.float64)
        return self._model.decoder.distribution(zero, self._model.schedule.logsnr, zero)

    @property
    def facts(self) -> dict[str, Any]:
        """What must be the same on both sides."""
        return {
            "format": FORMAT,
            "model": self.model_hash(),
            "shape": list(self._model.shape),
            "bins": self._model.pixels.bins,
            "grid": [float(value).hex() for value in self._logsnr[1:]],
            "batch": self._batch,
            "portable": self._portable,
            "precision": str(self._model.precision).removeprefix("torch."),
            "threads": None if self._portable else torch.get_num_threads(),
        }

    def model_hash(self) -> str:
        """SHA-256 of every weight and buffer, and of what the output means."""
        made = hashlib.sha256(f"{self._model.target.name} {type(self._model.reverse).__name__}".encode())
        made.update(f"{type(self._model.decoder).__name__} {self._model.clip}".encode())
        tables = [*self._model.network.named_parameters(), *self._model.network.named_buffers()]
        for name, value in sorted([*tables, *((f"reverse.{n}", v) for n, v in self._model.reverse.named_buffers())]):
            made.update(name.encode() + np.ascontiguousarray(value.detach().cpu().double().numpy()).tobytes())
        return made.hexdigest()

    @torch.no_grad()
    def probe(self) -> str:
        """SHA-256 of outputs on fixed latents, of the shape that is coded; rounded in the portable mode."""
        made = hashlib.sha256()
        source = torch.Generator().manual_seed(0)
        for level in sorted({1, (self._levels + 1) // 2, self._levels}):
            z = torch.randn(self._batch, *self._model.shape, generator=source, dtype=torch.float64)
            with evaluating(self._model):
                x_hat = self._denoised(z.numpy(), level, None).x_hat
            exact = np.round(x_hat, 6) + 0.0 if self._portable else x_hat
            made.update(np.ascontiguousarray(exact).tobytes())
        return made.hexdigest()[:32]

    # -- groups -------------------------------------------------------------------------------------------------

    def encode(self, images: Any, labels: Any) -> tuple[Any, list[int]]:
        """(words, bytes of each image that is written plainly): as many of those as the first latents borrow."""
        plain: list[bytes] = []
        while True:
            plain.append(_plain(images[len(plain)], self._model.pixels.bins))
            if len(plain) == len(images):
                return _as_words(b"".join(plain)), [len(code) for code in plain]
            try:
                return self._encode(images[len(plain) :], labels, plain), [len(code) for code in plain]
            except _EmptyStackError:
                continue

    @torch.no_grad()
    def _encode(self, images: Any, labels: Any, plain: list[bytes]) -> Any:
        stack = _Stack(_as_words(b"".join(plain)), raw=True)
        with evaluating(self._model):
            for start in range(0, len(images), self._batch):
                part = images[start : start + self._batch].astype(np.int64)
                self._push(stack, part, self._condition(labels, len(plain) + start, len(part)))
        return stack.words(raw=False)

    @torch.no_grad()
    def decode(self, words: Any, count: int, plain: Sequence[int], labels: Any) -> Any:
        """The images of a group, (count, C, H, W)."""
        coded, made = count - len(plain), []
        with evaluating(self._model):
            if coded:
                stack = _Stack(words, raw=False)
                for start in reversed(range(0, coded, self._batch)):
                    size = min(self._batch, coded - start)
                    made.append(self._pop(stack, size, self._condition(labels, len(plain) + start, size)))
        content = (stack.words(raw=True) if coded else np.asarray(words)).astype("<u4").tobytes()
        edges = np.cumsum([0, *plain])
        first = [_from_plain(content[a:b], self._model.shape) for a, b in pairwise(edges)]
        return np.concatenate([np.stack(first), *reversed(made)]) if first else np.concatenate(made[::-1])

    def _condition(self, labels: Any, start: int, size: int) -> Condition | None:
        return None if labels is None else Condition(label=torch.from_numpy(labels[start : start + size]))

    # -- one batch: the two directions mirror one another line by line -------------------------------------------

    def _push(self, stack: _Stack, images: Any, condition: Condition | None) -> None:
        x = self._model.pixels.to_x(torch.from_numpy(images)).numpy()
        latent = stack.pop_noise(*self._first(x))
        self._push_pixels(stack, images, self._real(latent, 1), condition)
        for level in range(2, self._levels + 1):
            above = stack.pop_noise(*self._forward(self._real(latent, level - 1), level))
            step, corrections = self._reverse(self._real(above, level), level, condition, None)
            stack.push_normal(latent, *step)
            self._push_corrections(stack, corrections, level, above.size)
            latent = above
        stack.push_normal(latent, *self._top(latent.shape))

    def _pop(self, stack: _Stack, size: int, condition: Condition | None) -> Any:
        latent = stack.pop_normal(*self._top((size, *self._model.shape)))
        for level in range(self._levels, 1, -1):
            corrections = self._pop_corrections(stack, level, latent.size)
            step, _ = self._reverse(self._real(latent, level), level, condition, corrections)
            below = stack.pop_normal(*step)
            stack.push_noise(latent, *self._forward(self._real(below, level - 1), level))
            latent = below
        images = self._pop_pixels(stack, self._real(latent, 1), condition)
        x = self._model.pixels.to_x(torch.from_numpy(images)).numpy()
        stack.push_noise(latent, *self._first(x))
        return images

    # -- the Gaussians, in units of the grid of what they code ---------------------------------------------------

    def _grid_widths(self) -> list[float]:
        """The width of the grid of z_ℓ, 1…L: a share of the narrower of the noise of its step and of its prior."""
        widths = [math.nan]
        for level in range(1, self._levels + 1):
            narrowest = self._noise(level)[1]
            if level < self._levels:
                narrowest = min(narrowest, float(np.min(self._prior_std(level + 1))))
            widths.append(_short(narrowest / BINS_PER_STD))
        return widths

    def _noise(self, level: int) -> tuple[float, float]:
        """(signal kept, standard deviation) of the encoder's step to this level."""
        if level == 1:
            return (
                _short(float(forward.signal_scale(self._logsnr[1]))),
                _short(float(forward.noise_scale(self._logsnr[1]))),
            )
        pair = self._logsnr[level - 1], self._logsnr[level]
        return _short(float(forward.step_alpha(*pair))), _short(math.sqrt(float(forward.step_variance(*pair))))

    def _prior_std(self, level: int) -> Any:
        """The prior's standard deviation of the step down from this level where no output sets it, else √β̃."""
        logsnr_prev, logsnr = self._logsnr[level - 1], self._logsnr[level]
        if self._model.reverse.channels == 1 and not self._model.reverse.needs_jacobian:
            zero = torch.zeros(1, *self._model.shape, dtype=torch.float64)
            step = self._model.reverse.step(zero, zero, logsnr_prev, logsnr, None)
            if isinstance(step, Gaussian):
                return np.asarray(step.variance.detach().cpu().double().numpy()) ** 0.5
        return np.asarray(math.sqrt(float(forward.posterior_variance(logsnr_prev, logsnr))))

    def _first(self, x: Any) -> tuple[Any, Any]:
        return self._scaled(self._noise(1)[0] * x, self._noise(1)[1], 1)

    def _forward(self, z: Any, level: int) -> tuple[Any, Any]:
        alpha, std = self._noise(level)
        return self._scaled(alpha * z, std, level)

    def _top(self, shape: tuple[int, ...]) -> tuple[Any, Any]:
        return self._scaled(np.zeros(shape), 1.0, self._levels)

    def _reverse(
        self, z: Any, level: int, condition: Condition | None, corrections: tuple[Any, Any] | None
    ) -> tuple[tuple[Any, Any], tuple[Any, Any] | None]:
        """(mean and deviation of z_{ℓ−1}, the corrections that another machine may need)."""
        logsnr_prev, logsnr = self._logsnr[level - 1], self._logsnr[level]
        made = self._denoised(z, level, condition)
        if not self._portable:
            step = self._model.reverse.step(made.tensor, made.z, logsnr_prev, logsnr, made.head)
            if not isinstance(step, Gaussian):
                raise UserError("a full covariance cannot be coded: take another reverse variance (target.reverse)")
            mean, std = step.mean.double().cpu().numpy(), step.variance.double().cpu().numpy() ** 0.5
            return self._scaled(mean, std, level - 1), None
        c_z, c_x = (_short(float(value)) for value in forward.posterior_coefficients(logsnr_prev, logsnr))
        std = self._short_std(level)
        x_hat, found = _settled(made.x_hat, self._fine(level), corrections)
        return self._scaled(c_z * z + c_x * x_hat, std, level - 1), found

    def _short_std(self, level: int) -> Any:
        return self._prior_std(level).astype(np.float32).astype(np.float64)

    def _fine(self, level: int) -> float:
        """What x̂ is rounded to at this level, a power of 2."""
        if level == 1:
            step = self._decoder_sample()
            return 2.0 ** math.floor(math.log2(FINE * float(step.scale.min())))
        _, c_x = forward.posterior_coefficients(self._logsnr[level - 1], self._logsnr[level])
        return 2.0 ** math.floor(math.log2(FINE * float(np.min(self._short_std(level))) / float(c_x)))

    def _scaled(self, mean: Any, std: Any, level: int) -> tuple[Any, Any]:
        """In units of the grid; the deviation less what rounding to the grid adds, 1/12 of a bin's square."""
        width = self._widths[level]
        return mean / width, np.sqrt(np.maximum(np.square(np.asarray(std) / width) - 1 / 12, 1 / 12))

    def _real(self, latent: Any, level: int) -> Any:
        return latent * self._widths[level]

    # -- pixels -------------------------------------------------------------------------------------------------

    def _pixel_model(
        self, z: Any, condition: Condition | None, corrections: tuple[Any, Any] | None
    ) -> tuple[Any, tuple[Any, Any] | None]:
        made = self._denoised(z, 1, condition)
        logsnr = self._model.schedule.logsnr.to(made.z.device)
        if not self._portable:
            return self._model.decoder.distribution(made.tensor, logsnr, made.z, made.head), None
        x_hat, found = _settled(made.x_hat, self._fine(1), corrections)
        scale = torch.tensor(_short(float(self._decoder_sample().scale.max())), dtype=torch.float64)
        return DiscretisedGaussian(torch.from_numpy(x_hat), scale, self._model.pixels), found

    def _push_pixels(self, stack: _Stack, images: Any, z: Any, condition: Condition | None) -> None:
        made, corrections = self._pixel_model(z, condition, None)
        if isinstance(made, DiscretisedGaussian):
            stack.push_pixels(images, *self._in_pixels(made), self._model.pixels.bins)
        else:
            stack.push_table(images, self._table(made))
        self._push_corrections(stack, corrections, 1, z.size)

    def _pop_pixels(self, stack: _Stack, z: Any, condition: Condition | None) -> Any:
        corrections = self._pop_corrections(stack, 1, z.size)
        made, _ = self._pixel_model(z, condition, corrections)
        if isinstance(made, DiscretisedGaussian):
            return stack.pop_pixels(*self._in_pixels(made), self._model.pixels.bins).astype(np.int64)
        return stack.pop_table(self._table(made)).astype(np.int64).reshape(z.shape)

    def _in_pixels(self, made: DiscretisedGaussian) -> tuple[Any, Any]:
        """Mean and deviation in pixel values."""
        width = 2 * self._model.pixels.half_width
        offset = 0.5 if self._model.pixels.centred else 0.0
        mean = (made.mean.double().cpu().numpy() + 1) / width - offset
        return mean, made.scale.double().cpu().numpy() / width

    def _table(self, made: Any) -> Any:
        if not isinstance(made, SoftmaxBins):
            raise UserError(f"the decoder {type(self._model.decoder).__name__} cannot be coded")
        bins = self._model.pixels.bins
        shape = tuple(made.mean.shape)
        each = [
            made.log_probs(self._model.pixels.to_x(torch.full(shape, k))).double().cpu().numpy().ravel()
            for k in range(bins)
        ]
        return np.ascontiguousarray(np.exp(np.stack(each, 1)))

    # -- what is the same on another machine ---------------------------------------------------------------------

    def _push_corrections(self, stack: _Stack, corrections: tuple[Any, Any] | None, level: int, size: int) -> None:
        if corrections is not None:
            stack.push_corrections(*corrections, self._near(level, size), size)

    def _pop_corrections(self, stack: _Stack, level: int, size: int) -> tuple[Any, Any] | None:
        return stack.pop_corrections(self._near(level, size), size) if self._portable else None

    def _near(self, level: int, size: int) -> float:
        """How many of `size` numbers lie within GUARD of a rounding boundary, on average."""
        return size * 2 * GUARD / self._fine(level)

    def _denoised(self, z: Any, level: int, condition: Condition | None) -> _Denoised:
        dtype = torch.float64 if self._model.precision == torch.float64 else torch.float32
        latent = torch.from_numpy(np.ascontiguousarray(z)).to(self._model.device, dtype)
        where = None if condition is None else condition.to(self._model.device)
        x_hat, head = self._model.predict(latent, self._logsnr[level].to(latent.device), where)
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


def _as_words(content: bytes) -> Any:
    return np.frombuffer(content + bytes(-len(content) % 4), "<u4")


def _plain(image: Any, bins: int) -> bytes:
    """One image on its own: the shortest of what is at hand."""
    buffer = io.BytesIO()
    if bins <= 256 and image.shape[0] in (1, 3):
        picture = Image.fromarray(np.ascontiguousarray(image.astype(np.uint8).transpose(1, 2, 0)).squeeze())
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP" if image.shape[0] == 3 else "PNG", **_BEST[image.shape[0]])
    raw = b"\0" + zlib.compress(image.astype("<u2" if bins > 256 else "u1").tobytes(), 9)
    return min((raw, *([b"\1" + buffer.getvalue()] if buffer.getvalue() else [])), key=len)


_BEST: dict[int, dict[str, Any]] = {
    3: {"lossless": True, "quality": 100, "method": 6, "exact": True},
    1: {"optimize": True},
}


def _from_plain(code: bytes, shape: tuple[int, ...]) -> Any:
    if code[:1] == b"\1":
        with open_image(code[1:]) as image:
            values = np.asarray(image)
        return values.reshape(shape[1], shape[2], shape[0]).transpose(2, 0, 1).astype(np.int64)
    content = zlib.decompress(code[1:])
    wide = len(content) == 2 * math.prod(shape)
    return np.frombuffer(content, "<u2" if wide else "u1").reshape(shape).astype(np.int64)
