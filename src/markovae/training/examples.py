"""What a training takes its images from: arrays, data sets read image by image, or streams of batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from markovae.data.conversion import as_array
from markovae.data.data_config import DataConfig
from markovae.data.images import ImageData
from markovae.data.loading import load_data
from markovae.data.split import Splits
from markovae.data.strips import Places, Strips
from markovae.diffusion.cascade import Model
from markovae.errors import UserError
from markovae.log import log
from markovae.networks.conditioning import Condition, Conditioning, class_numbers
from markovae.text.conditioner import attach_conditioning

Transform = Callable[[Any], Any]
ALLOWED = "pass integer pixel values, or floats in [0, 1]"


@dataclass(frozen=True)
class Chunk:
    """Some images and what is known of them.

    Args:
        images: pixel values, (B, C, H, W), integers.
        label: (B,), int64, or None.
        known: captions or other conditions of each, or None.
    """

    images: np.ndarray[Any, Any]
    label: Tensor | None = None
    known: Conditioning | None = None

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, cut: slice) -> Chunk:
        """These rows of it."""
        label = None if self.label is None else self.label[cut]
        return Chunk(self.images[cut], label, None if self.known is None else self.known[cut])


class Examples(ABC):
    """The images of a training, found by their place.

    Attributes:
        count: how many there are, None for a stream without an end.   shape: of one, (C, H, W).
        runs: (start, stop) of rows that are stored and read together; None where all are alike.
        shareable: whether another thread may read them, and some that are never asked for.
        strips: the images before they are cut, where a training cuts them at random places: it takes `windows`.
    """

    count: int | None
    shape: tuple[int, ...]
    runs: Sequence[tuple[int, int]] | None = None
    shareable: bool = False
    strips: Strips | None = None

    @abstractmethod
    def read(self, rows: np.ndarray[Any, Any]) -> Chunk:
        """The examples at these places, (B,), int64; a stream's places go on from those read last."""

    def windows(self, rows: np.ndarray[Any, Any], places: Places) -> Chunk:
        """The examples at these places, their images cut by `Strips.windows` where there are any to cut."""
        return self.read(rows)

    def spread(self, count: int) -> Chunk:
        """At most `count` examples, spread over all of them."""
        total = self.count or 0
        return self.read(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64))


@final
class ArrayExamples(Examples):
    """Images at hand, or stored in shards.

    Args:
        data: the training set.
        transform: of each image, a tensor (C, H, W) of pixel values; None is none.
        model: whose shape and pixel values a transformed image must have.
    """

    def __init__(self, data: ImageData, model: Model | None = None, transform: Transform | None = None) -> None:
        self.data, self.count, self.shape, self.runs = data, len(data), data.shape, data.runs
        self._model, self._transform, self.shareable = model, transform, transform is None
        self.strips = data.strips if transform is None else None

    def read(self, rows: np.ndarray[Any, Any]) -> Chunk:
        """Rows of the arrays."""
        images = np.ascontiguousarray(self.data.images[rows])
        if self._transform is not None and self._model is not None:
            made = [as_pixel_values(self._transform(torch.from_numpy(image)), self._model) for image in images]
            images = np.stack(made) if made else images
        return self._known(images, rows)

    def windows(self, rows: np.ndarray[Any, Any], places: Places) -> Chunk:
        """Rows of the arrays, of which the images alone are read anew."""
        assert self.strips is not None
        return self._known(self.strips.windows(rows, places), rows)

    def _known(self, images: np.ndarray[Any, Any], rows: np.ndarray[Any, Any]) -> Chunk:
        data = self.data
        if data.conditioning is not None:
            return Chunk(images, known=data.conditioning[rows])
        return Chunk(images, None if data.labels is None else torch.from_numpy(data.labels[rows].astype(np.int64)))


