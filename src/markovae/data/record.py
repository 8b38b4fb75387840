"""What `markovae shard` writes beside its tars: shards.json and index.npz, so that a set opens without being read."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from markovae.data.images import Indices
from markovae.data.places import beside
from markovae.data.stored import Index
from markovae.errors import UserError

RECORD, INDEX, CAPTIONS = "shards.json", "index.npz", "captions.jsonl"
FORMAT = 1
LARGEST = 1 << 34


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
    names = ("shard", "offset", "size", "digest")
    columns: dict[str, Any] = {**{name: getattr(index, name) for name in names}, "part": part}
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
    content = beside(source, RECORD, 1 << 28)
    if content is None:
        return None
    where = f"{source.rstrip('/')}/{RECORD}"
    try:
        table = json.loads(content)
        if table["format"] != FORMAT:
            raise UserError(f"{where} has format {table['format']} and this version reads {FORMAT}: update markovae")
        return _record(table, source)
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OSError, zipfile.BadZipFile, RecursionError) as error:
        raise UserError(f"{where} is damaged ({type(error).__name__}: {error}): shard the images again") from None


def _record(table: dict[str, Any], source: str) -> ShardRecord:
    with np.load(io.BytesIO(_verified(source, INDEX, table["index_sha256"])), allow_pickle=False) as stored:
        columns = {name: stored[name] for name in stored.files}
    index = Index(columns["shard"], columns["offset"], columns["size"], columns["digest"])
    captions = None
    if table["captions_sha256"] is not None:
        lines = _verified(source, CAPTIONS, table["captions_sha256"]).decode("utf-8").splitlines()
        captions = tuple(str(json.loads(line)) for line in lines)
    tars = table["shards"]
    for tar in tars:
        if tar["name"] != Path(tar["name"]).name or "\\" in tar["name"] or not tar["name"].endswith(".tar"):
            raise ValueError(f"{tar['name']!r} is no name of a shard")
    record = ShardRecord(
        names=tuple(f"{source.rstrip('/')}/{tar['name']}" for tar in tars),
        bytes=tuple(int(tar["bytes"]) for tar in tars),
        index=index,
        part=columns["part"],
        labels=columns.get("label"),
        class_names=tuple(map(str, table["class_names"])),
        captions=captions,
        shape=(int(table["shape"][0]), int(table["shape"][1]), int(table["shape"][2])),
        bins=int(table["bins"]),
        source=str(table["source"]),
        method=str(table["split"]["method"]),
        seed=table["split"]["seed"],
        left_out=int(table["split"]["left_out"]),
    )
    _check(record)
    return record


def _check(record: ShardRecord) -> None:
    index, count = record.index, len(record.index)
    for column in (index.offset, index.size, record.part):
        if column.shape != (count,) or column.dtype != np.int64 or (count and int(column.min()) < 0):
            raise ValueError("the index is no table of whole numbers")
    if index.digest.shape != (count, 32) or index.digest.dtype != np.uint8:
        raise ValueError("the index has no digest of each image")
    if count and (int(index.shard.max()) >= len(record.names) or int(index.shard.min()) < 0):
        raise ValueError("the index names shards that are not there")
    ends = np.array(record.bytes, dtype=np.int64)[index.shard]
    if count and bool((index.offset + index.size > ends).any()):
        raise ValueError("the index points beyond a shard's end")


def _verified(source: str, name: str, digest: str) -> bytes:
    content = beside(source, name, LARGEST)
    if content is None:
        raise ValueError(f"{name} is missing")
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"{name} has another SHA-256")
    return content
