"""Tables of images as one JSON file: captions of COCO and Karpathy, lists of records, what is said by file name."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from markovae.data.metadata import FILE_COLUMNS, TEXT_COLUMNS, Lines, Reader, Row, json_rows, row_of
from markovae.errors import UserError
from markovae.strict_json import parse, parse_object

LARGEST = 1 << 28  # bytes: read at once, it takes several times as much memory
OBJECTS = ("instances_", "panoptic_", "person_keypoints_", "stuff_", "image_info_")  # of COCO, without captions
KARPATHY = {"restval": "train", "val": "validation"}
RAW = "raw"
MEANT = ("metadata", "caption", "label", "class", "annotation", "prompt", "tags")  # names of tables, as they begin


def without_captions(name: str) -> bool:
    """Whether a file is called like those of COCO that hold objects, masks or poses."""
    own = PurePosixPath(name).name.lower()
    return own.endswith(".json") and own.startswith(OBJECTS)


def json_reader(name: str, content: bytes, is_image: Callable[[str], bool]) -> Reader | None:
    """How the rows of a JSON file are read that says something of some of the images; None for another one.

    Args:
        name: of the file, as a path within the data.
        is_image: whether one of the images is called so.
    Raises: UserError for what is no JSON, and yet called as tables of images are.
    """
    try:
        rows, names = _understood(name, parse(content, finite=False))
    except ValueError as error:
        rows, names = _lines(content)
        if rows is None and PurePosixPath(name).name.lower().startswith(MEANT):
            raise UserError(f"{name} {error}: correct it, or remove the file") from None
    return rows if any(isinstance(one, str) and is_image(one) for one in names) else None


def _lines(content: bytes) -> tuple[Reader | None, Iterable[Any]]:
    """The same of a metadata.jsonl that is called .json: its first line is an object of its own."""
    first = content.removeprefix(codecs.BOM_UTF8).lstrip().partition(b"\n")[0]
    try:
        return json_rows, _files_of([parse_object(first, finite=False)])
    except ValueError:
        return None, ()


def _understood(name: str, table: Any) -> tuple[Reader | None, Iterable[Any]]:
    """(how the rows are read, the files that they name)."""
    if isinstance(table, list):
        return partial(_records, rows=_objects(table)), _files_of(_objects(table))
    if not isinstance(table, dict):
        return None, ()
    images, annotations = (_objects(table.get(key)) for key in ("images", "annotations"))
    if any("caption" in one for one in annotations):
        return partial(_coco, images=images, annotations=annotations), _files_of(images)
    if any("sentences" in one for one in images):
        return partial(_karpathy, images=images), _files_of(images)
    for rows in (_objects(table.get(key)) for key in ("data", "rows")):
        if rows:
            return partial(_records, rows=rows), _files_of(rows)
    labels = PurePosixPath(name).name.lower().startswith(("label", "class"))
    return partial(_by_name, table=table, labels=labels), table


def _objects(rows: Any) -> list[dict[str, Any]]:
    """A list of objects; else none."""
    return rows if isinstance(rows, list) and all(isinstance(row, dict) for row in rows) else []


def _files_of(rows: list[dict[str, Any]]) -> Iterator[Any]:
    for row in rows:
        yield next((value for key, value in row.items() if key.lower() in FILE_COLUMNS), None)


def _records(lines: Lines, rows: list[dict[str, Any]]) -> Iterator[Row]:
    """[{"file_name": …, "text": …, …}, …], as metadata.jsonl has them a line each."""
    for number, row in enumerate(rows, start=1):
        yield row_of(lines.file, number, row, "record")


def _by_name(lines: Lines, table: Mapping[str, Any], labels: bool) -> Iterator[Row]:
    """{file: text, several texts, a class or a record}."""
    for number, (name, value) in enumerate(table.items(), start=1):
        if isinstance(value, dict):
            fields = {key: cell for key, cell in value.items() if str(key).lower() not in FILE_COLUMNS}
        else:
            said = TEXT_COLUMNS[0] if isinstance(value, str | list) and not labels else "label"
            fields = {said: value}
        yield row_of(lines.file, number, {FILE_COLUMNS[0]: name, **fields}, "entry")


def _coco(lines: Lines, images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> Iterator[Row]:
    """{"images": [{"id", "file_name"}, …], "annotations": [{"image_id", "caption"}, …]}."""
    files = {str(image.get("id")): image.get("file_name") for image in images}
    for number, one in enumerate(annotations):
        file = files.get(str(one.get("image_id")))
        if file is None:
            raise UserError(
                f"{lines.file} has annotations[{number}] of the image {str(one.get('image_id'))[:40]}, which its "
                "images do not name: correct it, or remove the file"
            )
        fields = {FILE_COLUMNS[0]: file, "caption": one.get("caption")}
        yield row_of(lines.file, number + 1, fields, "annotation")


def _karpathy(lines: Lines, images: list[dict[str, Any]]) -> Iterator[Row]:
    """{"images": [{"filename", "split", "sentences": [{"raw"}, …]}, …]}."""
    for number, image in enumerate(images, start=1):
        sentences = image.get("sentences")
        texts = [one.get(RAW) for one in sentences if isinstance(one, dict)] if isinstance(sentences, list) else []
        part = str(image.get("split", ""))
        fields = {FILE_COLUMNS[0]: image.get("filename"), "text": texts, "split": KARPATHY.get(part, part)}
        yield row_of(lines.file, number, fields, "image")
