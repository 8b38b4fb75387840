"""`compress` and `decompress`: images as a file at the measured bits/dim, and back.

The length of a file is the bound of `measure` on the same levels and images, and what a group of images borrows. That
is a code of its own: the first few images, written plainly. A prior whose variance is not fitted makes bits/dim that
are higher, in the file as in the bound: hence `fit`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np
import torch

from markovae.compression.chain_coder import ChainCoder, View, model_hash
from markovae.compression.mvz_format import (
    MAX_BATCH,
    MAX_LEVELS,
    PIXEL_HASH,
    FileHeader,
    GroupRecord,
    MvzFile,
    bits_per_dim,
    long_errors,
    read_mvz,
    short_errors,
)
from markovae.diffusion.cascade import Cascade, Model, stages_of
from markovae.diffusion.model import Diffusion
from markovae.diffusion.reverse import IsotropicVariance
from markovae.errors import UserError
from markovae.likelihood.inputs import require_condition
from markovae.likelihood.measuring import prepare
from markovae.likelihood.method import GRIDS, Method
from markovae.log import track
from markovae.networks.conditioning import Condition, TextConditioner, class_numbers

DEFAULT_LEVELS, DEFAULT_GROUP = 100, 256


@dataclass(frozen=True)
class CodecSettings:
    """How images are coded.

    Args:
        levels: how many of the model's code; None is all L. Fewer are faster and longer.
        grid: which: even (strides), or optimal (the least bound, by the images that are fitted on).
        group: images that are decoded together; None is all of them. Each group borrows bits of its own.
        batch: images side by side: faster, and each borrows bits.
        portable: float64 with rounded outputs, so that another machine decodes what this one encodes.
        progressive: each image by itself, so that a part of its bytes shows it roughly; longer, by what it borrows.
        verify: decode each group at once and compare.
    """

    levels: int | None = DEFAULT_LEVELS
    grid: str = "even"
    group: int | None = DEFAULT_GROUP
    batch: int = 1
    portable: bool = False
    progressive: bool = False
    verify: bool = True

    def __post_init__(self) -> None:
        """Raises: UserError for numbers out of range, or an unknown grid."""
        if self.grid not in GRIDS:
            raise UserError(f"grid={self.grid!r} must be one of {', '.join(GRIDS)}")
        for name, least, most in (("levels", 2, None), ("group", 1, None), ("batch", 1, MAX_BATCH)):
            value = getattr(self, name)
            if value is not None and not (value >= least and (most is None or value <= most)):
                limit = f"at least {least}" if most is None else f"{least}…{most}"
                raise UserError(f"{name}={value} must be {limit}")


def compress(
    model: Model,
    images: Any,
    labels: Any = None,
    *,
    fit: Any = None,
    fit_labels: Any = None,
    names: Sequence[str] = (),
    progress: bool = False,
    **settings: Any,
) -> bytes:
    """Compress images losslessly: the bound of `measure` on the same levels, plus what a group borrows.

        data = mv.compress(model, images)
        assert (mv.decompress(model, data) == images).all()

    Args:
        images: pixel values, (n, C, H, W), integers.
        labels: classes, (n,), for a model of classes; captions, n texts, for a model of captions. Coded too.
        fit: training images that an isotropic reverse variance is fitted to, for the levels that code; the file keeps
            it. None codes with the model's own.
        fit_labels: of those images.
        names: of the images, n, kept in the file.
        progress: show it on stderr.
        settings: levels, grid, group, batch, portable, progressive, verify: see `CodecSettings`.
    Returns: the file's bytes.
    Raises:
        UserError: for images that do not fit the model, a model without a decoder for pixels or without a grid, or a
            missing package constriction (the extra `codec`).
    """
    encoder = GroupEncoder(model, images, labels, names, (fit, fit_labels), CodecSettings(**settings))
    groups = range(encoder.header.num_groups)
    ticks = encoder.ticks(groups) if progress else iter(())
    records = [encoder.record(number, ticks) for number in groups]
    return encoder.header.to_bytes() + b"".join(records)


def decompress(
    model: Model, data: bytes | MvzFile, *, groups: Sequence[int] | None = None, progress: bool = False
) -> Any:
    """The images that `compress` was given, bit for bit.

        data = mv.compress(model, images[:2], labels[:2])
        assert (mv.decompress(model, data) == images[:2]).all()

    Args:
        data: the file's bytes.
        groups: which groups to decode, in order; None is all.
    Returns: pixel values, (n, C, H, W).
    Raises:
        UserError: for a damaged file, another model or version, or a machine whose sums differ; before any decoding.
    """
    decoder = GroupDecoder(model, data)
    header = decoder.file.header
    chosen = range(header.num_groups) if groups is None else groups
    made = list(decoder.groups(chosen, progress))
    return np.concatenate(made) if made else np.zeros((0, *header.shape), dtype=header.dtype)


def reveal(model: Model, data: bytes | MvzFile, number: int = 0, *, stop_after: int | None = None) -> Iterator[View]:
    """What image `number` of a progressive file looks like, level by level, and the words (of 4 bytes) read by then.

        for view in reveal(model, mv.compress(model, image, progressive=True)): ...

    Args:
        stop_after: read only so many words of it; None reads all.
    Raises:
        UserError: as `decompress`, and for a file that is not progressive.
    """
    yield from GroupDecoder(model, data).views(number, stop_after)


def describe(data: bytes | MvzFile) -> dict[str, Any]:
    """What a compressed file says of itself: model's hash, levels, counts, sizes, and of each group how it is coded.

    Raises:
        UserError: for a damaged file, or one of another version.
    """
    file = data if isinstance(data, MvzFile) else read_mvz(data)
    records = [file.record(number) for number in range(file.header.num_groups)]
    return {
        **asdict(file.header),
        "header_bytes": file.edges[0],
        "groups": [
            {
                "images": file.header.in_group(number),
                "bytes": file.edges[number + 1] - file.edges[number],
                "plain_images": len(record.plain),
                "sha256": record.pixels.hex(),
            }
            for number, record in enumerate(records)
        ],
        "names": [name for record in records for name in record.names],
        "side_information": sorted(
            {kind for record in records for kind in ("labels", "captions") if getattr(record, kind)}
        ),
        "bytes": len(file.content),
        "bits_per_dim": bits_per_dim(file.header, len(file.content)),
    }


@final
class GroupEncoder:
    """Groups of images, encoded one by one; which of them, and by whom, is the caller's.

    Args:
        images: (n, C, H, W): anything with a length whose slices are arrays.   Others as for `compress`.
    """

    def __init__(
        self, model: Model, images: Any, labels: Any, names: Sequence[str], fit: Any, settings: CodecSettings
    ) -> None:
        images = images.cpu().numpy() if isinstance(images, torch.Tensor) else images
        images = images if hasattr(images, "shape") else np.asarray(images)
        _require_images(model, images)
        self._images, self._names, self._settings = images, tuple(names), settings
        self._labels, self._captions = _side_information(model, labels, len(images))
        if names and len(names) != len(images):
            raise UserError(f"{len(names)} names for {len(images)} images: give one each, or none")
        levels, errors = _chosen_levels(model, settings, *fit)
        group = 1 if settings.progressive else min(settings.group or len(images), len(images))
        batch = min(settings.batch, group)
        self._coder = ChainCoder(_coding_model(model, levels, errors), batch, settings.portable)
        self._conditioner = model.text_conditioner
        self._hashes = [
            _pixel_hash(images[start : start + group], images.dtype) for start in range(0, len(images), group)
        ]
        self.header = FileHeader(
            model=model_hash(model),
            pixels=hashlib.sha256(b"".join(self._hashes)).hexdigest()[:16],
            shape=tuple(model.shape),
            bins=model.pixels.bins,
            dtype=np.dtype(images.dtype).newbyteorder("=").name,
            count=len(images),
            group=group,
            levels=tuple(levels.tolist()),
            errors=errors,
            batch=batch,
            precision=str(self._coder.model.precision).removeprefix("torch."),
            threads=None if settings.portable else torch.get_num_threads(),
            portable=settings.portable,
            progressive=settings.progressive,
            probe=self._coder.probe(),
        )

    @property
    def network(self) -> torch.nn.Module:
        """What codes: the model's own network, or a copy of it in float64."""
        return self._coder.model.network

    def key(self, number: int) -> bytes:
        """SHA-256 of all that the record of group `number` is made from."""
        side = repr([column[self._rows(number)] for column in (self._names, self._labels, self._captions)])
        return hashlib.sha256(self.header.check + self._hashes[number] + side.encode()).digest()

    def wrote(self, file: MvzFile) -> bool:
        """Whether a file is of these images, coded like this."""
        return file.header == self.header

    def ticks(self, groups: Sequence[int]) -> Iterator[Any]:
        """What `record` advances for each image of these groups that it encodes or verifies, shown on stderr."""
        each = 2 if self._settings.verify else 1
        total = each * sum(map(self.header.in_group, groups))
        return _ticks(total, "compressing and verifying" if self._settings.verify else "compressing", progress=True)

    def record(self, number: int, ticks: Iterator[Any]) -> bytes:
        """Group `number` as it lies in the file.

        Raises:
            UserError: for pixel values that the model does not have, or a group that does not decode to itself.
        """
        images = self._group(number)
        low, high = int(images.min()), int(images.max())
        if not 0 <= low <= high < self.header.bins:
            raise UserError(f"pixel values {low}…{high} must lie in 0…{self.header.bins - 1}, as the model's")
        rows = self._rows(number)
        labels, captions = self._labels[rows], self._captions[rows]
        condition, check = _condition(self._conditioner, labels, captions)
        encode = self._coder.encode_progressively if self.header.progressive else self._coder.encode
        words, plain = encode(images, condition, ticks)
        if self._settings.verify:
            decoded = None
            with suppress(UserError):
                decoded = self._coder.decode(words, len(images), plain, condition, ticks)
            if decoded is None or not np.array_equal(decoded, images):
                raise UserError(
                    f"images {rows.start}…{rows.stop - 1} did not round-trip: this machine's floating-point sums are "
                    "not deterministic; use fewer threads, or portable=True"
                )
        made = GroupRecord(self._hashes[number], words, plain, self._names[rows], labels, captions, check)
        return made.to_bytes(self.header.check, number)

    def _rows(self, number: int) -> slice:
        start = number * self.header.group
        return slice(start, start + self.header.in_group(number))

    def _group(self, number: int) -> Any:
        return np.asarray(self._images[self._rows(number)]).astype(self.header.dtype)


