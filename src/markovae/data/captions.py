"""Captions beside a folder of images: captions.csv or metadata.jsonl, with `file_name` and `text`."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from markovae.errors import UserError

NAMES = ("captions.csv", "metadata.jsonl")


def read_captions(folder: Path, paths: Sequence[str]) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """The caption of each image ("" where it has none) and notes; None without a captions file.

    Args:
        paths: images below `folder`, "/" between names, as `file_name` names them ("\\" is understood too).
    Raises: UserError where both files exist, or a row has no file_name or text, or a name comes twice.
    """
    present = [folder / name for name in NAMES if (folder / name).is_file()]
    if not present:
        return None, ()
    if len(present) > 1:
        raise UserError(f"{folder} holds both {NAMES[0]} and {NAMES[1]}: keep the one that is meant")
    file = present[0]
    rows = _csv_rows(file) if file.suffix == ".csv" else _json_rows(file)
    texts: dict[str, str] = {}
    try:
        for line, name, text in rows:
            if not isinstance(name, str) or not isinstance(text, str):
                raise UserError(f"{file} line {line} must have a file_name and a text, both strings")
            name = name.replace("\\", "/").removeprefix("./")
            if name in texts:
                raise UserError(f"{file} line {line} names {name} a second time: keep one caption each")
            texts[name] = text.strip()
    except UnicodeDecodeError:
        raise UserError(f"{file} is not UTF-8 text: save it as UTF-8") from None
    captions = tuple(texts.get(path, "") for path in paths)
    if texts and not set(texts) & set(paths):
        raise UserError(
            f"{file} names none of the {len(paths)} images ({next(iter(texts))}, …): "
            "file_name is the path below the folder"
        )
    bare = sum(not caption for caption in captions)
    strangers = len(set(texts) - set(paths))
    notes = [f"captions from {file.name}"]
    if bare:
        notes.append(f"{bare} of {len(paths)} images have no caption")
    if strangers:
        notes.append(f"{strangers} captions name files that are no readable image")
    return captions, tuple(notes)


def _csv_rows(file: Path) -> Iterator[tuple[int, object, object]]:
    with file.open(encoding="utf-8-sig", newline="") as handle:
        reader = csv.DictReader(handle)
        if not {"file_name", "text"} <= set(reader.fieldnames or ()):
            raise UserError(f"{file} must begin with a line naming the columns file_name and text")
        for row in reader:
            yield reader.line_num, row["file_name"], row["text"]


def _json_rows(file: Path) -> Iterator[tuple[int, object, object]]:
    with file.open(encoding="utf-8") as handle:
        for number, line in enumerate(handle, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{file} line {number} is not JSON ({error.msg})") from None
            if not isinstance(row, dict):
                raise UserError(f"{file} line {number} must be an object with file_name and text")
            yield number, row.get("file_name"), row.get("text")
