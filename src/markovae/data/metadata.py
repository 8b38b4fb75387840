"""Tables beside images: captions.csv, metadata.csv or metadata.jsonl, a row per image; read whole, row by row."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import BinaryIO, final

from markovae.columns import MAX_NAME, Cell, cell_of
from markovae.data.file_names import comparable, some
from markovae.errors import UserError, reason_of
from markovae.log import counted, printable
from markovae.strict_json import parse, parse_object, shortened, shown
from markovae.system.regular import open_regular

NAMES = ("captions.csv", "metadata.csv", "metadata.jsonl")
# What columns are called: of images, and of their texts, the first that is there.
FILE_COLUMNS = ("file_name", "filename", "file", "image", "image_path", "path", "image_id", "image_name", "img")
TEXT_COLUMNS = ("text", "caption", "captions", "prompt", "description", "prompts", "texts", "title")
DELIMITERS = (",", ";", "\t", "|")
MAX_TABLE = 1 << 30  # bytes
MAX_ROW = 1 << 20  # characters
MOST_COLUMNS = 256
BELOW = "the path below the folder"
MOST_ASKED = 8  # names of no image, of which several images may be called so
PACK = re.compile(r"^([^/]+)\.(?:tar|parquet)/")


def is_table(name: str) -> bool:
    """Whether a file is a table of images, by its name."""
    return PurePosixPath(name).name in NAMES


def is_text(text: str) -> bool:
    """Whether it is valid Unicode: bytes that are not UTF-8 arrive as lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def one_line_each(texts: Sequence[str]) -> list[str]:
    """Texts on one line each, the empty ones left out."""
    return [line for line in (" ".join(text.split()) for text in texts) if line]


def _stem(name: str) -> str:
    return name.removesuffix(PurePosixPath(name).suffix)


@final
class ImageNames:
    """Images by what tables call them: the path or its end, with its ending or without, or the name alone.

    Args:
        paths: "/" between names.
        packed: each begins with the tar or parquet file that holds it, which a table may leave out, or its ending.
    """

    def __init__(self, paths: Sequence[str], packed: bool = False) -> None:
        self.paths, self._packed = paths, packed
        self.rule = "the path within the tar, or that which a row of a parquet file gives" if packed else BELOW
        self._whole = {self._called(path): path for path in paths}
        own = list(self._whole)
        inside = [name.partition("/")[2] for name in own] if packed else []
        self._stems = self._unique(map(_stem, own))
        self._ends = self._unique(PurePosixPath(name).name for name in own)
        self._ends |= self._unique(map(_stem, inside)) | self._unique(inside)

    def _called(self, name: str) -> str:
        own = comparable(name)
        return PACK.sub(r"\1/", own) if self._packed else own

    def _unique(self, names: Iterable[str]) -> dict[str, str]:
        """{name: image} of those names, in the order of the images, that one image alone has."""
        names = list(names)
        counts = Counter(names)
        return {name: path for name, path in zip(names, self._whole.values(), strict=False) if counts[name] == 1}

    def find(self, folder: PurePosixPath, name: str) -> str | None:
        """The image of a row, named from its table's own folder or from the data's; None where there is none."""
        own = self._called(name)
        if own.startswith("/") or own[1:3] == ":/":  # of another machine: what lies in the data is its end
            parts = own.split("/")[1:]
            own = next((end for n in range(len(parts)) if self._has(end := "/".join(parts[n:]))), own)
        inside = comparable(str(folder / own))
        for known in (self._whole, self._stems):
            for called in (inside, own):
                if called in known:
                    return known[called]
        return self._ends.get(own)

    def several(self, name: str) -> list[str]:
        """The images that a name may mean which lacks their folder; none where it is one, or no image's."""
        end = f"/{self._called(name)}"
        found = [
            path
            for path, own in zip(self.paths, map(self._called, self.paths), strict=True)
            if own.endswith(end) or _stem(own).endswith(end)
        ]
        return found if len(found) > 1 else []

    def _has(self, name: str) -> bool:
        return name in self._whole or name in self._stems