@final
class GroupDecoder:
    """The groups of a file, decoded one by one; the file, the model and this machine are checked first.

    Args:
        data: the file's bytes, or the file.
    Raises:
        UserError: for a damaged file, another model or version, or a machine whose sums differ.
    """

    def __init__(self, model: Model, data: bytes | MvzFile) -> None:
        self.file = data if isinstance(data, MvzFile) else read_mvz(data)
        header = self.file.header
        _require_pixels(model)
        if header.model != model_hash(model):
            raise UserError(
                f"the file was compressed with another model, of SHA-256 {header.model[:16]}…: name the run of that one"
            )
        if (
            header.shape != tuple(model.shape)
            or header.bins != model.pixels.bins
            or header.levels[-1] > model.num_levels
        ):
            raise UserError("the file's header does not fit its model: get it anew")
        cores = os.cpu_count() or 1
        if header.threads is not None and header.threads > max(cores, torch.get_num_threads()):
            raise UserError(
                f"the file was written by {header.threads} threads and this machine has {cores}: compress with "
                "portable=True"
            )
        self._conditioner = model.text_conditioner
        self._num_classes = getattr(model.network, "num_classes", 0)
        try:
            made = _coding_model(model, torch.tensor(header.levels), header.errors)
        except ValueError:
            raise UserError("the file's header does not fit its model: get it anew") from None
        self._coder = ChainCoder(made, header.batch, header.portable)
        precision = str(self._coder.model.precision).removeprefix("torch.")
        if header.precision != precision:
            raise UserError(f"the file was written in {header.precision} and this model is in {precision}: load it so")
        with _threads(header.threads):
            if header.probe != self._coder.probe():
                raise UserError(
                    "this machine's network outputs differ from the encoder's in their last bits, so nothing could be "
                    "decoded: use the encoder's kind of processor and version of torch, or compress with portable=True"
                )

    def groups(self, numbers: Sequence[int], progress: bool = False) -> Iterator[Any]:
        """The images of these groups, (n, C, H, W) each.

        Raises:
            UserError: for a group that is not in the file, or does not decode to what was compressed.
        """
        header = self.file.header
        records = [self.file.record(number) for number in numbers]
        total = sum(header.in_group(number) for number in numbers)
        ticks = _ticks(total, "decompressing", progress)
        with _threads(header.threads):
            for number, record in zip(numbers, records, strict=True):
                count = header.in_group(number)
                condition = self._condition(record)
                images = self._coder.decode(record.words, count, record.plain, condition, ticks).astype(header.dtype)
                if _pixel_hash(images, images.dtype) != record.pixels:
                    raise UserError(
                        f"group {number} did not decode to the images that were compressed (SHA-256 differs)"
                    )
                yield images

    def views(self, number: int, stop_after: int | None = None) -> Iterator[View]:
        """What image `number` looks like, level by level.

        Args:
            stop_after: read only so many of its words; None reads all.
        """
        if not self.file.header.progressive:
            raise UserError("the file is not progressive: compress it with progressive=True to decode parts")
        record = self.file.record(number)
        words = record.words if stop_after is None else record.words[max(0, len(record.words) - stop_after) :]
        with _threads(self.file.header.threads):
            yield from self._coder.views(words, 1, self._condition(record))

    def _condition(self, record: GroupRecord) -> Condition | None:
        if record.labels and not all(0 <= label < self._num_classes for label in record.labels):
            raise UserError("the file names a class that its model has not: get it anew")
        condition, check = _condition(self._conditioner, record.labels, record.captions)
        if check != record.condition:
            raise UserError(
                "this machine's text encoder makes other features of the captions, so nothing could be decoded: use "
                "the encoder's kind of processor and version of torch"
            )
        return condition


