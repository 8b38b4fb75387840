"""From the section [data] to training, validation and test images."""

import difflib
import itertools
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from markovae.data import cache
from markovae.data.data_config import ANY_SOURCE, BUILT_IN, KINDS, DataConfig, as_config
from markovae.data.file_names import ENDINGS, bare_names, name_captions, named_note, names_note, some
from markovae.data.images import ImageData, Indices, fingerprint
from markovae.data.metadata import ImageNames
from markovae.data.shard_store import require_named
from markovae.data.source import Source
from markovae.data.split import Splits
from markovae.errors import UserError
from markovae.locations import is_elsewhere
from markovae.log import counted, log

ALWAYS_ALLOWED = 10  # unreadable files


def load_data(config: DataConfig | str | Path) -> Splits:
    """The training, validation and test parts of a source; the same call gives the same parts.

        data = mv.load_data("photos")
        data.train.images.shape, data.train.class_names

    Args:
        config: the `[data]` section, or just its source ("faces", "digits", a folder, an array file).
    Raises: UserError where the source is missing, unreadable or too small, or has too many unreadable files.
    """
    config = as_config(config)
    reading = read_source(config)
    require_readable(reading, config)
    require_asked(reading, config)
    return splits_of(reading)


def reopen(config: DataConfig, record: Mapping[str, Any], captions: bool = False) -> Splits:
    """`load_data(config)`, checked against the record a run stored. Raises: UserError where they differ."""
    splits = load_data(config)
    splits.verify(record, captions)
    return splits


def read_source(config: DataConfig) -> Source:
    """All images of a source, with their split and a summary.

    Raises: UserError as `load_data`, and for a URL that a file gave (see `require_named`).
    """
    require_named(config.source)
    kind = kind_of(config)
    if (what := _of_names(config)) and kind not in WITH_FOLDERS:
        raise UserError(
            f"{what} is read from the names of folders and files, and {config.source} has none: leave it out"
        )
    if config.random_crop and kind not in WITH_LENGTHS:
        raise UserError(
            f"data.random_crop cuts images of a folder, of shards or parquet files, and {config.source} is "
            f"{KINDS.get(kind, KINDS['array'])}, of one shape: leave it out"
        )
    module, function = READERS[kind].split(".")
    reading: Source = getattr(import_module(f"markovae.data.{module}"), function)(config)
    if config.classes == "none":
        reading = replace(reading, data=replace(reading.data, labels=None, class_names=()))
    reading = _without_image_columns(reading, packed=kind != "folder")
    return reading if reading.data.files is None or kind not in WITH_FOLDERS else _with_names(reading, config)


def _of_names(config: DataConfig) -> str:
    """The setting that asks for what only names of folders and files say, if there is one."""
    if config.classes == "prefix":
        return "data.classes=prefix"
    if config.captions == "names":
        return "data.captions=names"
    return "" if config.split in ("auto", "content") else f"data.split={config.split}"


def _without_image_columns(reading: Source, packed: bool) -> Source:
    """Without the columns whose cells are names of images, such as masks or edges: these are no conditions, and are
    trained on as any where they lie among the data.

    Args:
        packed: whether the images lie in tars or parquet files.
    """
    data, notes = reading.data, list[str]()
    named = dict[str, list[str]]()
    for name, cells in data.columns.items():
        said = [cell for cell in cells if cell is not None]
        texts = [cell for cell in said if isinstance(cell, str) and PurePosixPath(cell).suffix.lower() in ENDINGS]
        if texts and len(texts) == len(said):
            named[name] = texts
    if not named:
        return reading
    images, root = ImageNames(data.files or (), packed), PurePosixPath()
    for name, texts in named.items():
        count = len({image for text in texts if (image := images.find(root, text)) is not None})
        them = f"; {counted(count, 'image')} named there are trained on as any: move them away" if count else ""
        notes.append(f"the column {name} names images ({some(texts)}), which are no conditions here{them}")
    columns = {name: cells for name, cells in data.columns.items() if name not in named}
    summary = replace(reading.summary, notes=(*reading.summary.notes, *notes))
    return replace(reading, data=replace(data, columns=columns), summary=summary)


def _with_names(reading: Source, config: DataConfig) -> Source:
    """With the names of the files as captions where that is asked for; else a remark where they read like some."""
    data, files = reading.data, reading.data.files or ()
    if config.captions == "names":
        captions = name_captions(files)
        notes = named_note(captions or (), data.captions is not None)
        data = replace(data, captions=captions)
    else:
        notes = names_note(files) if data.captions is None else ()
    return replace(reading, data=data, summary=replace(reading.summary, notes=(*reading.summary.notes, *notes)))


# module.function of `data/` that reads a source of each kind, read(config) -> Source; imported when one is read.
READERS = {
    "faces": "faceset.read_faces",
    "digits": "digits.read_digits",
    "cifar10": "cifar.read_cifar10",
    "cifar": "cifar.read_cifar_files",
    "shards": "shards.read_shards",
    "idx folder": "arrays.read_idx_folder",
    "parquet": "parquet.read_parquet",
    "folder": "folder.read_folder",
    "array": "arrays.read_array_file",
}


WITH_FOLDERS = ("folder", "shards")  # whose names may say classes and parts
WITH_LENGTHS = ("folder", "shards", "parquet")  # whose images may be longer than what is trained on


