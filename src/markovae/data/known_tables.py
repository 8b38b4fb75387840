"""Which files are tables of images: those of fixed names, those of well-known data sets (CelebA, Flickr), some JSON."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath

from markovae.columns import Cells
from markovae.data.file_names import PARTS, part_of
from markovae.data.json_tables import LARGEST, json_reader, without_captions
from markovae.data.metadata import (
    FILE_COLUMNS,
    MAX_ROW,
    MOST_COLUMNS,
    TEXT_COLUMNS,
    ImageNames,
    Lines,
    Reader,
    Row,
    csv_rows,
    delimiter_of,
    fields_of,
    is_table,
    json_rows,
    one_line_each,
)
from markovae.errors import UserError
from markovae.log import counted

NAMES = (
    "captions.txt",
    "results.csv",
    *(f"{table}.{ending}" for table in ("list_attr_celeba", "list_eval_partition") for ending in ("txt", "csv")),
)
PEEKED = 8  # lines of a table that are looked at for the column that names images
PART = "split"  # the column that says an image's part
CELEBA_PARTS = dict(zip("012", PARTS, strict=True))
TOKEN = re.compile(r"(\S.*)#\d+\t(.+)")


def may_be_table(name: str) -> bool:
    """Whether a file may be a table of images, by its name."""
    return is_table(name) or _may_be_known(name) or _may_be_json(name)


def table_reader(name: str, size: int, beginning: Callable[[int], bytes], images: ImageNames) -> Reader | None:
    """How the rows of a file are read that is a table of images by its name and what it holds; None for others.

    Args:
        name: of the file, as a path within the data.
        size: its bytes.
        beginning: gives at least so many of its first ones, where there are as many.
        images: that it may name.
    Raises: UserError for a file of such a name that cannot be read.
    """
    if is_table(name):
        return _csv_reader(name, beginning, images) if name.endswith(".csv") else json_rows
    if _may_be_known(name):
        return _known_reader(name, beginning)
    if not _may_be_json(name) or size > LARGEST:
        return None
    folder = PurePosixPath(name).parent
    return json_reader(name, beginning(size), lambda called: images.find(folder, called) is not None)


def _csv_reader(name: str, beginning: Callable[[int], bytes], images: ImageNames) -> Reader:
    """The rows of a .csv; where no column is called as those of images are, that which names most images is theirs."""
    head = beginning(MAX_ROW)[:MAX_ROW].decode("utf-8-sig", "replace").splitlines()[:PEEKED]
    try:
        names, *rows = csv.reader(head, delimiter=delimiter_of(head[0] if head else ""))
    except (csv.Error, ValueError):  # what is wrong with it is said where it is read
        return csv_rows
    called, folder = [column.strip().lower() for column in names], PurePosixPath(name).parent
    if set(FILE_COLUMNS) & set(called):
        return csv_rows
    found: dict[str, set[str]] = {}
    for column, *cells in zip(called, *(row for row in rows if len(row) == len(names)), strict=True):
        found[column] = {image for cell in cells if (image := images.find(folder, cell)) is not None}
        if 2 * len(found[column]) <= len(cells):
            del found[column]
    if not found:
        return csv_rows
    return partial(csv_rows, renamed={max(found, key=lambda column: len(found[column])): FILE_COLUMNS[0]})


def _may_be_json(name: str) -> bool:
    return name.lower().endswith(".json") and not without_captions(name)


def _may_be_known(name: str) -> bool:
    own = PurePosixPath(name).name.lower()
    return own in NAMES or own.endswith((".token", ".token.txt"))


def _known_reader(name: str, beginning: Callable[[int], bytes]) -> Reader | None:
    own = PurePosixPath(name).name.lower()
    if own in ("list_attr_celeba.txt", "list_eval_partition.txt"):
        return _attributes if "attr" in own else _parts
    if own in ("list_attr_celeba.csv", "list_eval_partition.csv"):
        return csv_rows if "attr" in own else lambda lines: map(_as_part, csv_rows(lines))
    head = beginning(MAX_ROW)[:MAX_ROW].split(b"\n", 1)[0].decode("utf-8-sig", "replace").strip()
    called = {column.strip().lower() for column in re.split(r"[,;\t|]", head)}
    if own == "captions.txt":
        return csv_rows if called & set(FILE_COLUMNS) and called & set(TEXT_COLUMNS) else None
    if own == "results.csv":
        flickr = {"image_name": "file_name", "comment": "text"}
        return partial(csv_rows, renamed=flickr) if flickr.keys() <= called else None
    return _tokens if TOKEN.fullmatch(head) else None


def _attributes(lines: Lines) -> Iterator[Row]:
    """CelebA's list_attr_celeba.txt: how many images, the names of the attributes, then a row an image."""
    names: list[str] = []
    for number, fields in _spaced(lines):
        if number == 1 and len(fields) == 1:
            continue
        if not names:
            names = fields
            if len(names) > MOST_COLUMNS:
                raise UserError(f"{lines.file} names {len(names):,} attributes, at most {MOST_COLUMNS} are read")
            continue
        if len(fields) != len(names) + 1:
            raise UserError(f"{lines.file} line {number} has {len(fields) - 1} values for {len(names)} attributes")
        cells, odd = fields_of(dict[str, object](zip(names, fields[1:], strict=True)))
        yield Row(number, fields[0], (), cells=cells, odd=odd)


