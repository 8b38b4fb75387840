"""Array files as images: .npy, .npz and idx; axes, grey values and classes."""

import gzip
import math
import os
import re
import struct
import tokenize
import zipfile
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from markovae.columns import MAX_COLUMNS, Cell, Cells, cell_of
from markovae.data import cache
from markovae.data.data_config import ANY_SOURCE, DataConfig, background_rgb
from markovae.data.file_names import (
    ENDINGS,
    PARTS,
    TABLES,
    TEXT_ENDINGS,
    by_ending,
    hidden,
    is_packed,
    part_of,
    some,
    unread_kind,
)
from markovae.data.image_files import channels_note, to_channels, to_size
from markovae.data.images import ImageData, Indices, Pixels
from markovae.data.npy import npz_sizes, read_exactly, read_npy, read_npz, require_plausible
from markovae.data.source import DatasetSummary, Source
from markovae.data.split import chosen_split, copies_note
from markovae.errors import UserError, reason_of
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
                f"{name} has shape {raw.shape}, which looks like one color image: give N of them with a "
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
    if channels not in (1, 3) and not (channels == 4 and raw.dtype == np.uint8):
        remedy = "save rgb with alpha as uint8" if channels == 4 else "give 1 or 3 channels"
        raise UserError(f"{name} has shape {raw.shape}, {channels} channels where 1 or 3 are read: {remedy}")
    return raw if layout == "nchw" else np.moveaxis(raw, -1, 1)


def as_pixels(raw: Raw, name: str) -> tuple[Pixels, int]:
    """(images, bins): whole numbers 0…255 as uint8 with 256 bins, up to 65535 as uint16, bool as 2 bins.

    Floats are taken where they are pixel values beyond doubt: whole numbers 0…255, or all in steps of 1/255 in 0…1, or
    of 1/127.5 in −1…1.

    Raises: UserError for other floats, for negative and for larger values.
    """
    kind = raw.dtype.kind
    if kind == "b":
        return raw.astype(np.uint8), 2
    if raw.dtype == np.uint8:
        return raw, 256
    if kind not in "iuf":
        raise UserError(f"{name} holds elements of type {raw.dtype}: save the images as uint8")
    low, high = raw.min(), raw.max()
    if kind == "f" and (scaled := _unscaled(raw, float(low), float(high))) is not None:
        return scaled, 256
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


def _unscaled(raw: Raw, low: float, high: float) -> Pixels | None:
    """Floats in 0…1 or −1…1 as the 8-bit values they were made from; None for all others, and for two values alone.

    Halves are allowed the rounding of their type, which is below a third of a step.
    """
    if not (-1 <= low < high <= 1) or bool(((raw == low) | (raw == high)).all()):
        return None
    steps = raw.astype(np.float64) * 255 if low >= 0 else (raw.astype(np.float64) + 1) * 127.5
    whole = np.rint(steps)
    allowed = 1 / 3 if raw.dtype.itemsize < 4 else 1e-2
    return whole.astype(np.uint8) if bool((np.abs(steps - whole) < allowed).all()) else None


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


IMAGE_KEYS = ("images", "arr_0", "x", "X", "image", "data", "imgs")
LABEL_KEYS = ("labels", "arr_1", "y", "Y", "label", "targets")


# MNIST's naming and its relatives': train-images-idx3-ubyte.gz, emnist-letters-test-images.idx3-ubyte.
IDX_NAME = re.compile(r"(.*?)(train|t10k|test|val|valid|validation)[-_.]?(images|labels)[-.]idx[13][-.]ubyte(?:\.gz)?")
IDX_PARTS = {"train": "train", "t10k": "test", "test": "test", "val": "validation", "valid": "validation"}
# Of the arrays in an .npz: x_train, train_images, images_test, y_val, … beside a name of `PARTS`.
KEY_KINDS = dict.fromkeys(("x", "image", "images", "img", "imgs", "data"), "images")
KEY_KINDS |= dict.fromkeys(("y", "label", "labels", "targets"), "labels")