@final
class Table:
    """A table of images, read whole.

    Args:
        file: what it is called in messages.
        name: of its file, as a path within the data.
        handle: its bytes.
        images: that it may name.
        rows: how it is read.
    Raises: UserError for a row that cannot be read, and where no row names an image.

    Attributes:
        texts: the captions of each image.   cells: its other columns.   notes: sentences.
    """

    def __init__(
        self,
        file: str,
        name: str,
        handle: BinaryIO,
        images: ImageNames,
        rows: Reader,
    ) -> None:
        self.file, self.folder, self.name = file, PurePosixPath(name).parent, name
        self.texts, self.cells = dict[str, list[str]](), dict[str, dict[str, Cell]]()
        self.notes = list[str]()
        strangers: dict[str, None] = {}
        bare: list[int] = []
        unused: dict[str, None] = {}
        odd: dict[str, str] = {}
        same: dict[Cell, Cell] = {}  # texts that recur are held once
        differing: dict[str, int] = {}
        column = ""
        lines = Lines(file, handle)
        try:
            for row in rows(lines):
                unused |= dict.fromkeys(row.unused)
                odd |= row.odd
                column = column or row.column
                if not row.file_name:
                    bare.append(row.line)
                    continue
                if not row.texts:
                    bare.append(row.line)
                path = images.find(self.folder, row.file_name)
                if path is None:
                    strangers[row.file_name] = None
                    continue
                if row.texts:
                    self.texts.setdefault(path, []).extend(row.texts)
                own = self.cells.setdefault(path, {})
                for key, cell in row.cells.items():
                    if own.get(key) is None:
                        own[key] = same.setdefault(cell, cell)
                    elif cell is not None and cell != own[key]:
                        differing.setdefault(key, row.line)
        except UnicodeDecodeError:
            raise UserError(f"{file} is not UTF-8 text: save it as UTF-8") from None
        except csv.Error as error:
            raise UserError(f"{file} is not valid CSV ({error}): look for an unclosed quotation mark") from None
        except OSError as error:
            raise UserError(f"{file} cannot be read ({reason_of(error)})") from None
        finally:
            lines.handle.detach()  # whoever opened the file closes it
        if strangers and not self.cells:
            first = next(iter(strangers))
            if several := images.several(first):
                raise UserError(f"{file} names {shortened(first)}, which {_means(several)}")
            raise UserError(
                f"{file} matches no image of the {len(images.paths)} ({first}, …): file_name is {images.rule}"
            )
        for key in odd:  # one structure makes a column of structures
            for own in self.cells.values():
                own.pop(key, None)
        several = next(filter(None, map(images.several, list(strangers)[:MOST_ASKED])), [])
        self._remark(column, list(strangers), bare, list(unused), odd)
        if several:
            self.notes.append(f"{self.name} has names that {_means(several)}")
        if differing:
            columns = "column" if len(differing) == 1 else "columns"
            self.notes.append(
                f"{self.name} has several rows of one image with different values in the {columns} "
                f"{some(list(differing))}: the first counts (line {min(differing.values())} is another)"
            )

    def _remark(
        self, column: str, strangers: list[str], bare: list[int], unused: list[str], odd: dict[str, str]
    ) -> None:
        if self.texts:
            called = "" if column.lower() == TEXT_COLUMNS[0] else f" (column {printable(column)})"
            self.notes.append(f"captions from {self.name}{called}")
        elif unused or (bare and column):
            self.notes.append(f"{self.name} has no captions: none of the columns {', '.join(TEXT_COLUMNS)}")
        if strangers:
            them = "1 row names" if len(strangers) == 1 else f"{len(strangers)} rows name"
            self.notes.append(f"{them} a file that is not a readable image ({some(strangers)})")
        if bare and self.texts:
            them = "1 row has" if len(bare) == 1 else f"{len(bare):,} rows have"
            self.notes.append(f"{them} no text in {self.name} (line {bare[0]})")
        if unused:
            column, verb = ("column", "is") if len(unused) == 1 else ("columns", "are")
            missing = "" if self.cells else ": none of them names an image; call that column file_name"
            self.notes.append(f"the {column} {some(unused)} of {self.name} {verb} not used{missing}")
        if said := list(dict.fromkeys(key for own in self.cells.values() for key in own)):
            self.notes.append(f"columns from {self.name}: {some(said)}")
        for name, kind in odd.items():
            self.notes.append(f"the column {printable(name)} of {self.name} is not used: it holds {kind}")


