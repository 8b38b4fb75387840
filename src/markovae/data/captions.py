"""Captions of a folder of images: captions.csv or metadata.jsonl, with `file_name` and `text`; or a .txt per image.

A file of captions may be a link, for so are those of many tools that keep contents in a store. But it must lead to a
regular file in the data's folder, or in one where an image that it belongs to really lies: anything else could make a
file of the person's, or of the system's, a caption of somebody's model. A `file_name` is compared and never opened.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TextIO, final

from markovae.data.image_files import reason_of
from markovae.errors import UserError
from markovae.system.regular import open_regular

NAMES = ("captions.csv", "metadata.jsonl")
MAX_SIDECAR = 1 << 16  # bytes
MAX_TABLE = 1 << 30  # bytes
MAX_ROW = 1 << 20  # characters
LISTED = 20  # images without a caption that are named


def read_captions(folder: Path, paths: Sequence[str]) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """The captions of each image, a line each ("" where it has none), and notes; None without any file of captions.

    An image may come in several rows, or with a list of texts (JSON), or with several lines (.txt): each is a caption.

    Args:
        paths: images below `folder`, "/" between names, as `file_name` names them ("\\" is understood too).
    Raises: UserError where both files exist, or a row has no file_name or text, or a file is not text.
    """
    present = [folder / name for name in NAMES if (folder / name).is_file()]
    for table in present:
        _require_own(table, folder, paths)
    beside = {path: file for path in paths if (file := sidecar(folder, path)) is not None}
    if len(present) > 1:
        raise UserError(f"{folder} holds both {NAMES[0]} and {NAMES[1]}: keep the one that is meant")
    if present:
        texts, notes = _from_table(present[0], paths)
        if beside:
            notes.append(
                f"{len(beside)} .txt files beside images are skipped: captions are read from {present[0].name}"
            )
    elif beside:
        for path, file in beside.items():
            _require_own(file, folder, [path])
        texts, notes = {path: _text_of(file) for path, file in beside.items()}, ["captions from .txt files"]
    else:
        return None, ()
    captions = tuple("\n".join(texts.get(path, ())) for path in paths)
    bare = [path for path, caption in zip(paths, captions, strict=True) if not caption]
    if bare:
        shown = ", ".join(bare[:LISTED]) + (", …" if len(bare) > LISTED else "")
        notes.append(f"{len(bare)} of {len(paths)} images have no caption ({shown})")
    several = sum("\n" in caption for caption in captions)
    if several:
        notes.append(f"{several} images have several captions: training draws one of them each time")
    return captions, tuple(notes)


def sidecar(folder: Path, path: str) -> Path | None:
    """The .txt file beside an image, if there is one."""
    file = folder / PurePosixPath(path).with_suffix(".txt")
    return file if file.is_file() else None


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


def _from_table(file: Path, paths: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    rows = _csv_rows(file) if file.suffix == ".csv" else _json_rows(file)
    texts: dict[str, list[str]] = {}
    try:
        for line, name, text in rows:
            each = text if isinstance(text, list) else [text]
            if not isinstance(name, str) or not all(isinstance(one, str) for one in each):
                raise UserError(f"{file} line {line} must have a file_name and a text, both strings")
            if not all(is_text(str(one)) for one in each):
                raise UserError(f"{file} line {line} holds half a character (a lone surrogate): write it in UTF-8")
            name = name.replace("\\", "/").removeprefix("./")
            texts.setdefault(name, []).extend(one_line_each([str(one) for one in each]))
    except UnicodeDecodeError:
        raise UserError(f"{file} is not UTF-8 text: save it as UTF-8") from None
    except csv.Error as error:
        raise UserError(f"{file} is not valid CSV ({error}): look for an unclosed quotation mark") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read ({reason_of(error)})") from None
    if texts and not set(texts) & set(paths):
        raise UserError(
            f"{file} matches no image of the {len(paths)} ({next(iter(texts))}, …): "
            "file_name is the path below the folder"
        )
    notes = [f"captions from {file.name}"]
    strangers = len(set(texts) - set(paths))
    if strangers:
        them = "1 caption names" if strangers == 1 else f"{strangers} captions name"
        notes.append(f"{them} a file that is not a readable image")
    return texts, notes


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


def _csv_rows(file: Path) -> Iterator[tuple[int, object, object]]:
    with _lines(file) as lines:
        reader = csv.DictReader(lines, strict=True)
        if not {"file_name", "text"} <= set(reader.fieldnames or ()):
            raise UserError(f"{file} must begin with a line naming the columns file_name and text")
        for row in reader:
            lines.spent = 0
            yield reader.line_num, row["file_name"], row["text"]


def _json_rows(file: Path) -> Iterator[tuple[int, object, object]]:
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
            yield number, row.get("file_name"), row.get("text")
