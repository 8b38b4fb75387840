"""The format of `markovae shard`, written and read: tars of PNGs, and an index, so that a set opens without a scan."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from markovae.columns import MAX_NAME, Cell, Cells, cell_of
from markovae.data.arrays import MAX_CLASSES
from markovae.data.data_config import MAX_SIDE
from markovae.data.file_names import PARTS
from markovae.data.images import Digests, ImageData, Indices, Pixels
from markovae.data.metadata import MOST_COLUMNS
from markovae.data.shard_store import beside
from markovae.data.source import Source
from markovae.data.tars import LARGEST_IMAGE
from markovae.errors import UserError
from markovae.log import track
from markovae.strict_json import is_text, parse_object
from markovae.system.files import refused, staged_folder, sync, write_synced

RECORD, INDEX, CAPTIONS, CELLS = "shards.json", "index.npz", "captions.jsonl", "columns.json"
FILES = (RECORD, INDEX, CAPTIONS, CELLS)  # beside the shards
FORMAT = 1
LARGEST_RECORD = 1 << 26  # bytes
LONGEST_LINE = 1 << 19  # bytes of a caption in JSON
LONGEST_CELL = 1 << 12  # bytes of a cell in JSON
LONGEST = 10_000  # characters of a text in the record
NPY = b"\x93NUMPY\x01\x00"
SMALLEST = 1024  # bytes of an image in a tar: a header, and a block of content
# As `markovae shard` calls them: a name here is a file of this very folder, whatever the system's rules of paths.
SHARD = re.compile(r"(train|validation|test)-\d{6,12}\.tar", re.ASCII)
INDEX_COLUMNS: dict[str, tuple[str, tuple[int, ...]]] = {  # of index.npz: type, and shape beyond (N,)
    "shard": ("<i8", ()),
    "offset": ("<i8", ()),
    "size": ("<i8", ()),
    "part": ("<i8", ()),
    "digest": ("|u1", (32,)),
}


Column = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, eq=False)
class Index:
    """Where each image lies.

    Args:
        shard, offset, size: number of its shard, and its bytes there, (N,) each.
        digest: SHA-256 of its pixels, (N, 32).
    """

    shard: Column
    offset: Column
    size: Column
    digest: Digests

    def __len__(self) -> int:
        return len(self.shard)

    def take(self, rows: Column) -> Index:
        """The index of these rows."""
        return Index(self.shard[rows], self.offset[rows], self.size[rows], self.digest[rows])


@dataclass(frozen=True, eq=False)
class ShardRecord:
    """A set of shards.

    Args:
        names: of the tars.
        bytes: of each.
        index: of all images, part after part.
        part: 0 train, 1 validation, 2 test, (N,).
        labels, class_names, captions, columns: as `ImageData`.
        shape: (C, H, W).
        bins: values of a pixel.
        source: what was sharded, in words.
        method, seed, left_out: of the split, as `SplitIndices`.
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
    columns: Cells


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
            f"{where} is damaged ({reason}): shard the images again, or delete it to read the tars as any others, "
            "with a new split"
        ) from None


def _record(table: dict[str, Any], source: str) -> ShardRecord:
    tars, count, classes = table["shards"], _whole(table, "count"), _texts(table["class_names"])
    sizes = [_whole(tar, "bytes") for tar in tars]
    names = [_text(tar["name"]) for tar in tars]
    if odd := [name for name in names if not SHARD.fullmatch(name)]:
        raise ValueError(f"{odd[0]!r} is not the name of a shard")
    if len(set(names)) < len(names):
        raise ValueError("a shard is listed twice")
    counts = [_whole(tar, "count") for tar in tars]
    if sum(counts) != count or any(n * SMALLEST > size for n, size in zip(counts, sizes, strict=True)):
        raise ValueError(f"its shards do not add up to {count:,} images")
    columns = _columns(_verified(source, INDEX, table["index_sha256"], (1 << 16) + 128 * count), count, bool(classes))
    captions = None
    if table["captions_sha256"] is not None:
        lines = _verified(source, CAPTIONS, table["captions_sha256"], LONGEST_LINE * count).decode("ascii").splitlines()
        captions = tuple(_text(json.loads(line), 1 << 16) for line in lines)
    columns_of = _cells(source, table.get("columns_sha256"), count)
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
        columns=columns_of,
    )
    _check(record, counts)
    return record


def _cells(source: str, digest: Any, count: int) -> dict[str, tuple[Cell, ...]]:
    """The columns beside some shards, each as long as there are images."""
    if digest is None:
        return {}
    stored = parse_object(_verified(source, CELLS, digest, MOST_COLUMNS * (MAX_NAME + LONGEST_CELL * count)))
    found: dict[str, tuple[Cell, ...]] = {}
    for name, cells in stored.items():
        if type(cells) is not list or len(cells) != count:
            raise ValueError(f"the column {name[:40]!r} is not of {count:,} cells")
        found[_text(name, MAX_NAME)] = tuple(map(cell_of, cells))
    return found


def _check(record: ShardRecord, counts: list[int]) -> None:
    index, count = record.index, len(record.index)
    # The largest first: counting 2^63 − 1 makes numpy write before its array.
    if int(record.part.max()) > 2 or not bool((np.bincount(record.part, minlength=3) > 0).all()):
        raise ValueError("the index must have images of exactly three parts")
    if int(index.shard.max()) >= len(counts) or np.bincount(index.shard, minlength=len(counts)).tolist() != counts:
        raise ValueError("the index and the record disagree on the images of a shard")
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
    wanted = {**INDEX_COLUMNS, **({"label": ("<i8", ())} if labels else {})}
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return {name: _column(file, name, np.dtype(kind), (count, *rest)) for name, (kind, rest) in wanted.items()}


