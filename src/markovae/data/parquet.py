"""Parquet files of images, as hubs of data sets hold them: bytes in a column, with classes and captions beside them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from markovae.columns import Cell, Cells
from markovae.data import cache
from markovae.data.captions import written_beside
from markovae.data.data_config import DataConfig
from markovae.data.file_names import hidden, parts_of_files, some
from markovae.data.folder import classes_of_column
from markovae.data.image_files import STRIP, Header, decode, find_files, header_of, plan
from markovae.data.images import Digests, ImageData, Indices, Pixels, content_digests
from markovae.data.known_tables import split_column
from markovae.data.metadata import FILE_COLUMNS, MOST_COLUMNS, TEXT_COLUMNS, fields_of, is_text, one_line_each
from markovae.data.source import DatasetSummary, Source, tally
from markovae.data.split import chosen_split, copies_note
from markovae.data.strips import StripFile, Strips, middle, read_strips
from markovae.errors import UserError, reason_of
from markovae.log import counted, printable, track
from markovae.strict_json import parse_object
from markovae.system.regular import open_regular

RECIPE = "parquet-5"
# Types of columns that may condition a model.
PLAIN = re.compile(r"u?int\d+|float|double|halffloat|bool|(large_)?string|list<\w+: (large_)?string>")
ENDING = ".parquet"
IMAGE_COLUMNS = ("image", "img", "jpg", "png", "bytes", "image_bytes")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "cls")
BATCH = 64  # rows in memory


@dataclass(frozen=True)
class Row:
    """A row: what it is called, its image's bytes or None, its image's file name, class and caption or "", and its
    other cells.
    """

    name: str
    content: bytes | None
    path: str
    label: str
    caption: str
    cells: dict[str, Cell] = field(default_factory=dict)


def parquet_files(path: Path) -> list[Path]:
    """The parquet files that a path is, or that lie in it, or in its folder `data` as hubs have them."""
    if not path.is_dir():
        return [path] if path.suffix.lower() == ENDING else []
    found = next((found for folder in (path, path / "data") if (found := sorted(folder.glob(f"*{ENDING}")))), [])
    return [file for file in found if file.is_file() and not hidden(file.name)]


def holds_parquet(path: Path) -> bool:
    """Whether a path is a parquet file, or a folder that holds some, and no images."""
    if path.suffix.lower() == ENDING:
        return True
    return path.is_dir() and bool(parquet_files(path)) and not find_files(path).files


def read_parquet(config: DataConfig) -> Source:
    """The images of parquet files at one shape, decoded once and then cached; files called train-…, test-… are parts.

    Raises: UserError without pyarrow, for files that are damaged or of several columns, or without a readable image.
    """
    files = parquet_files(config.path)
    about = [(str(file), file.stat()) for file in files]
    recipe = {
        "recipe": RECIPE,
        "pillow": PIL.__version__,
        "files": [[name, one.st_size, one.st_mtime_ns, one.st_ctime_ns, one.st_ino] for name, one in about],
        "options": [config.size, config.width, config.channels, config.background, config.fit, config.random_crop],
    }
    make = partial(_make, files=files, config=config)
    stored, images, digests, strips = cache.entry(f"parquet-{cache.key_of(recipe)}", make, _read)
    labels, class_names, notes = _labels(stored["labels"], stored["class_names"])
    names, texts = stored["names"], stored["captions"]
    cells: Cells = {name: tuple(map(_cell, column)) for name, column in stored["columns"].items()}
    if config.path.is_dir():
        said = written_beside(files[0].parent, stored["paths"], [file.name for file in files])
        texts, cells = said.joined(texts, cells)
        notes = (*notes, *said.notes)
    if labels is None and config.classes == "auto":
        labels, class_names, column_notes = classes_of_column(cells)
        notes = (*notes, *column_notes)
    captions = tuple(texts) if any(texts) else None
    data = ImageData(images, labels, class_names, captions, name=str(config.path), digests=digests, strips=strips)
    part, split_notes = [""] * len(names), tuple[str, ...]()
    if config.split == "auto":
        part, cells, split_notes = split_column(cells, parts_of_files([name.partition(":")[0] for name in names]))
    data = replace(data, files=tuple(map(printable, names)), columns=cells)
    split = chosen_split(data, part, config)
    summary = DatasetSummary(
        "parquet",
        stored["modes"],
        stored["formats"],
        stored["sizes"],
        tuple((printable(name), reason) for name, reason in stored["unreadable"]),
        (*stored["notes"], *notes, *split_notes, *copies_note(split)),
    )
    return Source(data, split, summary)


def _cell(stored: Any) -> Cell:
    """Several texts in one cell are a list in JSON."""
    return tuple(stored) if isinstance(stored, list) else stored


def _read(kept: cache.Entry) -> tuple[dict[str, Any], Pixels, Digests, Strips | None]:
    record, images = kept.json("record.json"), kept.array("images.npy")
    strips = read_strips(kept, images.shape[1:]) if record["strips"] else None
    return record, images, kept.array("digests.npy"), strips


def _make(stage: Path, files: list[Path], config: DataConfig) -> None:
    columns = [_columns(file) for file in files]
    headers: list[Header | None] = []
    unreadable: list[tuple[str, str]] = []
    rows = sum(one.count for one in columns)
    for row in track(_rows(files, columns), "reading image headers", rows):
        try:
            headers.append(header_of(row.content or b"", row.name))
        except Exception as error:  # a decoder may raise anything on damaged bytes
            headers.append(None)
            unreadable.append((row.name, reason_of(error) if row.content else "the row has no bytes of an image"))
    good = Counter(replace(header, path="") for header in headers if header is not None)
    if not good:
        first = f" ({printable(unreadable[0][0])}: {unreadable[0][1]})" if unreadable else ""
        raise UserError(f"{config.path} holds no readable image{first}")
    chosen = plan(good, config)
    target = cache.new_array(stage / "images.npy", np.dtype(np.uint8), (good.total(), chosen.channels, *chosen.shape))
    fit = STRIP if config.random_crop else chosen.fit
    shown = [header for header in headers if header is not None]
    strips = StripFile(stage, shown, chosen) if config.random_crop else None
    kept: list[Row] = []
    for row, header in zip(track(_rows(files, columns), "decoding images", rows), headers, strict=True):
        if header is None:
            continue
        try:
            strip = decode(row.content or b"", chosen.shape, chosen.grey, fit=fit, background=chosen.background)
        except Exception as error:  # as above
            unreadable.append((row.name, reason_of(error)))
        else:
            target[len(kept)] = middle(strip, chosen.shape)
            kept.append(replace(row, content=None))
            if strips is not None:
                strips.add(strip)
    if len(kept) < len(target):
        short = np.array(target[: len(kept)])
        target = cache.new_array(stage / "images.npy", short.dtype, short.shape)
        target[:] = short
    target.flush()
    np.save(stage / "digests.npy", content_digests(target), allow_pickle=False)
    unused = sorted({name for one in columns for name in one.unused})
    notes = [
        f"{counted(len(files), 'parquet file')}, images from the column {printable(columns[0].image)}",
        *chosen.notes,
    ]
    notes += [strips.finish()] if strips is not None else []
    notes += [f"the columns {some(unused)} are not used"] if unused else []
    cells = list(dict.fromkeys(name for row in kept for name in row.cells))
    notes += [f"columns: {some(cells)}"] if cells else []
    record = {
        "columns": {name: [row.cells.get(name) for row in kept] for name in cells},
        "names": [row.name for row in kept],
        "paths": [f"{row.name.partition(':')[0]}/{row.path}" if row.path else row.name for row in kept],
        "labels": [row.label for row in kept],
        "captions": [row.caption for row in kept],
        "class_names": next((one.class_names for one in columns if one.class_names), []),
        "modes": tally([header.mode for header in shown]),
        "formats": tally([header.format for header in shown]),
        "sizes": tally([f"{header.width}x{header.height}" for header in shown]),
        "unreadable": sorted(unreadable),
        "notes": notes,
        "strips": config.random_crop,
    }
    cache.write_json(stage / "record.json", record)


@dataclass(frozen=True)
class Columns:
    """What the columns of a file are: of images, classes and captions ("" for none), their names, those of numbers and
    texts, and all others.
    """

    image: str
    label: str
    caption: str
    class_names: tuple[str, ...]
    cells: tuple[str, ...]
    unused: tuple[str, ...]
    count: int


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """The file, open. Raises: UserError without pyarrow, and for what is no parquet file."""
    try:
        library = import_module("pyarrow.parquet")
    except ImportError:
        raise UserError(f"{file} needs pyarrow: pip install 'markovae[parquet]'") from None
    with ExitStack() as stack:
        try:
            parquet = library.ParquetFile(stack.enter_context(open_regular(file)))
        except Exception as error:  # the library raises kinds of its own
            raise UserError(f"{file} is not a readable parquet file ({reason_of(error)}): fetch it again") from None
        yield parquet


def _columns(file: Path) -> Columns:
    with _opened(file) as parquet:
        schema, count = parquet.schema_arrow, parquet.metadata.num_rows
    names = list(schema.names)
    image = next((name for name in (*IMAGE_COLUMNS, *names) if name in names and _holds_bytes(schema.field(name))), "")
    if not image:
        raise UserError(f"{file} has no column of image bytes (its columns are {some(names)}): call it image")
    label = next((name for name in LABEL_COLUMNS if name in names), "")
    caption = next((name for name in TEXT_COLUMNS if name in names), "")
    others = [name for name in names if name not in (image, label, caption)]
    cells = [name for name in others if PLAIN.fullmatch(str(schema.field(name).type))][:MOST_COLUMNS]
    unused = tuple(name for name in others if name not in cells)
    return Columns(image, label, caption, _class_names(schema, label), tuple(cells), unused, count)


def _holds_bytes(field: Any) -> bool:
    """Whether a column holds bytes, or records with a field `bytes`."""
    kind = str(field.type)
    return kind in ("binary", "large_binary") or (kind.startswith("struct<") and "bytes: binary" in kind)


def _class_names(schema: Any, label: str) -> tuple[str, ...]:
    """The names of the classes that the file's own note on its columns gives, or none."""
    try:
        info = parse_object((schema.metadata or {})[b"huggingface"])
        names = info["info"]["features"][label]["names"]
    except (ValueError, KeyError, TypeError):
        return ()
    fine = isinstance(names, list) and all(isinstance(name, str) and is_text(name) for name in names)
    return tuple(names) if fine and len(set(names)) == len(names) else ()


