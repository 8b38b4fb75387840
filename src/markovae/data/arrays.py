"""Array files as images: .npy, .npz and idx; axes, grey values and classes."""

import gzip
import math
import os
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from markovae.data import cache
from markovae.data.data_config import ANY_SOURCE, DataConfig
from markovae.data.file_names import ENDINGS
from markovae.data.image_files import reason_of, to_channels, to_size
from markovae.data.images import ImageData, Indices, Pixels
from markovae.data.npy import npz_names, read_exactly, read_npy, read_npz, require_plausible
from markovae.data.source import DatasetSummary, Source
from markovae.data.split import split_by_content, split_with_test
from markovae.errors import UserError
from markovae.log import printable
from markovae.system.regular import open_regular

Raw = np.ndarray[Any, np.dtype[Any]]

MAX_CLASSES = 100_000


def as_channels_first(raw: Raw, layout: str, name: str) -> Raw:
    """`raw` as (N, C, H, W), a view where possible.

    (N, H, W) is grey; of four axes the one of length 1 or 3, second or last, holds the channels.

    Args:
        layout: "auto", "nhw", "nhwc" or "nchw".
    Raises: UserError where the shape is not a stack of images, or where two layouts are possible.
    """
    axes = {"nhw": 3, "nhwc": 4, "nchw": 4}
    if layout in axes and raw.ndim != axes[layout]:
        raise UserError(f"{name} has shape {raw.shape}, which data.layout={layout!r} does not fit")
    if raw.ndim not in (3, 4):
        raise UserError(
            f"{name} has shape {raw.shape}: images need 3 axes (N, H, W) or 4 (N, H, W, C); "
            "reshape it, for instance x.reshape(-1, 28, 28)"
        )
    if 0 in raw.shape:
        raise UserError(f"{name} has shape {raw.shape}: it is empty; give an array with images")
    if raw.ndim == 3:
        if layout == "auto" and raw.shape[-1] in (1, 3, 4) and raw.shape[1] > 4:
            raise UserError(
                f"{name} has shape {raw.shape}, which looks like one colour image: give N of them with a "
                "leading axis, or set data.layout='nhw' if these are grey images that narrow"
            )
        return raw[:, None]
    return _four_axes(raw, layout, name)


def _four_axes(raw: Raw, layout: str, name: str) -> Raw:
    first, last = raw.shape[1] in (1, 3), raw.shape[3] in (1, 3)
    if layout == "auto":
        if first and last:
            raise UserError(
                f"{name} has shape {raw.shape}, whose channels may be second or last: set data.layout='nchw' or 'nhwc'"
            )
        with_alpha = raw.shape[1] == 4 and raw.shape[3] != 4 and not last
        layout = "nchw" if first or with_alpha else "nhwc"
    channels = raw.shape[1] if layout == "nchw" else raw.shape[3]
    if channels not in (1, 3):
        remedy = "lay the images on a background first" if channels == 4 else "give 1 or 3 channels"
        raise UserError(f"{name} has shape {raw.shape}, {channels} channels where 1 or 3 are read: {remedy}")
    return raw if layout == "nchw" else np.moveaxis(raw, -1, 1)


def as_pixels(raw: Raw, name: str) -> tuple[Pixels, int]:
    """(images, bins): whole numbers 0…255 as uint8 with 256 bins, up to 65535 as uint16, bool as 2 bins.

    Raises: UserError for floats that are not whole numbers 0…255, for negative and for larger values.
    """
    kind = raw.dtype.kind
    if kind == "b":
        return raw.astype(np.uint8), 2
    if raw.dtype == np.uint8:
        return raw, 256
    if kind not in "iuf":
        raise UserError(f"{name} holds elements of type {raw.dtype}: save the images as uint8")
    low, high = raw.min(), raw.max()
    if kind == "f":
        whole = bool(np.isfinite(low) and np.isfinite(high)) and bool((raw == np.round(raw)).all())
        if not whole or low < 0 or high > 255 or high <= 1:
            raise UserError(
                f"{name} holds floats from {low:g} to {high:g}, and their grey values cannot be guessed: save "
                "the images as uint8, for values in 0…1 by (255 * x).round().astype('uint8')"
            )
        return raw.astype(np.uint8), 256
    if low < 0 or high > 65535:
        raise UserError(f"{name} holds values from {low} to {high}: pixels must lie in 0…255 or 0…65535")
    return (raw.astype(np.uint8), 256) if high <= 255 else (raw.astype(np.uint16), 65536)