def _means(several: Sequence[str]) -> str:
    return f"may mean {len(several):,} images ({some(several)}): write the folder, or the tar, before each name"


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        line: of the file.
        file_name: of its image, "" in a table without any.
        texts, column: its captions, and what their column is called.
        cells: the other columns.
        unused: columns that are not read.
        odd: columns of structures, with what they hold.
    """

    line: int
    file_name: str
    texts: tuple[str, ...]
    column: str = ""
    cells: dict[str, Cell] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    odd: dict[str, str] = field(default_factory=dict)


def row_of(file: str, line: int, fields: dict[str, object], place: str = "line") -> Row:
    """A row from its fields.

    Args:
        place: what `line` counts.
    Raises: UserError for a file name or a caption that is not a string, naming the line.
    """
    called = {field.lower(): field for field in fields}
    key = next((called[name] for name in FILE_COLUMNS if name in called), "")
    column = next((called[name] for name in TEXT_COLUMNS if name in called), "")
    name, text = fields.get(key), fields.get(column)
    if not key and not column:
        return Row(line, "", (), unused=tuple(shortened(str(field)) for field in fields))
    each = [one for one in (text if isinstance(text, list) else [text]) if one is not None]
    if not isinstance(name, str) or not name or not all(isinstance(one, str) for one in each):
        raise UserError(f"{file} {place} {line} must have a file_name and a text, both strings")
    texts = [str(one) for one in each]
    if not all(map(is_text, [name, *texts])):
        raise UserError(f"{file} {place} {line} holds half a character (a lone surrogate): write it in UTF-8")
    others = [str(field) for field in fields if field not in (key, column)]
    cells, odd = fields_of({field: fields[field] for field in others[:MOST_COLUMNS]})
    unused = tuple(map(shortened, others[MOST_COLUMNS:]))
    return Row(line, name, tuple(one_line_each(texts)), column, cells, unused, odd)


def fields_of(fields: dict[str, object]) -> tuple[dict[str, Cell], dict[str, str]]:
    """The cells of a record's fields, and what those that are no cells hold."""
    cells, odd = dict[str, Cell](), dict[str, str]()
    for name, value in fields.items():
        try:
            if len(name) > MAX_NAME:
                raise ValueError(f"a name of {len(name):,} characters, at most {MAX_NAME}")
            cell = cell_of(value)
            if cell is not None and not all(map(is_text, (name, *([cell] if isinstance(cell, str) else cell)))):
                raise ValueError("half a character")
            if isinstance(cell, str) and len(cell) > MAX_NAME:
                raise ValueError(f"texts of more than {MAX_NAME} characters")
        except (ValueError, OverflowError) as error:
            odd[shortened(name)] = str(error)
        else:
            cells[name] = cell
    return cells, odd


def record_of(content: bytes | str) -> tuple[list[str], dict[str, Cell], dict[str, str]]:
    """(captions, cells, fields that are none) of the .json of one image; nothing of one that is no object."""
    try:
        fields = parse_object(content)
    except ValueError:
        return [], {}, {}
    column = next((name for name in TEXT_COLUMNS if isinstance(fields.get(name), str | list)), "")
    caption = fields.pop(column, "")
    each = caption if isinstance(caption, list) else [caption]
    return one_line_each([one for one in each if isinstance(one, str) and is_text(one)]), *fields_of(fields)


@dataclass(frozen=True)
class Official:
    """What the dataset.json of StyleGAN and EDM says.

    Args:
        cells: of each image, {"label": class}; or {"label.0": number, …} where it has several labels.
        notes: sentences.
    """

    cells: dict[str, dict[str, Cell]]
    notes: tuple[str, ...]


def official_labels(content: bytes, file: str, images: ImageNames) -> Official | None:
    """The labels of a dataset.json, {"labels": [[file, class], …]} or null; None for a file of another kind.

    A label may also be several numbers, [file, [0, 1, 0]] or [file, 0, 1, 0]. Where each image has a single 1 among
    zeros, its place is the class.

    Args:
        file: what it is called in messages.
    Raises: UserError for what is no JSON, for a row of another kind, or of another number of labels than the first.
    """
    try:
        table = parse(content)
    except ValueError as error:
        raise UserError(f"{file} {error}: correct it, or remove the file") from None
    if not isinstance(table, dict) or "labels" not in table:
        return None
    name, rows = PurePosixPath(file).name, table["labels"]
    if rows is None:
        return Official({}, (f"{name} says that there are no classes, so the folders are not taken as classes",))
    labels: dict[str, list[int | float]] = {}
    more: dict[str, list[str]] = {}  # the classes of images that come in several rows
    strangers = []
    several = None
    for place, row in enumerate(rows if isinstance(rows, list) else [None]):
        image, values = (row[0], row[1:]) if isinstance(row, list) and row else ("", [])
        if len(values) == 1 and isinstance(values[0], list):
            values = values[0]
        known = isinstance(image, str) and image and values and all(type(value) in (int, float) for value in values)
        if not known or several not in (None, len(values)) or len(values) > MOST_COLUMNS:
            raise UserError(
                f"{file} has labels[{place}]={shown(row)}, which must be [image, class], or [image, [number, …]] with "
                f"as many numbers for each image, at most {MOST_COLUMNS}: correct it, or remove the file"
            )
        several = len(values)
        path = images.find(PurePosixPath(), image)
        if path is None:
            strangers.append(image)
        elif labels.setdefault(path, values) != values:
            more.setdefault(path, [str(labels[path][0])]).append(str(values[0]))
    notes = []
    if more and several != 1:
        notes.append(f"{counted(len(more), 'image')} in several rows of {name} ({some(list(more))}): the first counts")
    if strangers:
        them = "1 row names" if len(strangers) == 1 else f"{len(strangers):,} rows name"
        notes.append(f"{them} a file that is not a readable image ({some(strangers)})")
    if several == 1 and all(type(values[0]) is int for values in labels.values()):
        cells = {path: {"label": cell_of(more.get(path, value))} for path, [value] in labels.items()}
        return Official(cells, (f"the column label is from {name}", *notes))
    if labels and all(sorted(values) == [0] * (len(values) - 1) + [1] for values in labels.values()):
        cells = {path: {"label": str(values.index(1))} for path, values in labels.items()}
        return Official(
            cells, (f"the column label is from {name}, the place of the 1 among each image's labels", *notes)
        )
    cells = {path: {f"label.{n}": cell_of(value) for n, value in enumerate(values)} for path, values in labels.items()}
    return Official(
        cells,
        (
            f"{name} gives each image {several} labels, the columns label.0, …: the folders are not taken as classes",
            *notes,
        ),
    )


