"""Captions of a folder of images: tables with `file_name` and `text` in any of its folders, or a text beside each one.

A file of captions may be a link, for so are those of many tools that keep contents in a store. But it must lead to a
regular file in the data's folder, or in one where an image that it belongs to really lies: anything else could make a
file of the person's, or of the system's, a caption of somebody's model. A `file_name` is compared and never opened.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TextIO, final

from markovae.data.file_names import TEXT_ENDINGS, comparable, some
from markovae.data.image_files import reason_of
from markovae.errors import UserError
from markovae.log import printable
from markovae.system.regular import open_regular

NAMES = ("captions.csv", "metadata.csv", "metadata.jsonl")
# What columns are called: of images, and of their texts, the first that is there.
FILE_COLUMNS = ("file_name", "filename", "file", "image", "image_path", "path")
TEXT_COLUMNS = ("text", "caption", "captions", "prompt", "description")
DELIMITERS = (",", ";", "\t")
MAX_SIDECAR = 1 << 16  # bytes
MAX_TABLE = 1 << 30  # bytes
MAX_ROW = 1 << 20  # characters
LISTED = 20  # images without a caption that are named


def read_captions(
    folder: Path, paths: Sequence[str], others: Sequence[str]
) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """The captions of each image, a line each ("" where it has none), and notes; None without any caption.

    An image may come in several rows, or with a list of texts (JSON), or with several lines (.txt): each is a caption.
    Names are compared in composed characters (NFC), for some systems store them decomposed.

    Args:
        paths: images below `folder`, "/" between names.
        others: the files there that are no images; a table names images as from the folder that it lies in, or as from
            `folder` ("\\" is understood too).
    Raises: UserError where two tables of one folder have captions, where a row cannot be read or names no image, and
        for a file that is not text.
    """
    tables = [name for name in others if is_table(name)]
    for name in tables:
        _require_own(folder / name, folder, paths)
    read = [_Table(folder, name, paths) for name in tables]
    captioned = [table for table in read if table.texts]
    for first, second in itertools.pairwise(captioned):
        if first.folder == second.folder:
            raise UserError(
                f"{folder / first.folder} holds both {first.name} and {second.name}: keep the one that is meant"
            )
    notes = [note for table in read for note in table.notes]
    beside, orphans = sidecars(paths, others)
    texts: dict[str, list[str]] = {}
    if captioned:
        for table in captioned:
            for path, lines in table.texts.items():
                texts.setdefault(path, []).extend(lines)
        if beside:
            notes.append(
                f"{len(beside)} {_endings(beside.values())} files beside images are skipped: captions are read from "
                f"{captioned[0].name}"
            )
    elif beside:
        for path, name in beside.items():
            _require_own(folder / name, folder, [path])
        texts = {path: _text_of(folder / name) for path, name in beside.items()}
        notes.append(f"captions from {_endings(beside.values())} files")
    if orphans:
        them = "1 text file belongs" if len(orphans) == 1 else f"{len(orphans):,} text files belong"
        notes.append(f"{them} to no readable image ({some(orphans)})")
    if not captioned and not beside:
        return None, tuple(notes)
    captions = tuple("\n".join(texts.get(path, ())) for path in paths)
    bare = [path for path, caption in zip(paths, captions, strict=True) if not caption]
    if bare:
        shown = ", ".join(bare[:LISTED]) + (", …" if len(bare) > LISTED else "")
        notes.append(f"{len(bare)} of {len(paths)} images have no caption ({shown})")
    several = sum("\n" in caption for caption in captions)
    if several:
        notes.append(f"{several} images have several captions: training draws one of them each time")
    return captions, tuple(notes)


def is_table(name: str) -> bool:
    """Whether a file is a table of captions, by its name."""
    return PurePosixPath(name).name in NAMES


def is_text_file(name: str) -> bool:
    """Whether a file may hold the caption of the image beside it."""
    return PurePosixPath(name).suffix.lower() in TEXT_ENDINGS


def sidecars(paths: Sequence[str], others: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """({image: the text file beside it}, text files without an image): x.txt, x.caption or x.png.txt of x.png.

    A .txt comes before a .caption; endings may be in capitals.
    """
    found = {_sidecar_key(name): name for name in sorted(others, reverse=True) if is_text_file(name)}
    beside: dict[str, str] = {}
    for path in paths:
        own = comparable(path)
        stems = (own.removesuffix(PurePosixPath(own).suffix), own)
        names = (found.get(stem + ending) for ending in TEXT_ENDINGS for stem in stems)
        if (name := next(filter(None, names), None)) is not None:
            beside[path] = name
    used = set(beside.values())
    return beside, [name for name in sorted(found.values()) if name not in used]


def _sidecar_key(name: str) -> str:
    own, ending = comparable(name), PurePosixPath(name).suffix
    return own.removesuffix(ending) + ending.lower()


def _endings(names: Iterable[str]) -> str:
    return " and ".join(sorted({PurePosixPath(name).suffix.lower() for name in names}, reverse=True))


def _require_own(file: Path, folder: Path, paths: Sequence[str]) -> None:
    """Refuse a file of captions that a link leads away from the data.

    Args:
        paths: of the images it belongs to.
    Raises: UserError naming the link and where it leads.
    """
    try:
        real, own = file.resolve(strict=True), folder.resolve()
        if real.is_relative_to(own) or any((folder / path).resolve().parent == real.parent for path in paths):
            return
    except (OSError, RuntimeError) as error:
        raise UserError(f"{file} cannot be read ({reason_of(error)})") from None
    raise UserError(
        f"{file} leads to {real}, which lies neither in {folder} nor with its image, and whose text would become a "
        "caption: put a copy there, or remove the link"
    )


def _text_of(file: Path) -> list[str]:
    try:
        with open_regular(file) as handle:
            content = handle.read(MAX_SIDECAR + 1)
        if len(content) > MAX_SIDECAR:
            raise UserError(f"{file} has more than {MAX_SIDECAR:,} bytes: a caption file holds a caption a line")
        return one_line_each(content.decode("utf-8-sig").splitlines())
    except UnicodeDecodeError:
        raise UserError(f"{file} is not UTF-8 text: save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read ({reason_of(error)})") from None


def is_text(text: str) -> bool:
    """Whether it is valid Unicode: bytes that are not UTF-8 arrive as lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def one_line_each(texts: Sequence[str]) -> list[str]:
    """Texts on one line each, the empty ones left out."""
    return [line for line in (" ".join(text.split()) for text in texts) if line]