IDX_UBYTE = 0x08


# What numpy, gzip and zipfile raise on damaged, encrypted or unknown bytes.
DAMAGED = (
    *(ValueError, OSError, EOFError, RuntimeError, SyntaxError, KeyError, OverflowError, TypeError),
    *(struct.error, zipfile.BadZipFile, zlib.error, tokenize.TokenError),
)


MAX_IDX_BYTES = 2**36
MAX_COLUMN_BYTES = 8 * MAX_COLUMNS  # of an array of columns, per image


@dataclass(frozen=True)
class _Parts:
    """Arrays of images, part after part.

    Args:
        images: (N, …).
        labels: (N,) or None.
        part: of each image, one of `PARTS`, or "" where none are given.
        notes: sentences.
        columns: other arrays of a value, or a few, of each image.
    """

    images: Raw
    labels: Raw | None
    part: list[str]
    notes: tuple[str, ...] = ()
    columns: Cells = field(default_factory=dict)


def holds_idx_files(folder: Path) -> bool:
    """Whether `folder` has the training images of an MNIST-like set (plain or .gz)."""
    found = (IDX_NAME.fullmatch(path.name) for path in folder.iterdir())
    return any((match[2], match[3]) == ("train", "images") for match in found if match)


def read_idx_folder(config: DataConfig) -> Source:
    """A folder with the idx files of MNIST's naming; its t10k (or test) files are the test part, where present.

    Raises: UserError for damaged or missing files, and for files of several sets.
    """
    folder = config.path
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and not hidden(path.name))
    found = {name: match for name in names if (match := IDX_NAME.fullmatch(name))}
    sets = sorted({match[1] for match in found.values()})
    if len(sets) > 1:
        raise UserError(f"{folder} holds idx files of {len(sets)} sets ({some(sets)}): move each set to a folder")
    files: dict[tuple[str, str], Path] = {}
    for name, match in found.items():  # x before x.gz
        files.setdefault((match[3], IDX_PARTS.get(match[2], match[2])), folder / name)
    taken = {path.name for path in files.values()}
    if rest := [name for name in names if name not in taken]:
        rest = [f"{len(rest):,} other files are not read ({by_ending(rest)})"]
    images = {part: read_idx(files["images", part]) for part in PARTS if ("images", part) in files}
    labels = {
        part: _matching(read_idx(path), len(images[part]), path)
        for (kind, part), path in files.items()
        if kind == "labels" and part in images
    }
    return _source(_joined(images, labels, str(folder), tuple(rest)), config, str(folder))


def _joined(images: dict[str, Raw], labels: dict[str, Raw], name: str, notes: tuple[str, ...] = ()) -> _Parts:
    """Parts as one. Raises: UserError for images of different sizes, and for labels of some parts only."""
    if len({part.shape[1:] for part in images.values()}) > 1:
        raise UserError(f"{name} has test images of another size than its training images")
    if labels and len(labels) != len(images):
        raise UserError(f"{name} has labels for one part only: add the missing labels file or remove the other")
    part = [one for one, held in images.items() for _ in range(len(held))]
    joined = np.concatenate(list(images.values())) if len(images) > 1 else next(iter(images.values()))
    together = None if not labels else np.concatenate([labels[one] for one in images])
    return _Parts(joined, together, part if len(images) > 1 else [""] * len(part), notes)


def _source(given: _Parts, config: DataConfig, name: str) -> Source:
    data = replace(_image_data(given.images, given.labels, name, config), columns=given.columns)
    split = chosen_split(data, given.part, config)
    summary = _summary(given.images, data, config)
    return Source(data, split, replace(summary, notes=(*summary.notes, *given.notes, *copies_note(split))))


