"""Writing shards: tar files of PNGs at their final size, shuffled once, with an index."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from markovae.data.images import ImageData, Indices, Pixels
from markovae.data.shards import CAPTIONS, FORMAT, INDEX, RECORD, Index, encode_index
from markovae.data.source import Source
from markovae.data.split import PARTS
from markovae.errors import UserError
from markovae.log import track
from markovae.system.files import refused, staged_folder, sync, write_synced

HEADER = 512


def write_shards(reading: Source, out: Path, per_shard: int) -> dict[str, Any]:
    """Write the images of a source as shards below `out`, whole or not at all; the record that shards.json holds.

    Each part has shards of its own. Within a part the images stand in the order of a hash of their pixels, so that a
    shard is a fair sample of its part whatever the order of the source was; equal sources give equal bytes.

    Raises:
        UserError: for images of more than 256 grey values, which PNG does not hold in colour.
        StoppedRun: when the disk refuses.
    """
    data, parts = reading.data, reading.split
    if data.bins > 256:
        raise UserError(f"{data.name} has {data.bins} grey values a pixel: shards hold images of at most 256")
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
    }