def kind_of(config: DataConfig) -> str:
    """Which of `READERS` reads a source.

    Raises: UserError for one that does not exist, or is none of them.
    """
    path = config.path
    if config.source in BUILT_IN:
        if path.exists():
            log(f"{config.source} is the source of that name: give ./{config.source} for what lies here")
        return config.source
    from markovae.data.arrays import holds_idx_files
    from markovae.data.cifar import is_cifar
    from markovae.data.parquet import holds_parquet

    if is_cifar(path):
        return "cifar"
    if _names_shards(config.source, path):
        return "shards"
    if holds_parquet(path):
        return "parquet"
    if path.is_dir():
        return "idx folder" if holds_idx_files(path) else "folder"
    if path.is_file():
        return "array"
    if path.exists():
        raise UserError(f"{path} is neither a folder nor a regular file: give {ANY_SOURCE}")
    raise UserError(_missing(config.source, path))


def require_readable(reading: Source, config: DataConfig) -> None:
    """Refuse a source with too many unreadable files, or with a shard that is cut short or damaged.

    Raises: UserError naming the first of them.
    """
    bad, good = reading.summary.unreadable, len(reading.data)
    if config.bad_fraction == 1 or not bad:
        return
    cut = [(name, reason) for name, reason in bad if reading.summary.kind == "shards" and name.endswith(".tar")]
    share = len(bad) / (len(bad) + good)
    if not cut and not (share > config.bad_fraction and len(bad) > ALWAYS_ALLOWED):
        return
    name, reason = (cut or bad)[0]
    what = f"{len(cut)} shards of {reading.data.name} are" if len(cut) > 1 else f"a shard of {reading.data.name} is"
    what = f"{what} cut short or damaged" if cut else f"{len(bad):,} of {len(bad) + good:,} files are unreadable"
    raise UserError(
        f"{what} ({name}: {reason}); markovae inspect {config.source} lists them: repair them, or set "
        "data.bad_fraction=1 to train without them"
    )


def require_asked(reading: Source, config: DataConfig) -> None:
    """Refuse images to train on that lack what was asked for: data of others are measured without it.

    Raises: UserError naming them, and what to do.
    """
    data, files = reading.data, reading.data.files or ()
    prefix, names = config.classes == "prefix", config.captions == "names"
    if not files and ((prefix and data.labels is None) or (names and data.captions is None)):
        raise UserError(
            f"{_of_names(config)} reads names, and {data.name}, written by markovae shard, keeps none: shard again "
            "with this setting"
        )
    if prefix and data.labels is None:
        raise UserError(f"{bare_names(files)}: rename them, or leave data.classes at auto")
    if names and data.captions is None:
        raise UserError(
            f"data.captions=names takes captions from names, and no file of {data.name} is called by words "
            f"({some(files)}): leave data.captions at auto"
        )


def _names_shards(source: str, path: Path) -> bool:
    """Whether a source is a URL, a pattern of tars, one tar, or a folder with tars in it.

    Raises: UserError for a folder that holds both tars and images.
    """
    if is_elsewhere(source) or (source.endswith(".tar") and (path.is_file() or "{" in source)):
        return True
    if not path.is_dir():
        return False
    from markovae.data.shard_format import RECORD

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
        raise UserError(f"{parts.refusal}{_flat(data)}")
    rows = (parts.train, parts.validation, parts.test)
    if isinstance(data.images, np.memmap):
        data = _arranged(data, np.concatenate(rows))
        ends = np.cumsum([0, *(len(part) for part in rows)]).tolist()
        train, validation, test = (data.take(slice(a, b)) for a, b in itertools.pairwise(ends))
    else:
        train, validation, test = (data.take(part) for part in rows)
    notes = (*reading.summary.notes, *range_note(reading.data), *absent_classes(train.labels, train.class_names))
    return Splits(train, validation, test, parts.method, parts.seed, parts.left_out, reading.summary.unreadable, notes)


def _flat(data: ImageData) -> str:
    """What to do about images that are in memory and one color, which files look like that use few of their values."""
    if type(data.images) is not np.ndarray or not len(data) or data.images.min() != data.images.max():
        return ""
    return (
        f". All their pixels are {int(data.images.min())}: files that use few of the values that they declare, such as "
        "0…40 of 65,535, must be saved on the whole range"
    )


def range_note(data: ImageData) -> tuple[str, ...]:
    """A warning of pixel values that use less than half of what they may be; images that are not in memory pass.

    Files that declare more bits than they use, and arrays on another scale, look so.
    """
    if type(data.images) is not np.ndarray or not len(data) or data.bins < 16:
        return ()
    low, high, most = int(data.images.min()), int(data.images.max()), data.bins - 1
    if high - low > most // 2 or len(data) < 2:
        return ()
    return (f"warning: all pixels lie in {low}…{high} of 0…{most}: if their scale is another, save them on it",)


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
        files=None if data.files is None else tuple(data.files[i] for i in order.tolist()),
        columns={name: tuple(cells[i] for i in order.tolist()) for name, cells in data.columns.items()},
        strips=None if data.strips is None else data.strips.take(order),
    )


def _write_rows(folder: Path, images: np.ndarray[Any, Any], order: Indices) -> None:
    shape = (len(order), *images.shape[1:])
    target = cache.new_array(folder / "images.npy", images.dtype, shape)
    for row, source in enumerate(order.tolist()):
        target[row] = images[source]
    target.flush()


def _missing(source: str, path: Path) -> str:
    if "*" in source:
        return f"{source!r} is not a pattern of shards: write their range as {{000..099}}, or name their folder"
    beside = []
    if path.parent.is_dir():
        beside = [str(path.with_name(item.name)) for item in path.parent.iterdir()]
    near = difflib.get_close_matches(source, [*BUILT_IN, *beside], n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return (
        f"there is no data source, folder or file {source!r}: give {ANY_SOURCE}{hint}; if a run's "
        "data were moved, name them to train --resume and to measure"
    )