def read_array_file(config: DataConfig) -> Source:
    """One array file, split by content hash, or by the parts that its arrays are called.

    .npy holds images alone and is memory-mapped beyond 1 GiB; .npz holds images (`images`, `arr_0`, `x`) and perhaps
    labels (`labels`, `arr_1`, `y`), or those of parts (`x_train`, `test_labels`); an idx images file takes the labels
    file beside it.

    Raises: UserError for anything but a stack of images.
    """
    path = config.path
    ending = path.suffix.lower()
    if ending == ".npy":
        images = _read_npy(path)
        given = _Parts(images, None, [""] * (len(images) if images.ndim else 0))
    elif ending == ".npz":
        given = _read_npz(path)
    elif _is_idx(path):
        given = _read_idx_pair(path)
    elif ending in ENDINGS:
        raise UserError(f"{path} is a single image: give the folder that holds the images")
    elif is_packed(path.name):
        raise UserError(f"{path} is a packed archive: unpack it, and give the folder, or the uncompressed .tar")
    elif (kind := unread_kind(path.name)) is not None:
        raise UserError(f"{path} is a single image, and {kind}")
    elif ending in TABLES or ending in TEXT_ENDINGS:
        raise UserError(f"{path} says something of images and holds none: give the folder that holds it beside them")
    else:
        raise UserError(f"{path} is not an array file (.npy, .npz or idx): give {ANY_SOURCE}")
    return _source(given, config, str(path))


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
    if images.shape[1] == 4:
        images = _flattened(images, background_rgb(config.background))
    numbers, class_names = labels_of(labels, len(images), name)
    data = ImageData(images, numbers, class_names, bins=bins, name=name)
    return to_channels(to_size(data, config), config.channels)


def _flattened(images: Pixels, background: tuple[int, int, int]) -> Pixels:
    """(N, 4, H, W) with alpha last, laid on the background as `image_files.flatten` lays files, (N, 3, H, W)."""
    flat = np.empty((len(images), 3, *images.shape[2:]), np.uint8)
    color = np.array(background, np.uint32)[:, None, None]
    for target, image in zip(flat, images, strict=True):
        values, alpha = image[:3].astype(np.uint32), image[3].astype(np.uint32)
        target[...] = (values * alpha + color * (255 - alpha) + 127) // 255
    return flat


def _summary(raw: Raw, data: ImageData, config: DataConfig) -> DatasetSummary:
    channels, height, width = data.shape
    notes = [f"read as {len(data)} images of {channels} x {height} x {width} from shape {raw.shape}"]
    stored = as_channels_first(raw, config.layout, data.name).shape[1]
    notes += channels_note(len(data) if stored == 1 else 0, len(data), config)
    if stored == 4:
        notes.append(f"{len(data)} images with transparency, laid on the background")
    if raw.dtype.kind == "f":
        notes.append(f"floats from {raw.min():g} to {raw.max():g} read as the pixel values 0…255 they were made from")
    if isinstance(data.images, np.memmap):
        notes.append("memory-mapped: the pixels stay on disk")
    return DatasetSummary(kind="array", modes={str(raw.dtype): len(data)}, notes=tuple(notes))


def _read_npy(path: Path) -> Raw:
    try:
        return read_npy(path, cache.LARGE_BYTES)
    except DAMAGED as error:
        raise UserError(f"{path} is not a readable .npy file of numbers ({reason_of(error)})") from None