@final
class ItemExamples(Examples):
    """A data set read item by item: an image, or (image, label | caption | condition).

    Args:
        items: with a length, by index.
        model: in training.
        transform: of each image, as the item has it.
    """

    def __init__(self, items: Any, model: Model, transform: Transform | None) -> None:
        self._items, self._model, self._transform = items, model, transform
        self.count, self.shape = len(items), model.shape
        self._dropped = _Dropped(model)
        if self.count:
            self.read(np.zeros(1, np.int64))

    def read(self, rows: np.ndarray[Any, Any]) -> Chunk:
        """One item after the other."""
        pairs = [_pair(self._items[row]) for row in rows.tolist()]
        change = self._transform or (lambda image: image)
        images = np.stack([as_pixel_values(change(image), self._model) for image, _ in pairs])
        known = [known for _, known in pairs]
        return self._dropped.chunk(images, None if all(one is None for one in known) else known)


@final
class StreamExamples(Examples):
    """Batches, or single images, from anything that can be iterated; at its end it is iterated again.

    Memory holds one batch of the training, one item of the stream, and the `kept` images seen last.

    Args:
        source: of images or (images, labels | captions | conditions).
        model: in training.
        transform: of each image.
        kept: for `spread`.
    Raises:
        UserError: for a first item that is no image of the model.
    """

    def __init__(self, source: Iterable[Any], model: Model, transform: Transform | None, kept: int) -> None:
        self._source, self._model, self._transform = source, model, transform
        self.count, self.shape = None, model.shape
        self._dropped, self._iterator = _Dropped(model), iter(source)
        self._chunks: deque[Chunk] = deque()
        self._seen: deque[Chunk] = deque(maxlen=max(kept, 1))
        self._kept, self._next, self._last = kept, 0, (-1, Chunk(np.empty((0, *model.shape), np.int32)))
        self._chunks.append(self._pull())

    def read(self, rows: np.ndarray[Any, Any]) -> Chunk:
        """The next ones; or, asked for the same places again, the same."""
        first = int(rows[0])
        if first != self._last[0]:
            if first != self._next:
                raise UserError("cannot resume or go back in a stream: use a data set with a length")
            self._last, self._next = (first, self._take(len(rows))), first + len(rows)
        return self._last[1]

    def spread(self, count: int) -> Chunk:
        """Of the images seen last."""
        return _joined(list(self._seen)).rows(slice(0, count))

    def _take(self, count: int) -> Chunk:
        taken, missing = [], count
        while missing:
            chunk = self._chunks.popleft() if self._chunks else self._pull()
            taken.append(chunk.rows(slice(0, missing)))
            if len(chunk) > missing:
                self._chunks.appendleft(chunk.rows(slice(missing, None)))
            missing -= len(taken[-1])
        found = _joined(taken)
        if self._kept:
            self._seen.extend(found.rows(slice(place, place + 1)) for place in range(len(found)))
        return found

    def _pull(self) -> Chunk:
        for again in (False, True):
            if again:
                self._iterator = iter(self._source)
            for item in self._iterator:
                images, known = _pair(item)
                many = isinstance(images, list | tuple) or getattr(images, "ndim", 3) == 4
                each = list(images) if many else [images]
                change = self._transform or (lambda image: image)
                if each:
                    made = np.stack([as_pixel_values(change(image), self._model) for image in each])
                    return self._dropped.chunk(made, known if many or known is None else [known])
        raise UserError(
            f"the images ended after {self._next:,}: pass what can be iterated again (a list, a DataLoader), or train "
            "for fewer steps"
        )


class _Dropped:
    """What is known of images as the model takes it; labels that it does not take are left out, said once."""

    def __init__(self, model: Model) -> None:
        self._model, self._said = model, False

    def chunk(self, images: np.ndarray[Any, Any], known: Any) -> Chunk:
        """Images with their labels, captions or conditions; `known` holds one of each, or is None."""
        if known is None:
            return Chunk(images)
        if isinstance(known, Condition):
            return Chunk(images, known=known)
        known = list(known) if isinstance(known, tuple | list) else known
        if len(known) != len(images):
            raise UserError(f"{len(known)} labels for {len(images)} images: give one each")
        first = known[0]
        if isinstance(first, Condition):
            return Chunk(images, known=join_conditions(known))
        if isinstance(first, str):
            if self._model.text_conditioner is not None:
                return Chunk(images, known=self._model.text_conditioner.prompts(known))
        else:
            label = class_numbers(known if isinstance(known, Tensor) else np.asarray(known)).cpu().flatten()
            if getattr(self._model.network, "num_classes", 0):
                return Chunk(images, label)
        if not self._said:
            log(f"the {'captions' if isinstance(first, str) else 'labels'} are left out: this network takes none")
            self._said = True
        return Chunk(images)