@torch.no_grad()
def _coding_model(model: Model, levels: torch.Tensor, errors: str | None) -> Model:
    """The model on the levels that code, with the variance that was fitted to them."""
    cascaded = isinstance(model, Cascade)
    made = model.only(levels) if isinstance(model, Cascade) else model.on_grid(model.schedule.only(levels))
    if errors is None:
        return made
    left = torch.from_numpy(long_errors(errors))
    stages: list[Diffusion] = []
    first, left = (left[:1], left[1:]) if cascaded else (left[:0], left)
    for stage in reversed(stages_of(made)):  # finest first, as levels are counted; level 1 is one for all
        logsnr = stage.schedule.logsnr[1:].detach().cpu()
        count = len(logsnr) - cascaded
        table = IsotropicVariance(len(logsnr))
        table.errors.fit(logsnr, torch.cat([first, left[:count]]))
        stages.insert(0, stage.with_reverse(table))
        left = left[count:]
    return made.with_stages(stages) if isinstance(made, Cascade) else stages[0]


def _chosen_levels(model: Model, settings: CodecSettings, fit: Any, labels: Any) -> tuple[torch.Tensor, str | None]:
    """The levels that code, and the errors at them where a variance is fitted."""
    if model.num_levels < 2:
        raise UserError("this model has one level: compression needs a grid of at least 2")
    count, stages = min(settings.levels or model.num_levels, model.num_levels), len(stages_of(model))
    if count > MAX_LEVELS:
        raise UserError(f"levels={count:,} exceeds the limit of {MAX_LEVELS:,}: choose fewer")
    if count <= stages:
        raise UserError(f"levels={count} must be at least {stages + 1}: each of the cascade's {stages} stages codes")
    if fit is None:
        if settings.grid != "even":
            raise UserError("grid='optimal' is fitted to images: give training images with fit")
        kept = model.sublevels(count) if isinstance(model, Cascade) else model.schedule.sublevels(count)
        return kept, None
    method = Method(levels=count, grid=settings.grid, variance="isotropic")
    made = prepare(model, method, fit, labels)
    levels = torch.arange(1, count + 1) if made.levels is None else made.levels
    errors: list[torch.Tensor] = []
    for stage in reversed(stages_of(made.model)):
        assert isinstance(stage.reverse, IsotropicVariance)
        found = stage.reverse.errors.at(stage.schedule.logsnr[1:].detach()).cpu()
        errors.append(found[1:] if errors else found)
    return levels, short_errors(torch.cat(errors).numpy())


