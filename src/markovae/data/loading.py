"""From a configuration to its three parts."""

import difflib
import itertools
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from markovae.data import cache
from markovae.data.data_config import DataConfig
from markovae.data.image_files import ENDINGS
from markovae.data.images import ImageData, Indices, fingerprint
from markovae.data.shard_store import require_named
from markovae.data.shards import RECORD
from markovae.data.source import Source
from markovae.data.split import Splits
from markovae.errors import UserError
from markovae.locations import is_elsewhere

BUILT_IN = ("faces", "digits")
ALWAYS_PASSED = 10  # files that give no image are never too many


def load_data(config: DataConfig | str) -> Splits:
    """The training, validation and test parts of a source; the same call gives the same parts.

    Args:
        config: the `[data]` section, or just its source ("faces", "digits", a folder, an array file).
    Raises: UserError where the source is missing, unreadable or too small, or has too many files that give no image.
    """
    config = DataConfig(config) if isinstance(config, str) else config
    reading = read_source(config)
    require_readable(reading, config)
    return splits_of(reading)


def reopen(config: DataConfig, record: Mapping[str, Any], captions: bool = False) -> Splits:
    """`load_data(config)`, checked against the record a run stored. Raises: UserError where they differ."""
    splits = load_data(config)
    splits.verify(record, captions)
    return splits


def read_source(config: DataConfig) -> Source:
    """All images of a source with their parts and findings.

    Raises: UserError as `load_data`, and for a URL that a file gave (see `require_named`).
    """
    require_named(config.source)
    if config.source == "faces":
        from markovae.data.faceset import read_faces

        return read_faces(config)
    if config.source == "digits":
        from markovae.data.digits import read_digits

        return read_digits(config)
    path = _path(config.source)
    if _names_shards(config.source, path):
        from markovae.data.shards import read_shards

        return read_shards(config)
    if not path.exists():
        raise UserError(_missing(config.source, path))
    from markovae.data import arrays

    if path.is_dir():
        if arrays.holds_idx_files(path):
            return arrays.read_idx_folder(path, config)
        from markovae.data.folder import read_folder

        return read_folder(path, config)
    if not path.is_file():
        raise UserError(f"{path} is neither a folder nor a regular file: give an image folder or an array file")
    return arrays.read_array_file(path, config)


def _path(source: str) -> Path:
    """A source as a path of this machine; ~ alone or with a name is a home folder.

    Raises: UserError for a name that nobody has here.
    """
    try:
        return Path(source).expanduser()
    except RuntimeError:
        raise UserError(f"{source} names the home folder of nobody here: give the whole path") from None


def require_readable(reading: Source, config: DataConfig) -> None:
    """Refuse a source of which too many files give no image, or a shard of which nobody knows how much is missing.

    Raises: UserError naming the first of them.
    """
    bad, good = reading.summary.unreadable, len(reading.data)
    if config.bad_fraction == 1 or not bad:
        return
    cut = [(name, reason) for name, reason in bad if reading.summary.kind == "shards" and name.endswith(".tar")]
    share = len(bad) / (len(bad) + good)
    if not cut and not (share > config.bad_fraction and len(bad) > ALWAYS_PASSED):
        return
    name, reason = (cut or bad)[0]
    what = f"{len(cut)} shards of {reading.data.name} are" if len(cut) > 1 else f"a shard of {reading.data.name} is"
    what = f"{what} cut short or damaged" if cut else f"{len(bad):,} of {len(bad) + good:,} files give no image"
    raise UserError(
        f"{what} ({name}: {reason}); markovae inspect {config.source} lists them: mend them, or set "
        "data.bad_fraction=1 to train without them"
    )


def _names_shards(source: str, path: Path) -> bool:
    """Whether a source is a URL, a pattern of tars, one tar, or a folder with tars in it.

    Raises: UserError for a folder that holds both tars and images.
    """
    if is_elsewhere(source) or (source.endswith(".tar") and (path.is_file() or "{" in source)):
        return True
    if not path.is_dir():
        return False
    inside = [item for item in path.iterdir() if not item.name.startswith(".")]
    tars = [item for item in inside if item.suffix == ".tar"]
    images = [item for item in inside if item.is_dir() or item.suffix.lower() in ENDINGS]
    if tars and images and not (path / RECORD).is_file():
        raise UserError(
            f"{path} holds images or folders ({images[0].name}) beside {tars[0].name}: name the tar itself to read it, "
            "or move it elsewhere"
        )
    return bool(tars)


def splits_of(reading: Source) -> Splits:
    """The parts of a reading. Memory-mapped images stay on disk, rearranged there part by part.

    Raises: UserError where there are too few images for three.
    """
    data, parts = reading.data, reading.split
    if parts.refusal:
        raise UserError(parts.refusal)
    rows = (parts.train, parts.validation, parts.test)
    if isinstance(data.images, np.memmap):
        data = _arranged(data, np.concatenate(rows))
        ends = np.cumsum([0, *(len(part) for part in rows)]).tolist()
        train, validation, test = (data.take(slice(a, b)) for a, b in itertools.pairwise(ends))
    else:
        train, validation, test = (data.take(part) for part in rows)
    notes = (*reading.summary.notes, *absent_classes(train.labels, train.class_names))
    return Splits(train, validation, test, parts.method, parts.seed, parts.left_out, reading.summary.unreadable, notes)


def absent_classes(labels: Indices | None, class_names: tuple[str, ...]) -> tuple[str, ...]:
    """A sentence on the classes that have no image to train on, if any."""
    if labels is None:
        return ()
    counts = np.bincount(labels, minlength=len(class_names))
    absent = [name for name, count in zip(class_names, counts, strict=True) if count == 0]
    return (f"{len(absent)} classes have no training image ({', '.join(absent[:3])})",) if absent else ()


def _arranged(data: ImageData, order: Indices) -> ImageData:
    """`data` in the given order, its images copied once to a mapped file in the cache."""
    hashes = data.content_hashes()
    wanted = fingerprint([hashes[i] for i in order.tolist()])
    make = partial(_write_rows, images=data.images, order=order)
    images = cache.entry(f"arranged-{wanted[:32]}", make, lambda kept: kept.array("images.npy", mapped=True))
    return ImageData(
        images=images,
        labels=None if data.labels is None else data.labels[order],
        class_names=data.class_names,
        captions=None if data.captions is None else tuple(data.captions[i] for i in order.tolist()),
        bins=data.bins,
        name=data.name,
        digests=np.frombuffer(b"".join(hashes[i] for i in order.tolist()), dtype=np.uint8).reshape(-1, 32),
    )


def _write_rows(folder: Path, images: np.ndarray[Any, Any], order: Indices) -> None:
    shape = (len(order), *images.shape[1:])
    target = cache.new_array(folder / "images.npy", images.dtype, shape)
    for row, source in enumerate(order.tolist()):
        target[row] = images[source]
    target.flush()


def _missing(source: str, path: Path) -> str:
    if "*" in source:
        return f"{source!r} is no pattern of shards: write their range as {{000..099}}, or name their folder"
    beside = []
    if path.parent.is_dir():
        beside = [str(path.with_name(item.name)) for item in path.parent.iterdir()]
    near = difflib.get_close_matches(source, [*BUILT_IN, *beside], n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return (
        f"there is no data source, folder or file {source!r}: give faces, digits, an image folder, "
        f"an .npy, .npz or idx file, or shards{hint}; where a run's data were moved, name them to train --resume "
        "and to measure"
    )