@final
class _Table:
    """A table of captions, read whole.

    Args:
        folder: of the data.
        name: of the table's file, below it.
        paths: of the images.
    Raises: UserError for a row that cannot be read, and where no row names an image.
    """

    def __init__(self, folder: Path, name: str, paths: Sequence[str]) -> None:
        self.file, self.folder = folder / name, PurePosixPath(name).parent
        self.name, self.texts, self.notes = name, dict[str, list[str]](), list[str]()
        self._paths = {comparable(path): path for path in paths}
        strangers: dict[str, None] = {}
        bare: list[int] = []
        unused: dict[str, None] = {}
        column = ""
        try:
            for row in _csv_rows(self.file) if self.file.suffix == ".csv" else _json_rows(self.file):
                unused |= dict.fromkeys(row.unused)
                column = column or row.column
                if not row.texts:
                    bare.append(row.line)
                    continue
                path = self._image(row.file_name)
                if path is None:
                    strangers[row.file_name] = None
                else:
                    self.texts.setdefault(path, []).extend(row.texts)
        except UnicodeDecodeError:
            raise UserError(f"{self.file} is not UTF-8 text: save it as UTF-8") from None
        except csv.Error as error:
            raise UserError(f"{self.file} is not valid CSV ({error}): look for an unclosed quotation mark") from None
        except OSError as error:
            raise UserError(f"{self.file} cannot be read ({reason_of(error)})") from None
        if strangers and not self.texts:
            raise UserError(
                f"{self.file} matches no image of the {len(paths)} ({next(iter(strangers))}, …): "
                "file_name is the path below the folder"
            )
        self._remark(column, list(strangers), bare, list(unused))

    def _image(self, name: str) -> str | None:
        """The image that a row names, from the table's own folder or from the data's."""
        own = comparable(name)
        return self._paths.get(comparable(str(self.folder / own)), self._paths.get(own))

    def _remark(self, column: str, strangers: list[str], bare: list[int], unused: list[str]) -> None:
        if self.texts:
            called = "" if column == TEXT_COLUMNS[0] else f" (column {printable(column)})"
            self.notes.append(f"captions from {self.name}{called}")
        elif unused or bare:
            self.notes.append(f"{self.name} has no captions: none of the columns {', '.join(TEXT_COLUMNS)}")
        if strangers:
            them = "1 caption names" if len(strangers) == 1 else f"{len(strangers)} captions name"
            self.notes.append(f"{them} a file that is not a readable image ({some(strangers)})")
        if bare and self.texts:
            them = "1 row has" if len(bare) == 1 else f"{len(bare):,} rows have"
            self.notes.append(f"{them} no text in {self.name} (line {bare[0]})")
        if unused:
            column, verb = ("column", "is") if len(unused) == 1 else ("columns", "are")
            self.notes.append(f"the {column} {some(unused)} of {self.name} {verb} not used")