def _pair(item: Any) -> tuple[Any, Any]:
    """(image, what is known of it, or None)."""
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    if isinstance(item, tuple | list) and len(item) == 1:
        return item[0], None
    if isinstance(item, dict):
        raise UserError(
            f"an item is a dict of {', '.join(map(str, item))}: give images, or (image, label | caption | condition)"
        )
    return item, None


def _joined(chunks: Sequence[Chunk]) -> Chunk:
    if len(chunks) == 1:
        return chunks[0]
    labels = [chunk.label for chunk in chunks if chunk.label is not None]
    known = [chunk.known.condition() for chunk in chunks if chunk.known is not None]
    if len(labels) not in (0, len(chunks)) or len(known) not in (0, len(chunks)):
        raise UserError("some images have labels or captions and others none: give them to all, or to none")
    images = np.concatenate([chunk.images for chunk in chunks])
    return Chunk(images, torch.cat(labels) if labels else None, join_conditions(known) if known else None)


def join_conditions(conditions: Sequence[Condition]) -> Condition:
    """Several batches of conditions as one; tokens are padded to the longest.

    Raises:
        UserError: where some have a field that others lack.
    """
    longest = max((c.tokens.shape[1] for c in conditions if c.tokens is not None), default=0)
    columns: dict[str, Tensor | None] = {}
    for field in fields(Condition):
        values = [getattr(condition, field.name) for condition in conditions]
        if field.name == "keep" and any(value is not None for value in values):
            values = [
                torch.ones(len(c), dtype=torch.bool) if v is None else v
                for c, v in zip(conditions, values, strict=True)
            ]
        present = [value for value in values if value is not None]
        if len(present) not in (0, len(values)):
            raise UserError(f"some conditions have {field.name} and others none: give it to all, or to none")
        if field.name in ("tokens", "mask"):
            present = [_padded(value, longest) for value in present]
        columns[field.name] = torch.cat(present) if present else None
    return Condition(**columns)


def _padded(value: Tensor, length: int) -> Tensor:
    more = value.new_zeros(len(value), length - value.shape[1], *value.shape[2:])
    return torch.cat([value, more], 1)


def as_pixel_values(image: Any, model: Model) -> np.ndarray[Any, Any]:
    """An image, or many, as integer pixel values of the model's shape, (…, C, H, W).

    Integers are pixel values 0…bins−1; floats lie in [0, 1] and go to the nearest pixel value.
    Args:
        image: a tensor or an array (C, H, W) or (H, W, C), (H, W) for one channel, or a PIL image; or a batch.
    Raises:
        UserError: for another type, range or shape.
    """
    bins, shape = model.pixels.bins, model.shape
    if hasattr(image, "getbands") and bins == 256:  # PIL's
        values = as_array(image)
        values = values.repeat(3, 0) if len(values) < shape[0] == 3 else values  # grey, for a model in color
    else:
        values = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if values.ndim == 2 and shape[0] == 1:
        values = values[None]
    if len(shape) == 3 and values.ndim in (3, 4) and tuple(values.shape[-3:]) == (*shape[1:], shape[0]) != shape:
        values = np.moveaxis(values, -1, -3)
    if values.ndim not in (3, 4) or tuple(values.shape[-3:]) != shape:
        found = values.shape[1:] if values.ndim == 4 else values.shape
        raise UserError(f"images of shape {tuple(found)} do not fit the model, which takes {shape} (channels first)")
    if np.issubdtype(values.dtype, np.floating):
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
        if not (low >= 0 and high <= 1):
            raise UserError(f"float images run from {low:g} to {high:g} where 0…1 is read: {ALLOWED}")
        return np.rint(values * (bins - 1)).astype(np.uint8 if bins <= 256 else np.uint16)
    if not np.issubdtype(values.dtype, np.integer):
        raise UserError(f"images of type {values.dtype} cannot be read: {ALLOWED}")
    if values.size and not 0 <= int(values.min()) <= int(values.max()) < bins:
        raise UserError(
            f"images must hold pixel values 0…{bins - 1}, and these run from {int(values.min())} to "
            f"{int(values.max())}: the model declares {bins}"
        )
    return values.astype(np.uint8 if bins <= 256 else np.uint16)