def _rows(files: list[Path], columns: list[Columns]) -> Iterator[Row]:
    for file, names in zip(files, columns, strict=True):
        wanted = [name for name in (names.image, names.label, names.caption, *names.cells) if name]
        number = 0
        with _opened(file) as parquet:
            for held in _held(parquet, wanted, file):
                image = held[names.image]
                content = image.get("bytes") if isinstance(image, dict) else image
                path = image.get("path") if isinstance(image, dict) else None
                path = path or next((held[name] for name in FILE_COLUMNS if isinstance(held.get(name), str)), "")
                label, text = held.get(names.label), held.get(names.caption)
                texts = [one for one in (text if isinstance(text, list) else [text]) if isinstance(one, str)]
                yield Row(
                    f"{file.name}:{number}",
                    content if isinstance(content, bytes) else None,
                    path if isinstance(path, str) and is_text(path) else "",
                    "" if label is None else str(label),
                    "\n".join(one_line_each(texts)),
                    fields_of({name: held[name] for name in names.cells})[0],
                )
                number += 1


def _held(parquet: Any, columns: list[str], file: Path) -> Iterator[dict[str, Any]]:
    try:
        for batch in parquet.iter_batches(batch_size=BATCH, columns=columns):
            yield from batch.to_pylist()
    except Exception as error:  # the library raises kinds of its own on damaged bytes
        raise UserError(f"{file} is damaged ({reason_of(error)}): fetch it again") from None


def _labels(given: list[str], names: list[str]) -> tuple[Indices | None, tuple[str, ...], tuple[str, ...]]:
    """(labels, class names, notes); the names are the file's own, else the different labels in order."""
    bare = given.count("")
    if bare:
        note = f"{bare} of {len(given)} images have no class, so the classes are left out: give each one"
        return None, (), () if bare == len(given) else (note,)
    whole = all(text.isdecimal() and len(text) < 19 for text in given)
    if whole and names and max(map(int, given)) < len(names):
        return np.array(list(map(int, given)), dtype=np.int64), tuple(map(printable, names)), ()
    values = sorted(set(given), key=int) if whole else sorted(set(given))
    number = {value: place for place, value in enumerate(values)}
    return np.array([number[value] for value in given], dtype=np.int64), tuple(map(printable, values)), ()