def _column(file: zipfile.ZipFile, name: str, kind: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    info = file.getinfo(f"{name}.npy")
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise ValueError(f"the column {name!r} is compressed")
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
        raise ValueError(f"{str(value)[:40]!r} must be text of at most {longest:,} characters")
    return value


def _texts(values: Any) -> tuple[str, ...]:
    if type(values) is not list or len(values) > MAX_CLASSES:
        raise ValueError(f"the class names must be a list of at most {MAX_CLASSES:,}")
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


HEADER = 512


def write_shards(reading: Source, out: Path, per_shard: int) -> dict[str, Any]:
    """Write the images of a source as shards below `out`, whole or not at all; the record that shards.json holds.

    Each part has shards of its own. Within a part the images stand in the order of a hash of their pixels, so that a
    shard is a fair sample of its part whatever the order of the source was; equal sources give equal bytes.

    Raises:
        UserError: for images of more than 256 grey values.
        StoppedRun: when the disk refuses.
    """
    data, parts = reading.data, reading.split
    if data.bins > 256:
        raise UserError(f"{data.name} has {data.bins} values per pixel: shards hold images of at most 256")
    digests = data.content_hashes()
    rows = [_shuffled(part, digests) for part in (parts.train, parts.validation, parts.test)]
    try:
        with staged_folder(out) as stage:
            tars, index = _tars(data, rows, stage, per_shard)
            record = _describe(reading, rows, tars, index, stage)
            write_synced(stage / RECORD, (json.dumps(record, indent=1) + "\n").encode())
    except OSError as error:
        raise refused(out, int(np.prod(data.shape)) * len(data), error) from error
    return record


def _shuffled(part: Indices, digests: tuple[bytes, ...]) -> Indices:
    keys = [hashlib.sha256(b"markovae-shards|" + digests[row]).digest() for row in part.tolist()]
    return part[np.array(sorted(range(len(part)), key=lambda place: (keys[place], place)), dtype=np.int64)]


def _tars(data: ImageData, rows: list[Indices], stage: Path, per_shard: int) -> tuple[list[dict[str, Any]], Index]:
    made: list[dict[str, Any]] = []
    places: list[tuple[int, int, int]] = []
    digests: list[bytes] = []
    order = [row for part in rows for row in part.tolist()]
    progress = iter(track(order, "writing shards", len(order)))
    for name, part in zip(PARTS, rows, strict=True):
        for number, start in enumerate(range(0, len(part), per_shard)):
            path = stage / f"{name}-{number:06d}.tar"
            chosen = part[start : start + per_shard].tolist()
            with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
                for place, row in enumerate(chosen, start):
                    next(progress)
                    pixels = np.ascontiguousarray(data.images[row])
                    # Of the pixels as they are written: the data's own digests may be of another size.
                    digests.append(hashlib.sha256(pixels.data).digest())
                    places.append((len(made), *_add(tar, f"{place:09d}", pixels, data, row)))
            sync(path)
            made.append({"name": path.name, "part": name, "count": len(chosen), "bytes": path.stat().st_size})
    shard, offset, size = np.array(places, dtype=np.int64).T
    return made, Index(shard, offset, size, np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 32))


def _add(tar: tarfile.TarFile, key: str, pixels: Pixels, data: ImageData, row: int) -> tuple[int, int]:
    """Append one image with its class and caption; (offset, size) of the PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)).save(buffer, "PNG")
    content = buffer.getvalue()
    offset = tar.offset + HEADER
    _append(tar, f"{key}.png", content)
    if data.labels is not None:
        _append(tar, f"{key}.cls", str(int(data.labels[row])).encode())
    if data.captions is not None:
        _append(tar, f"{key}.txt", data.captions[row].encode())
    return offset, len(content)


def _append(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def _describe(
    reading: Source, rows: list[Indices], tars: list[dict[str, Any]], index: Index, stage: Path
) -> dict[str, Any]:
    data, parts = reading.data, reading.split
    order = np.concatenate(rows)
    part = np.repeat(np.arange(3, dtype=np.int64), [len(one) for one in rows])
    table = encode_index(index, part, None if data.labels is None else data.labels[order])
    write_synced(stage / INDEX, table)
    lines = None
    if data.captions is not None:
        captions = data.captions
        lines = "".join(json.dumps(captions[row], ensure_ascii=True) + "\n" for row in order.tolist()).encode()
        write_synced(stage / CAPTIONS, lines)
    cells = None
    if data.columns:
        each = {name: [column[row] for row in order.tolist()] for name, column in data.columns.items()}
        cells = json.dumps(each).encode()
        write_synced(stage / CELLS, cells)
    return {
        "format": FORMAT,
        "source": data.name,
        "count": len(order),
        "shape": list(data.shape),
        "bins": data.bins,
        "class_names": list(data.class_names),
        "split": {"method": parts.method, "seed": parts.seed, "left_out": parts.left_out},
        "shards": tars,
        "index_sha256": hashlib.sha256(table).hexdigest(),
        "captions_sha256": None if lines is None else hashlib.sha256(lines).hexdigest(),
        **({} if cells is None else {"columns_sha256": hashlib.sha256(cells).hexdigest()}),
    }
