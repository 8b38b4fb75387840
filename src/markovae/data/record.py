"""What `markovae shard` writes beside its tars: shards.json and index.npz, so that a set opens without being read."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np

from markovae.data.images import Indices
from markovae.data.layout import MAX_CLASSES
from markovae.data.options import MAX_SIDE
from markovae.data.places import beside
from markovae.data.stored import Index
from markovae.data.tars import LARGEST_IMAGE
from markovae.errors import UserError
from markovae.strict_json import is_text

RECORD, INDEX, CAPTIONS = "shards.json", "index.npz", "captions.jsonl"
FORMAT = 1
LARGEST_RECORD = 1 << 26  # bytes
LONGEST_LINE = 1 << 19  # bytes of a caption in JSON
LONGEST = 10_000  # characters of a text in the record
NPY = b"\x93NUMPY\x01\x00"
SMALLEST = 1024  # bytes of an image in a tar: a header, and a block of content
# As `markovae shard` calls them: a name here is a file of this very folder, whatever the system's rules of paths.
SHARD = re.compile(r"(train|validation|test)-\d{6,12}\.tar", re.ASCII)
COLUMNS: dict[str, tuple[str, tuple[int, ...]]] = {  # of index.npz: type, and shape beyond (N,)
    "shard": ("<i8", ()),
    "offset": ("<i8", ()),
    "size": ("<i8", ()),
    "part": ("<i8", ()),
    "digest": ("|u1", (32,)),
}


@dataclass(frozen=True, eq=False)
class ShardRecord:
    """A set of shards.

    Args:
        names: of the tars.   bytes: of each.   index: of all images, part after part.
        part: 0 train, 1 validation, 2 test, (N,).   labels, class_names, captions: as `ImageData`.
        shape: (C, H, W).   bins: digits of a pixel.   source: what was sharded, in words.
        method, seed, left_out: of the split, as `Parts`.
    """

    names: tuple[str, ...]
    bytes: tuple[int, ...]
    index: Index
    part: Indices
    labels: Indices | None
    class_names: tuple[str, ...]
    captions: tuple[str, ...] | None
    shape: tuple[int, int, int]
    bins: int
    source: str
    method: str
    seed: int | None
    left_out: int


def encode_index(index: Index, part: Indices, labels: Indices | None) -> bytes:
    """index.npz."""
    columns: dict[str, Any] = {**vars(index), "part": part}
    if labels is not None:
        columns["label"] = labels
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **columns)
    return buffer.getvalue()


def read_record(source: str) -> ShardRecord | None:
    """The record in a folder of shards, here or elsewhere; None where `markovae shard` did not write it.

    Raises: UserError for a record that is damaged, or of a later version.
    """
    if source.endswith(".tar") or "{" in source:
        return None
    content = beside(source, RECORD, LARGEST_RECORD)
    if content is None:
        return None
    where = f"{source.rstrip('/')}/{RECORD}"
    try:
        table = json.loads(content)
        if _whole(table, "format") != FORMAT:
            raise UserError(f"{where} has format {table['format']} and this version reads {FORMAT}: update markovae")
        return _record(table, source)
    except UserError:
        raise
    except Exception as error:  # zipfile, numpy and json raise what they like on damaged bytes
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(
            f"{where} is damaged ({reason}): shard the images again, or take it away to read the tars as anyone's, "
            "with a split of their own"
        ) from None


def _record(table: dict[str, Any], source: str) -> ShardRecord:
    tars, count, classes = table["shards"], _whole(table, "count"), _texts(table["class_names"])
    sizes = [_whole(tar, "bytes") for tar in tars]
    names = [_text(tar["name"]) for tar in tars]
    if odd := [name for name in names if not SHARD.fullmatch(name)]:
        raise ValueError(f"{odd[0]!r} is no name of a shard")
    if len(set(names)) < len(names):
        raise ValueError("a shard stands there twice")
    counts = [_whole(tar, "count") for tar in tars]
    if sum(counts) != count or any(n * SMALLEST > size for n, size in zip(counts, sizes, strict=True)):
        raise ValueError(f"its shards do not hold the {count:,} images that it tells of")
    columns = _columns(_verified(source, INDEX, table["index_sha256"], (1 << 16) + 128 * count), count, bool(classes))
    captions = None
    if table["captions_sha256"] is not None:
        lines = _verified(source, CAPTIONS, table["captions_sha256"], LONGEST_LINE * count).decode("ascii").splitlines()
        captions = tuple(_text(json.loads(line), 1 << 16) for line in lines)
    seed = table["split"]["seed"]
    record = ShardRecord(
        names=tuple(f"{source.rstrip('/')}/{name}" for name in names),
        bytes=tuple(sizes),
        index=Index(*(columns[name] for name in ("shard", "offset", "size", "digest"))),
        part=columns["part"],
        labels=columns.get("label"),
        class_names=classes,
        captions=captions,
        shape=_shape(table["shape"]),
        bins=_whole(table, "bins", 2, 256),
        source=_text(table["source"]),
        method=_text(table["split"]["method"]),
        seed=None if seed is None else _whole(table["split"], "seed"),
        left_out=_whole(table["split"], "left_out"),
    )
    _check(record, counts)
    return record


def _check(record: ShardRecord, counts: list[int]) -> None:
    index, count = record.index, len(record.index)
    # The largest first: counting 2^63 − 1 makes numpy write before its array.
    if int(record.part.max()) > 2 or not bool((np.bincount(record.part, minlength=3) > 0).all()):
        raise ValueError("the index has images of other parts than three, or none of one")
    if int(index.shard.max()) >= len(counts) or np.bincount(index.shard, minlength=len(counts)).tolist() != counts:
        raise ValueError("the index has other images of a shard than the record tells of")
    # Compared without the sum, which may be too large for its type.
    if bool((index.offset > np.array(record.bytes, dtype=np.int64)[index.shard] - index.size).any()):
        raise ValueError("the index points beyond a shard's end")
    if int(index.size.max()) > LARGEST_IMAGE:
        raise ValueError(f"the index has an image of more than {LARGEST_IMAGE:,} bytes")
    if record.captions is not None and len(record.captions) != count:
        raise ValueError(f"there are {len(record.captions):,} captions of {count:,} images")
    if record.labels is not None and int(record.labels.max()) >= len(record.class_names):
        raise ValueError(f"the index has a class {int(record.labels.max())} of {len(record.class_names)}")


def _columns(content: bytes, count: int, labels: bool) -> dict[str, np.ndarray[Any, Any]]:
    """The columns of index.npz, each of the type and length that belong there before any is made."""
    wanted = {**COLUMNS, **({"label": ("<i8", ())} if labels else {})}
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return {name: _column(file, name, np.dtype(kind), (count, *rest)) for name, (kind, rest) in wanted.items()}


def _column(file: zipfile.ZipFile, name: str, kind: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    info = file.getinfo(f"{name}.npy")
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise ValueError(f"the column {name!r} is packed")
    content = file.read(info)
    start = len(NPY) + 2 + int.from_bytes(content[len(NPY) :][:2], "little")
    # The one header that numpy writes for what belongs here: compared, and never parsed.
    header = f"{{'descr': {kind.str!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    if not content.startswith(NPY) or content[len(NPY) + 2 : start].strip() != header.encode():
        raise ValueError(f"the column {name!r} is not {shape} of {kind}")
    array = np.frombuffer(content, dtype=kind, offset=start).reshape(shape).copy()
    if array.min() < 0:
        raise ValueError(f"the column {name!r} has numbers below 0")
    return array


def _whole(table: dict[str, Any], key: str, low: int = 0, high: int = 2**63 - 1) -> int:
    value = table[key]
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{key} is {str(value)[:40]!r} and must be a whole number of {low}…{high}")
    return value


def _text(value: Any, longest: int = LONGEST) -> str:
    if type(value) is not str or len(value) > longest or "\0" in value or not is_text(value):
        raise ValueError(f"{str(value)[:40]!r} is no text of at most {longest:,} characters")
    return value


def _texts(values: Any) -> tuple[str, ...]:
    if type(values) is not list or len(values) > MAX_CLASSES:
        raise ValueError(f"the names of the classes are no list of at most {MAX_CLASSES:,}")
    return tuple(map(_text, values))


def _shape(value: Any) -> tuple[int, int, int]:
    fine = (
        type(value) is list and len(value) == 3 and all(type(side) is int and 1 <= side <= MAX_SIDE for side in value)
    )
    if not fine or value[0] not in (1, 3):
        raise ValueError(f"the shape is {str(value)[:40]} and must be channels (1 or 3), height and width")
    channels, height, width = value
    return channels, height, width


def _verified(source: str, name: str, digest: Any, limit: int) -> bytes:
    content = beside(source, name, limit)
    if content is None:
        raise ValueError(f"{name} is missing")
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"{name} has another SHA-256")
    return content
