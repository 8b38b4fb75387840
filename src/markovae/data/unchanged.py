"""Images exactly as their files hold them: nothing is resized, flattened or converted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from PIL import Image

from markovae.data.arrays import read_array_file
from markovae.data.captions import read_written
from markovae.data.data_config import DataConfig
from markovae.data.folder import classes_of
from markovae.data.image_files import channels_first, find_files, header_from
from markovae.data.image_reader import open_image
from markovae.errors import UserError, reason_of

ARRAYS = (".npy", ".npz", ".gz", "-ubyte")
MODES = {1: ("L", "1"), 3: ("RGB", "P")}  # of images that have so many channels exactly


@dataclass(frozen=True)
class _Part:
    """The images of one source.

    Args:
        names: of its files; "" for the rows of an array.
        dtype: of the pixel values.
        read: (start, stop) -> pixel values (n, C, H, W).
        classes: the class of each image by name; None where the source has none.
        captions: of each image, "" for none; None where the source has none.
    """

    names: tuple[str, ...]
    dtype: Any
    read: Callable[[int, int], Any]
    classes: tuple[str, ...] | None
    captions: tuple[str, ...] | None


@final
class UnchangedImages:
    """Images of several sources in their order; files are decoded when they are asked for.

    Slices of it are arrays, (n, C, H, W). `names` has one for each image ("" for the rows of an array), `classes` and
    `captions` too, or they are None where some source has none.
    """

    def __init__(self, parts: Sequence[_Part], shape: Sequence[int]) -> None:
        self._parts = tuple(parts)
        self.names = tuple(name for part in parts for name in part.names)
        self.classes = _all_or_none([part.classes for part in parts])
        self.captions = _all_or_none([part.captions for part in parts])
        self.shape = (len(self.names), *shape)
        self.dtype = np.result_type(*(part.dtype for part in parts))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: slice) -> Any:
        """The images of these rows, one after another."""
        start, stop, _ = rows.indices(len(self))
        found, at = [np.zeros((0, *self.shape[1:]), self.dtype)], 0
        for part in self._parts:
            first, last = max(start - at, 0), min(stop - at, len(part.names))
            if first < last:
                found.append(part.read(first, last))
            at += len(part.names)
        return np.concatenate(found)


def read_unchanged(sources: Sequence[str | Path], shape: Sequence[int]) -> UnchangedImages:
    """The images of image files, folders of them, and array files, in their order.

    The header of each file is looked at now. Sub-folders are classes, and captions are read, as for training.

    Args:
        shape: that every image must have, (C, H, W).
    Raises:
        UserError: for a source that is missing or unreadable, or an image of another shape, naming it.
    """
    parts = [_part(Path(source), tuple(shape)) for source in sources]
    if not any(part.names for part in parts):
        raise UserError(f"{', '.join(map(str, sources))} holds no images")
    return UnchangedImages(parts, shape)


def _part(source: Path, shape: tuple[int, ...]) -> _Part:
    if not source.exists():
        raise UserError(f"{source} does not exist: name images, a folder of them, or an array file")
    if source.is_dir():
        found = find_files(source)
        if found.refused:
            raise UserError(f"{source / found.refused[0][0]} cannot be read ({found.refused[0][1]}): leave it out")
        return _files(source, [file.path for file in found.files], found.others, shape)
    if not source.name.endswith(ARRAYS):
        return _files(source.parent, [source.name], [], shape)
    data = read_array_file(DataConfig(str(source))).data
    if data.shape != shape:
        raise UserError(f"{source} holds images of shape {data.shape}, and the model takes {shape}")
    classes = None if data.labels is None else tuple(data.class_names[label] for label in data.labels)
    images = data.images
    return _Part(("",) * len(images), images.dtype, lambda start, stop: np.asarray(images[start:stop]), classes, None)


def _files(folder: Path, paths: Sequence[str], others: Sequence[str], shape: tuple[int, ...]) -> _Part:
    for path in paths:
        _require_exact(folder / path, shape)
    labels, names, _ = classes_of(paths)
    captions = read_written(folder, paths, others).captions

    def read(start: int, stop: int) -> Any:
        return np.stack([_pixels(folder / path, shape) for path in paths[start:stop]])

    classes = None if labels is None else tuple(names[label] for label in labels)
    return _Part(tuple(paths), np.dtype(np.uint8), read, classes, captions)


def _require_exact(path: Path, shape: tuple[int, ...]) -> None:
    """Raises: UserError for an image whose pixels are not exactly (C, H, W) values of 8 bits."""
    with _opened(path) as image:
        header = header_from(image, str(path))
        size, mode = (image.height, image.width), image.mode
        if size != shape[1:] or mode not in MODES.get(shape[0], ()):
            raise UserError(
                f"{path} is a {mode} image of {size[0]}x{size[1]} pixels, and the model takes {shape[0]} channels of "
                f"{shape[1]}x{shape[2]}: nothing is resized or converted here, or it would not be lossless"
            )
        if header.transparent or header.animated or header.sixteen_bit_color:
            what = "transparent pixels" if header.transparent else "frames" if header.animated else "16-bit colors"
            raise UserError(f"{path} has {what}, which the model has not: convert it first, or leave it out")


def _pixels(path: Path, shape: tuple[int, ...]) -> Any:
    with _opened(path) as image:
        values = channels_first(image.convert("L" if shape[0] == 1 else "RGB"))
    if values.shape != shape:
        raise UserError(f"{path} has changed meanwhile: leave the files alone until they are compressed")
    return values


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with open_image(path) as image:
            yield image
    except UserError:
        raise
    except Exception as error:  # a decoder may raise anything on damaged bytes
        raise UserError(f"{path} cannot be read ({reason_of(error)}): leave it out") from None


def _all_or_none(columns: Sequence[tuple[str, ...] | None]) -> tuple[str, ...] | None:
    if any(column is None for column in columns):
        return None
    return tuple(value for column in columns for value in column or ())