def _require_images(model: Model, images: Any) -> None:
    _require_pixels(model)
    if not np.issubdtype(images.dtype, np.integer):
        raise UserError(f"images of type {images.dtype} must be integers: pass pixel values 0…{model.pixels.bins - 1}")
    if len(images.shape) != 4 or tuple(images.shape[1:]) != tuple(model.shape):
        raise UserError(f"images of shape {tuple(images.shape[1:])} do not fit the model, which takes {model.shape}")
    if not len(images):
        raise UserError("there are no images to compress: give one or more")


def _require_pixels(model: Model) -> None:
    if not model.decoder.discrete:
        raise UserError("this model has no decoder for pixels, so there are no pixel values to compress")
    if len(model.shape) != 3:
        raise UserError(f"this model is of data of shape {model.shape}, and images (C, H, W) are compressed")


def _side_information(model: Model, given: Any, count: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """(classes, captions) of the images, as far as the model takes them."""
    if given is None:
        require_condition(model, None)
        return (), ()
    if len(given) != count:
        raise UserError(f"{len(given)} labels for {count} images: give one each")
    if all(isinstance(text, str) for text in given):
        if model.text_conditioner is None:
            raise UserError("this model takes no captions: leave them out")
        return (), tuple(given)
    classes = tuple(class_numbers(given).tolist())
    known = getattr(model.network, "num_classes", 0)
    if not all(0 <= label < known for label in classes):
        raise UserError(f"labels {min(classes)}…{max(classes)} do not fit the model, which has {known} classes")
    return classes, ()


def _condition(
    conditioner: TextConditioner | None, labels: tuple[int, ...], captions: tuple[str, ...]
) -> tuple[Condition | None, str]:
    """What the network is given of a group, and a hash of what an encoder made of its captions."""
    if labels:
        return Condition(label=torch.tensor(labels)), ""
    if not captions:
        return None, ""
    if conditioner is None:
        raise UserError("the file holds captions and this model takes none: get it anew")
    made = conditioner.prompts(captions)
    features = [value for value in (made.tokens, made.mask, made.vector, made.keep) if value is not None]
    return made, hashlib.sha256(b"".join(value.numpy().tobytes() for value in features)).hexdigest()[:16]


def _pixel_hash(images: Any, dtype: Any) -> bytes:
    wire = np.dtype(dtype).newbyteorder("<")
    return hashlib.sha256(np.ascontiguousarray(images, wire).tobytes()).digest()[:PIXEL_HASH]


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """The encoder's threads meanwhile: sums are those of so many."""
    before = torch.get_num_threads()
    if count not in (None, before):
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def _ticks(total: int, label: str, progress: bool) -> Iterator[Any]:
    return iter(track(range(total), label, total)) if progress else iter(())