def _parts(lines: Lines) -> Iterator[Row]:
    """CelebA's list_eval_partition.txt: a file and the number of its part."""
    for number, fields in _spaced(lines):
        if len(fields) != 2:
            raise UserError(f"{lines.file} line {number} has {len(fields)} fields: give a file and 0, 1 or 2")
        cells, odd = fields_of({"partition": fields[1]})
        yield _as_part(Row(number, fields[0], (), cells=cells, odd=odd))


def _as_part(row: Row) -> Row:
    cells = {PART if name == "partition" else name: cell for name, cell in row.cells.items()}
    return replace(row, cells=cells | {PART: CELEBA_PARTS.get(str(cells.get(PART)), cells.get(PART))})


def split_column(columns: Cells, part: list[str]) -> tuple[list[str], Cells, tuple[str, ...]]:
    """(part of each image, the other columns, sentences): by the column split, where no image has a part already."""
    if any(part) or PART not in columns:
        return part, columns, ()
    found, notes = parts_of_column(columns)
    if any(found):
        columns = {name: cells for name, cells in columns.items() if name != PART}
    return found, columns, notes


def parts_of_column(cells: Cells) -> tuple[list[str], tuple[str, ...]]:
    """(the part of each image by the column split, sentences); no part where the column does not say one of each."""
    texts = [cell.strip().lower() if isinstance(cell, str) else "" for cell in cells.get(PART, ())]
    parts = [(part_of(text) or ("", ""))[0] for text in texts]
    if "train" not in parts or len(set(parts) - {""}) < 2:
        return [""] * len(parts), ()
    if bare := parts.count(""):
        said = f"the column {PART} is not read as parts: {counted(bare, 'image')} without train, validation and test"
        return [""] * len(parts), (said,)
    return parts, (f"the parts are those of the column {PART}; set data.split=content to split by content instead",)


def _tokens(lines: Lines) -> Iterator[Row]:
    """Flickr's .token: file#number, a tab, a caption."""
    for number, line in enumerate(lines, start=1):
        lines.spent = 0
        if not line.strip():
            continue
        found = TOKEN.fullmatch(line.strip())
        if found is None:
            raise UserError(f"{lines.file} line {number} is not a file, #, a number, a tab and a caption")
        yield Row(number, found[1], tuple(one_line_each([found[2]])), TEXT_COLUMNS[0])


def _spaced(lines: Lines) -> Iterator[tuple[int, list[str]]]:
    """(number, fields) of each line that is not empty."""
    for number, line in enumerate(lines, start=1):
        lines.spent = 0
        if fields := line.split():
            yield number, fields