@dataclass(frozen=True)
class _Row:
    """A row of a table: its line, the image it names, its captions, and the columns that are not read."""

    line: int
    file_name: str
    texts: tuple[str, ...]
    column: str = ""
    unused: tuple[str, ...] = ()


def _row(file: Path, line: int, fields: dict[str, object]) -> _Row:
    """A row from its fields. Raises: UserError for an image's name or a text that is no text, naming the line."""
    key = next((name for name in FILE_COLUMNS if name in fields), "")
    column = next((name for name in TEXT_COLUMNS if name in fields), "")
    name, text = fields.get(key), fields.get(column)
    if not key and not column:
        return _Row(line, "", (), unused=tuple(map(str, fields)))
    each = [one for one in (text if isinstance(text, list) else [text]) if one is not None]
    if not isinstance(name, str) or not name or not all(isinstance(one, str) for one in each):
        raise UserError(f"{file} line {line} must have a file_name and a text, both strings")
    texts = [str(one) for one in each]
    if not all(map(is_text, [name, *texts])):
        raise UserError(f"{file} line {line} holds half a character (a lone surrogate): write it in UTF-8")
    unused = tuple(str(field) for field in fields if field not in (key, column))
    return _Row(line, name, tuple(one_line_each(texts)), column, unused)


@final
class _Lines:
    """The lines of a table, at most `MAX_ROW` characters of them to a row, so that no row fills the memory.

    Whoever has a row sets `spent` to 0.
    """

    def __init__(self, file: Path, handle: TextIO) -> None:
        self.file, self.handle, self.spent = file, handle, 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self.handle.readline(MAX_ROW + 1)
        if not line:
            raise StopIteration
        self.spent += len(line)
        if self.spent > MAX_ROW:
            raise UserError(f"{self.file} has a row of more than {MAX_ROW:,} characters: look for a missing line end")
        return line


@contextmanager
def _lines(file: Path) -> Iterator[_Lines]:
    """The lines of a table, ends and all. Raises: UserError for a table or a row that is too large."""
    with open_regular(file) as handle:
        size = os.fstat(handle.fileno()).st_size
        if size > MAX_TABLE:
            raise UserError(f"{file} has {size:,} bytes, at most {MAX_TABLE:,} are read: split the folder")
        yield _Lines(file, io.TextIOWrapper(handle, encoding="utf-8-sig", newline=""))


def _csv_rows(file: Path) -> Iterator[_Row]:
    with _lines(file) as lines:
        head = next(lines, "")
        delimiter = max(DELIMITERS, key=head.count)
        names = next(csv.reader([head], strict=True, delimiter=delimiter), [])
        names = [name.strip() for name in names]
        if not set(names) & set(FILE_COLUMNS) and (set(names) & set(TEXT_COLUMNS) or file.name == NAMES[0]):
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
            yield _row(file, line, dict(zip(names, values, strict=True)))


def _json_rows(file: Path) -> Iterator[_Row]:
    with _lines(file) as lines:
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
            yield _row(file, number, row)