@final
class Lines:
    """The lines of a table, at most `MAX_ROW` characters of them to a row, so that no row fills the memory.

    Whoever has a row sets `spent` to 0.
    """

    def __init__(self, file: str, handle: BinaryIO) -> None:
        self.file, self.handle, self.spent = file, io.TextIOWrapper(handle, encoding="utf-8-sig", newline=""), 0

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        line = self.handle.readline(MAX_ROW + 1)
        if not line:
            raise StopIteration
        self.spent += len(line)
        if self.spent > MAX_ROW:
            raise UserError(f"{self.file} has a row of more than {MAX_ROW:,} characters: look for a missing line end")
        return line


Reader = Callable[[Lines], Iterator[Row]]


@contextmanager
def open_table(file: Path) -> Iterator[BinaryIO]:
    """The bytes of a table. Raises: UserError for one that is too large or cannot be read."""
    try:
        with open_regular(file) as handle:
            size = os.fstat(handle.fileno()).st_size
            if size > MAX_TABLE:
                raise UserError(f"{file} has {size:,} bytes, at most {MAX_TABLE:,} are read: split the folder")
            yield handle
    except OSError as error:
        raise UserError(f"{file} cannot be read ({reason_of(error)})") from None


def delimiter_of(head: str) -> str:
    """What separates the columns of a table, by its first line."""
    return max(DELIMITERS, key=head.count)


def csv_rows(lines: Lines, renamed: Mapping[str, str] = MappingProxyType({})) -> Iterator[Row]:
    """The rows of a table whose first line names its columns.

    Args:
        renamed: columns by another name than the file gives them.
    """
    file, head = lines.file, next(lines, "")
    delimiter = delimiter_of(head)
    names = next(csv.reader([head], strict=True, delimiter=delimiter), [])
    names = [renamed.get(name.strip().lower(), name.strip()) for name in names]
    first = PurePosixPath(file).name == NAMES[0]
    called = {name.lower() for name in names}
    if not called & set(FILE_COLUMNS) and (called & set(TEXT_COLUMNS) or first):
        raise UserError(f"{file} must begin with a line naming the columns file_name and text")
    if len(set(names)) < len(names):
        raise UserError(f"{file} names a column twice in its first line: rename one")
    reader = csv.reader(lines, strict=True, delimiter=delimiter)
    for values in reader:
        lines.spent = 0
        if not values:
            continue
        line = reader.line_num + 1  # the first line was read apart
        if len(values) != len(names):
            raise UserError(
                f"{file} line {line} has {len(values)} fields where its first line names {len(names)}: "
                "put texts that hold a delimiter in quotation marks"
            )
        yield row_of(file, line, dict(zip(names, values, strict=True)))


def json_rows(lines: Lines) -> Iterator[Row]:
    """The rows of a table of objects, one a line."""
    file = lines.file
    for number, line in enumerate(lines, start=1):
        lines.spent = 0
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{file} line {number} is not JSON ({error.msg})") from None
        except (ValueError, RecursionError):
            raise UserError(
                f"{file} line {number} nests too deep, or has too long a number: give file_name and text"
            ) from None
        if not isinstance(row, dict):
            raise UserError(f"{file} line {number} must be an object with file_name and text")
        yield row_of(file, number, row)