def _read_npz(path: Path) -> _Parts:
    try:
        sizes = npz_sizes(path)
        keys = list(sizes)
        places = {place: key for key in reversed(keys) if (place := _place(key)) is not None}
        image_key = next((key for key in IMAGE_KEYS if key in keys), keys[0] if len(keys) == 1 else None)
        if image_key is not None:
            label_key = next((key for key in LABEL_KEYS if key in keys and key != image_key), None)
            places = {("images", ""): image_key, **({("labels", ""): label_key} if label_key else {})}
        elif ("images", "train") not in places:
            shown = ", ".join(printable(key)[:40] for key in keys[:20]) + (", …" if len(keys) > 20 else "")
            if {"mu", "sigma"} <= set(keys):
                raise UserError(
                    f"{path} holds statistics of features (mu, sigma), not images: give the images themselves"
                )
            raise UserError(f"{path} holds {shown or 'nothing'}: call the images `images`")
        stored = read_npz(path, list(places.values()))
    except UserError:
        raise
    except DAMAGED as error:
        raise UserError(f"{path} is not a readable .npz file of numbers ({reason_of(error)})") from None
    arrays = {kind: {part: stored[places[k, part]] for k, part in places if k == kind} for kind in ("images", "labels")}
    images = {part: arrays["images"][part] for part in ("", *PARTS) if part in arrays["images"]}
    labels = {part: held for part, held in arrays["labels"].items() if part in images}
    used = [places["images", part] for part in images] + [places["labels", part] for part in labels]
    rest = [key for key in keys if key not in used]
    columns: dict[str, tuple[Cell, ...]] = {}
    if image_key is not None:
        count = len(images[""])
        for key in [key for key in rest if sizes[key] <= MAX_COLUMN_BYTES * (count + 16)]:
            if found := _columns(path, key, count):
                columns |= found
                rest.remove(key)
    notes = (f"{len(rest)} other arrays are not used ({some(rest)})",) if rest else ()
    for part, held in labels.items():
        if len(held) != len(images[part]):
            raise UserError(
                f"{path} has labels of shape {held.shape} for {len(images[part])} images: one each is needed"
            )
    if columns:
        notes = (f"columns from {some(list(columns))}", *notes)
    return replace(_joined(images, labels, str(path), notes), columns=columns)


def _columns(path: Path, key: str, count: int) -> dict[str, tuple[Cell, ...]]:
    """An array of one value an image as a column, of a few numbers an image as that many; none for others."""
    try:
        array = read_npz(path, [key])[key]
    except DAMAGED:
        return {}
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind not in "biufU" or array.shape[:1] != (count,):
        return {}
    if array.ndim == 1:
        return {key: tuple(map(cell_of, array.tolist()))}
    if array.ndim != 2 or array.shape[1] > MAX_COLUMNS or array.dtype.kind == "U":
        return {}
    return {f"{key}.{place}": tuple(map(cell_of, values)) for place, values in enumerate(array.T.tolist())}


def _place(key: str) -> tuple[str, str] | None:
    """("images" or "labels", part) that an array is by its name: x_train, train_images, labels_val; or None."""
    words = re.split(r"[_-]", key.lower())
    for one, other in (words, words[::-1]) if len(words) == 2 else ():
        part = part_of(one)
        if part is not None and part[0] and other in KEY_KINDS:
            return KEY_KINDS[other], part[0]
    return None


def _is_idx(path: Path) -> bool:
    try:
        with open_regular(path) as file, _unpacked(path, file) as handle:
            return handle.read(3) == b"\0\0\x08" or "idx" in path.name
    except DAMAGED:
        return "idx" in path.name


def _read_idx_pair(path: Path) -> _Parts:
    images = read_idx(path)
    if images.ndim == 1:
        raise UserError(f"{path} holds {len(images)} labels: give the images file beside it")
    name = path.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    beside = _idx_path(path.parent, name) if name != path.name.removesuffix(".gz") else None
    labels = None if beside is None else _matching(read_idx(beside), len(images), beside)
    test = path.name.replace("train", "t10k", 1)
    notes: tuple[str, ...] = ()
    if test != path.name and _idx_path(path.parent, test.removesuffix(".gz")) is not None:
        notes = (f"the official test images lie beside it ({test}): give the folder to test on them",)
    return _Parts(images, labels, [""] * len(images), notes)


def _idx_path(folder: Path, name: str) -> Path | None:
    candidates = (folder / name, folder / f"{name}.gz")
    return next((path for path in candidates if path.is_file()), None)


def _matching(labels: Raw, count: int, path: Path) -> Raw:
    if labels.shape != (count,):
        raise UserError(f"{path} has labels of shape {labels.shape} for {count} images: one each is needed")
    return labels
