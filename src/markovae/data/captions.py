"""What is written beside the images of a folder: tables with `file_name` in any of its folders, or a text for each one.

A file of captions may be a link, for so are those of many tools that keep contents in a store. But it must lead to a
regular file in the data's folder, or in one where an image that it belongs to really lies: anything else could make a
file of the person's, or of the system's, a caption of somebody's model. A `file_name` is compared and never opened.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from markovae.columns import Cell, Cells
from markovae.data.file_names import TEXT_ENDINGS, by_ending, comparable, hidden, some
from markovae.data.known_tables import may_be_table, table_reader
from markovae.data.metadata import (
    ImageNames,
    Official,
    Table,
    is_table,
    official_labels,
    one_line_each,
    open_table,
    record_of,
)
from markovae.errors import UserError, reason_of
from markovae.log import counted
from markovae.system.regular import open_regular

RECORDS = (".json",)
MAX_SIDECAR = 1 << 16  # bytes
LISTED = 20  # images without a caption that are named
MOST_STRAY = 64  # .json files beside no image of their name that are looked into


@dataclass(frozen=True)
class Written:
    """What is written beside images.

    Args:
        captions: of each image, a line each, "" where it has none; None without any caption.
        columns: all else that tables say of each.
        notes: sentences.
        records: the files that were read beside tables and texts of images.
    """

    captions: tuple[str, ...] | None = None
    columns: Cells = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    records: frozenset[str] = frozenset()

    def joined(self, captions: Sequence[str], columns: Cells) -> tuple[list[str], Cells]:
        """Captions and columns that images bring themselves, and where they bring none, those that are written."""
        texts = [own or said for own, said in zip(captions, self.captions or captions, strict=True)]
        both = dict(self.columns)
        for name, cells in columns.items():
            beside = self.columns.get(name, cells)
            both[name] = tuple(said if own is None else own for own, said in zip(cells, beside, strict=True))
        return texts, both


def read_written(folder: Path, paths: Sequence[str], others: Sequence[str]) -> Written:
    """The captions of images, and the columns of the tables beside them.

    An image may come in several rows, or with a list of texts (JSON), or with several lines (.txt): each is a caption.
    Names are compared in composed characters (NFC), for some systems store them decomposed.

    Args:
        paths: images below `folder`, "/" between names.
        others: the files there that are no images; a table names images as from the folder that it lies in, or as from
            `folder` ("\\" is understood too).
    Raises: UserError where two tables of one folder have captions, where a row cannot be read or names no image, and
        for a file that is not text.
    """
    images, read = ImageNames(paths), list[Table]()
    records_beside, stray = sidecars(paths, others, RECORDS)
    passed = {*itertools.chain(*records_beside.values()), DATASET, *stray[MOST_STRAY:]}
    for name in [name for name in others if may_be_table(name) and name not in passed]:
        if name in stray and not _is_own(folder / name, folder, paths):
            continue
        _require_own(folder / name, folder, paths)
        with open_table(folder / name) as handle:
            size = os.fstat(handle.fileno()).st_size
            rows = table_reader(name, size, partial(_beginning, handle), images)
            if rows is not None:
                read.append(Table(str(folder / name), name, handle, images, rows))
    known = frozenset(table.name for table in read)
    others = [name for name in others if name not in known]
    captioned = [table for table in read if table.texts]
    for first, second in itertools.pairwise(captioned):
        if first.folder == second.folder and first.texts.keys() & second.texts.keys():
            raise UserError(
                f"{folder / first.folder} holds both {first.name} and {second.name}: keep the one that is meant"
            )
    notes = [note for table in read for note in table.notes]
    beside, orphans = sidecars(paths, others)
    every_text = {name for names in beside.values() for name in names}
    texts: dict[str, list[str]] = {}
    if captioned:
        for table in captioned:
            for path, lines in table.texts.items():
                texts.setdefault(path, []).extend(lines)
        if beside:
            notes.append(
                f"{len(every_text)} {_endings(every_text)} files beside images are skipped: captions are read from "
                f"{captioned[0].name}"
            )
    elif beside:
        for path, names in beside.items():
            for name in names:
                _require_own(folder / name, folder, [path])
                texts.setdefault(path, []).extend(_text_of(folder / name))
        notes.append(f"captions from {_endings(every_text)} files")
    if orphans:
        them = "1 text file belongs" if len(orphans) == 1 else f"{len(orphans):,} text files belong"
        named = "" if beside or captioned else ": a text is called as its image, x.txt beside x.png"
        notes.append(f"{them} to no readable image ({some(orphans)}){named}")
    records, said, cells = _records(folder, paths, others)
    for path, lines in said.items():
        texts.setdefault(path, lines)
    if records:
        notes.append(f"{len(records):,} .json files beside images are read, as captions and columns")
    official = _official(folder, images, others)
    if official is not None:
        notes += official.notes
        records |= {DATASET}
    records |= known
    classes = [official.cells] if official is not None else []
    columns = columns_of([*classes, cells, *(table.cells for table in read)], paths)
    if not texts:
        return Written(None, columns, tuple(notes), records)
    captions = tuple("\n".join(texts.get(path, ())) for path in paths)
    bare = [path for path, caption in zip(paths, captions, strict=True) if not caption]
    if bare:
        shown = ", ".join(bare[:LISTED]) + (", …" if len(bare) > LISTED else "")
        notes.append(f"{len(bare)} of {len(paths)} images have no caption ({shown})")
    several = sum("\n" in caption for caption in captions)
    if several:
        notes.append(f"{several} images have several captions: training draws one of them each time")
    return Written(captions, columns, tuple(notes), records)


def written_beside(folder: Path, names: Sequence[str], own: Collection[str]) -> Written:
    """What the tables beside tars or parquet files say of the images in these.

    A table that cannot be read, or names none of the images, is left out, and so is every other file: both are named.

    Args:
        names: of the images, each "archive/path within"; one without a name is "archive:row".
        own: the files of the data themselves.
    """
    images, read, notes, rest = ImageNames(names, packed=True), list[Table](), list[str](), list[str]()
    official = dict[str, dict[str, Cell]]()
    for name in _others_in(folder, own):
        if not may_be_table(name):
            rest.append(name)
            continue
        try:
            _require_own(folder / name, folder, ())
            with open_table(folder / name) as handle:
                if name == DATASET and (said := official_labels(handle.read(), name, images)) is not None:
                    official, notes = said.cells, [*notes, *said.notes]
                    continue
                handle.seek(0)
                size = os.fstat(handle.fileno()).st_size
                rows = table_reader(name, size, partial(_beginning, handle), images)
                if rows is None:
                    rest.append(name)
                else:
                    read.append(Table(name, name, handle, images, rows))
        except UserError as error:
            notes.append(f"the table {name} is left out: {error}")
    notes += [note for table in read for note in table.notes]
    notes += _not_read(rest)
    texts = ["\n".join(line for table in read for line in table.texts.get(path, ())) for path in names]
    columns = columns_of([official, *(table.cells for table in read)], names)
    return Written(tuple(texts) if any(texts) else None, columns, tuple(notes))


def rest_note(folder: Path, own: Collection[str]) -> tuple[str, ...]:
    """A sentence on the files beside data that bring all that is known of them, if there are any."""
    return _not_read(_others_in(folder, own))


def _others_in(folder: Path, own: Collection[str]) -> list[str]:
    there = (item.name for item in folder.iterdir() if item.is_file() and not hidden(item.name))
    return sorted(name for name in there if name not in own)


def _not_read(names: Sequence[str]) -> tuple[str, ...]:
    verb = "is" if len(names) == 1 else "are"
    return (
        (f"{counted(len(names), 'other file')} beside the data {verb} not read ({by_ending(names)})",) if names else ()
    )


def tables_note(folder: Path, own: Collection[str]) -> tuple[str, ...]:
    """A sentence on the tables beside shards that are read without them, if there are any."""
    names = list(filter(is_table, _others_in(folder, own)))
    verb = "is" if len(names) == 1 else "are"
    return (f"{some(names)} beside the shards {verb} not read: name their folder to join them",) if names else ()


def _beginning(handle: BinaryIO, size: int) -> bytes:
    content = handle.read(size)
    handle.seek(0)
    return content


DATASET = "dataset.json"  # of StyleGAN and EDM


def _official(folder: Path, images: ImageNames, others: Sequence[str]) -> Official | None:
    """What dataset.json says, as StyleGAN and EDM write it."""
    if DATASET not in others:
        return None
    _require_own(folder / DATASET, folder, images.paths)
    with open_table(folder / DATASET) as handle:
        return official_labels(handle.read(), str(folder / DATASET), images)


def _records(
    folder: Path, paths: Sequence[str], others: Sequence[str]
) -> tuple[frozenset[str], dict[str, list[str]], dict[str, dict[str, Cell]]]:
    """(the .json files beside images, the captions in them, the other cells)."""
    beside, _ = sidecars(paths, others, RECORDS)
    texts, cells = dict[str, list[str]](), dict[str, dict[str, Cell]]()
    for path, (name, *_) in beside.items():
        _require_own(folder / name, folder, [path])
        with open_regular(folder / name) as handle:
            content = handle.read(MAX_SIDECAR + 1)
        lines, own, _ = record_of(content if len(content) <= MAX_SIDECAR else b"")
        if lines:
            texts[path] = lines
        cells[path] = own
    return frozenset(name for path, (name, *_) in beside.items() if cells[path] or path in texts), texts, cells


def columns_of(tables: Iterable[Mapping[str, Mapping[str, Cell]]], paths: Sequence[str]) -> dict[str, tuple[Cell, ...]]:
    """The cells of every column of some tables, {image: {column: cell}}; the first cell that is there counts."""
    found: dict[str, dict[str, Cell]] = {}
    for table in tables:
        for path, cells in table.items():
            for name, cell in cells.items():
                own = found.setdefault(name, {})
                own[path] = cell if own.get(path) is None else own[path]
    return {name: tuple(map(own.get, paths)) for name, own in found.items()}


def is_text_file(name: str) -> bool:
    """Whether a file may hold the caption of the image beside it."""
    return _ends(name, TEXT_ENDINGS)


def _ends(name: str, endings: Sequence[str]) -> bool:
    return PurePosixPath(name).suffix.lower() in endings


def sidecars(
    paths: Sequence[str], others: Sequence[str], endings: Sequence[str] = TEXT_ENDINGS
) -> tuple[dict[str, list[str]], list[str]]:
    """({image: the text files beside it}, text files without an image): x.txt, x.caption or x.png.txt of x.png.

    A .txt comes before a .caption, and each is read; endings may be in capitals.
    """
    found = {_sidecar_key(name): name for name in sorted(others, reverse=True) if _ends(name, endings)}
    beside: dict[str, list[str]] = {}
    for path in paths:
        own = comparable(path)
        stems = (own.removesuffix(PurePosixPath(own).suffix), own)
        if names := [name for ending in endings for stem in stems if (name := found.get(stem + ending)) is not None]:
            beside[path] = names
    used = set(itertools.chain(*beside.values()))
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
        if _is_own(file, folder, paths):
            return
    except (OSError, RuntimeError) as error:
        raise UserError(f"{file} cannot be read ({reason_of(error)})") from None
    raise UserError(
        f"{file} leads to {file.resolve()}, which lies neither in {folder} nor with its image, and whose text would "
        "become a caption: put a copy there, or remove the link"
    )


def _is_own(file: Path, folder: Path, paths: Sequence[str]) -> bool:
    """Whether a file really lies in the data, or with one of these images."""
    real = file.resolve(strict=True)
    return real.is_relative_to(folder.resolve()) or any(
        (folder / path).resolve().parent == real.parent for path in paths
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