def as_examples(model: Model, data: Any, transform: Transform | None = None, kept: int = 0) -> Examples:
    """Anything that holds images, as `fit` takes it.

    Args:
        data: ImageData, or Splits (their training part); an array or tensor (N, C, H, W), or (images, labels); a data
            set with a length and items; a DataLoader, or anything that can be iterated.
        transform: of each image.
        kept: images of a stream that are kept for `Examples.spread`.
    Raises:
        UserError: for images that do not fit the model, or anything else.
    """
    if isinstance(data, str | Path):
        data = load_data(DataConfig(str(data)).for_images_like(model.shape, str(data)))
    data = data.train if isinstance(data, Splits) else data
    if isinstance(data, bytes | dict):
        raise UserError(f"training data of type {type(data).__name__}: load a source with mv.load_data, or pass images")
    pair = isinstance(data, tuple) and len(data) == 2 and getattr(data[0], "ndim", 0) == 4
    if pair or isinstance(data, np.ndarray | Tensor):
        data = _from_arrays(model, data[0], data[1]) if pair else _from_arrays(model, data, None)
    if isinstance(data, ImageData):
        return _from_image_data(model, data, transform)
    stream = isinstance(data, torch.utils.data.DataLoader | torch.utils.data.IterableDataset | Iterator)
    if not stream and hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return ItemExamples(data, model, transform)
    try:
        iter(data)
    except TypeError:
        raise UserError(
            f"training data of type {type(data).__name__} cannot be iterated: pass images, a data set or a DataLoader"
        ) from None
    return StreamExamples(data, model, transform, kept)


def _from_arrays(model: Model, images: Any, known: Any) -> ImageData:
    values, bins = as_pixel_values(images, model), model.pixels.bins
    if values.ndim != 4:
        raise UserError(f"images of shape {tuple(values.shape)} are one image: pass (N, C, H, W)")
    if known is None:
        return ImageData(values, bins=bins)
    if isinstance(known, Condition):
        return ImageData(values, bins=bins, conditioning=known)
    if len(known) != len(values):
        raise UserError(f"{len(known)} labels for {len(values)} images: give one each")
    if len(known) and isinstance(known[0], str):
        return ImageData(values, bins=bins, captions=tuple(known))
    labels = class_numbers(known).cpu().numpy()
    count = max(int(getattr(model.network, "num_classes", 0)), int(labels.max(initial=0)) + 1)
    return ImageData(values, labels, tuple(map(str, range(count))), bins=bins)


def _from_image_data(model: Model, data: ImageData, transform: Transform | None) -> ArrayExamples:
    # A transform may crop: what it gives is looked at instead.
    if transform is None and data.shape != model.shape:
        raise UserError(f"images of shape {data.shape} do not fit the model, which takes {model.shape}")
    if data.bins != model.pixels.bins:
        raise UserError(
            f"the data have {data.bins} pixel values and the model {model.pixels.bins}: build it with bins={data.bins}"
        )
    takes = getattr(model.network, "num_classes", 0)
    if data.labels is not None and data.conditioning is None and not takes and model.text_conditioner is None:
        log(f"the labels of {data.name} are left out: this network takes none")
        data = attach_conditioning(model, data)
    columns = model.columns is not None and data.conditioning is None
    examples = ArrayExamples(
        attach_conditioning(model, data) if columns or model.text_conditioner is not None else data, model, transform
    )
    if transform is not None and len(data):
        examples.read(np.zeros(1, np.int64))
    examples.shape = model.shape
    return examples