def labels_of(raw: Raw | None, count: int, name: str) -> tuple[Indices | None, tuple[str, ...]]:
    """(labels 0 … K-1, class names): the K different values, sorted, are the classes, named by the value.

    Raises: UserError for labels that are not one whole number (or word) an image.
    """
    if raw is None:
        return None, ()
    if raw.ndim == 2 and raw.shape[1] == 1:
        raw = raw[:, 0]
    if raw.shape != (count,):
        remedy = "; turn one-hot rows into numbers by argmax(1)" if raw.ndim == 2 else ""
        raise UserError(f"{name} has labels of shape {raw.shape} for {count} images: one each is needed{remedy}")
    if raw.dtype.kind == "f" and bool(np.isfinite(raw).all()) and bool((raw == np.round(raw)).all()):
        raw = raw.astype(np.int64)
    if raw.dtype.kind not in "iubU":
        raise UserError(f"{name} has labels of type {raw.dtype}: give whole numbers")
    values, numbers = np.unique(raw, return_inverse=True)
    if len(values) > MAX_CLASSES:
        raise UserError(f"{name} has {len(values)} different labels, more than {MAX_CLASSES}: are they classes?")
    return numbers.astype(np.int64), tuple(str(value) for value in values)


IMAGE_KEYS = ("images", "arr_0", "x", "X")


LABEL_KEYS = ("labels", "arr_1", "y", "Y")


# The folder layout of MNIST and its relatives: (images, labels) to train and to test.
IDX_FILES = (
    ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
)


IDX_UBYTE = 0x08


# What numpy, gzip and zipfile raise on damaged, encrypted or unknown bytes.
DAMAGED = (
    *(ValueError, OSError, EOFError, RuntimeError, SyntaxError, KeyError, OverflowError, TypeError),
    *(struct.error, zipfile.BadZipFile, zlib.error, tokenize.TokenError),
)


MAX_IDX_BYTES = 2**36


def holds_idx_files(folder: Path) -> bool:
    """Whether `folder` has the training images of an MNIST-like set (plain or .gz)."""
    return _idx_path(folder, IDX_FILES[0][0]) is not None


def read_idx_folder(config: DataConfig) -> Source:
    """A folder with the idx files of MNIST's naming; its t10k files are the test part, where present.

    Raises: UserError for damaged or missing files.
    """
    folder = config.path
    images: list[Raw] = []
    labels: list[Raw] = []
    for image_name, label_name in IDX_FILES:
        path = _idx_path(folder, image_name)
        if path is not None:
            images.append(read_idx(path))
            label_path = _idx_path(folder, label_name)
            if label_path is not None:
                labels.append(_matching(read_idx(label_path), len(images[-1]), label_path))
    if len({part.shape[1:] for part in images}) > 1:
        raise UserError(f"{folder} has test images of another size than its training images")
    if labels and len(labels) != len(images):
        raise UserError(f"{folder} has labels for one part only: add the missing labels file or remove the other")
    joined = np.concatenate(images)
    data = _image_data(joined, np.concatenate(labels) if labels else None, str(folder), config)
    hashes = data.content_hashes()
    if len(images) == 2:
        parts = split_with_test(hashes, len(images[0]), config, data.name)
    else:
        parts = split_by_content(hashes, config, data.name)
    return Source(data, parts, _summary(joined, data, parts.left_out))


def read_array_file(config: DataConfig) -> Source:
    """One array file, split by content hash.

    .npy holds images alone and is memory-mapped beyond 1 GiB; .npz holds images (`images`, `arr_0`, `x`)
    and perhaps labels (`labels`, `arr_1`, `y`); an idx images file takes the labels file beside it.

    Raises: UserError for anything but a stack of images.
    """
    path = config.path
    ending = path.suffix.lower()
    labels: Raw | None = None
    if ending == ".npy":
        images = _read_npy(path)
    elif ending == ".npz":
        images, labels = _read_npz(path)
    elif _is_idx(path):
        images, labels = _read_idx_pair(path)
    elif ending in ENDINGS:
        raise UserError(f"{path} is a single image: give the folder that holds the images")
    else:
        raise UserError(f"{path} is not an array file (.npy, .npz or idx): give {ANY_SOURCE}")
    data = _image_data(images, labels, str(path), config)
    parts = split_by_content(data.content_hashes(), config, data.name)
    return Source(data, parts, _summary(images, data, parts.left_out))


def read_idx(path: Path) -> Raw:
    """The array of an idx file (plain or .gz): magic 00 00 08 n, n big-endian sizes, then bytes.

    Raises: UserError where it is not an idx file of bytes, or its size differs from its header.
    """
    try:
        with open_regular(path) as file, _unpacked(path, file) as handle:
            magic = handle.read(4)
            if len(magic) < 4 or magic[:2] != b"\0\0" or not 1 <= magic[3] <= 4:
                raise UserError(f"{path} is not an idx file: it does not begin with the magic number")
            if magic[2] != IDX_UBYTE:
                raise UserError(f"{path} holds idx type 0x{magic[2]:02x}: only bytes (0x08) are read")
            shape = tuple(int.from_bytes(handle.read(4), "big") for _ in range(magic[3]))
            size = math.prod(shape)
            if size > MAX_IDX_BYTES:
                raise UserError(f"{path} claims {size} bytes of pixels: its header is damaged")
            if handle is not file:
                require_plausible(size, os.fstat(file.fileno()).st_size)
            content = read_exactly(handle, size)
            surplus = handle.read(1)
    except UserError:
        raise
    except DAMAGED as error:
        raise UserError(f"{path} cannot be read ({reason_of(error)}): fetch it again") from None
    if len(content) != size or surplus:
        have = "more" if surplus else str(len(content))
        raise UserError(f"{path} should hold {size} bytes after its header and holds {have}: fetch it again")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _unpacked(path: Path, file: BinaryIO) -> BinaryIO | gzip.GzipFile:
    return gzip.GzipFile(fileobj=file) if path.suffix.lower() == ".gz" else file


def _image_data(raw: Raw, labels: Raw | None, name: str, config: DataConfig) -> ImageData:
    images, bins = as_pixels(as_channels_first(raw, config.layout, name), name)
    numbers, class_names = labels_of(labels, len(images), name)
    data = ImageData(images, numbers, class_names, bins=bins, name=name)
    return to_channels(to_size(data, config), config.channels)


def _summary(raw: Raw, data: ImageData, left_out: int) -> DatasetSummary:
    channels, height, width = data.shape
    notes = [f"read as {len(data)} images of {channels} x {height} x {width} from shape {raw.shape}"]
    if isinstance(data.images, np.memmap):
        notes.append("memory-mapped: the pixels stay on disk")
    if left_out:
        notes.append(f"{left_out} training images left out, as copies of test images")
    return DatasetSummary(kind="array", modes={str(raw.dtype): len(data)}, notes=tuple(notes))


def _read_npy(path: Path) -> Raw:
    try:
        return read_npy(path, cache.LARGE_BYTES)
    except DAMAGED as error:
        raise UserError(f"{path} is not a readable .npy file of numbers ({reason_of(error)})") from None


def _read_npz(path: Path) -> tuple[Raw, Raw | None]:
    try:
        keys = npz_names(path)
        image_key = next((key for key in IMAGE_KEYS if key in keys), keys[0] if len(keys) == 1 else None)
        if image_key is None:
            shown = ", ".join(printable(key)[:40] for key in keys[:20]) + (", …" if len(keys) > 20 else "")
            raise UserError(f"{path} holds {shown or 'nothing'}: call the images `images`")
        label_key = next((key for key in LABEL_KEYS if key in keys), None)
        stored = read_npz(path, [image_key] if label_key is None else [image_key, label_key])
    except UserError:
        raise
    except DAMAGED as error:
        raise UserError(f"{path} is not a readable .npz file of numbers ({reason_of(error)})") from None
    return stored[image_key], None if label_key is None else stored[label_key]


def _is_idx(path: Path) -> bool:
    try:
        with open_regular(path) as file, _unpacked(path, file) as handle:
            return handle.read(3) == b"\0\0\x08" or "idx" in path.name
    except DAMAGED:
        return "idx" in path.name


def _read_idx_pair(path: Path) -> tuple[Raw, Raw | None]:
    images = read_idx(path)
    if images.ndim == 1:
        raise UserError(f"{path} holds {len(images)} labels: give the images file beside it")
    name = path.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    beside = _idx_path(path.parent, name) if name != path.name.removesuffix(".gz") else None
    return images, None if beside is None else _matching(read_idx(beside), len(images), beside)


def _idx_path(folder: Path, name: str) -> Path | None:
    candidates = (folder / name, folder / f"{name}.gz")
    return next((path for path in candidates if path.is_file()), None)


def _matching(labels: Raw, count: int, path: Path) -> Raw:
    if labels.shape != (count,):
        raise UserError(f"{path} has labels of shape {labels.shape} for {count} images: one each is needed")
    return labels
