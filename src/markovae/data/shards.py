"""What `markovae shard` writes beside its tars: shards.json and index.npz, so that a set opens without being read."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, cast, final

import numpy as np
import PIL

from markovae.data import cache
from markovae.data.arrays import MAX_CLASSES, labels_of
from markovae.data.captions import one_line_each
from markovae.data.data_config import MAX_SIDE, DataConfig
from markovae.data.image_files import Header, decode, header_of, reason_of
from markovae.data.images import Digests, ImageData, Indices, Pixels
from markovae.data.plan import Plan, plan
from markovae.data.shard_store import ShardStore, beside, named
from markovae.data.source import DatasetSummary, Source
from markovae.data.split import SplitIndices, split_by_content
from markovae.data.tars import LARGEST_IMAGE, LONGEST_CLASS, SMALL, Member, samples
from markovae.data.workers import map_in_processes
from markovae.errors import StoppedRun, UserError
from markovae.locations import is_elsewhere, without_secrets
from markovae.log import printable, track
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
INDEX_COLUMNS: dict[str, tuple[str, tuple[int, ...]]] = {  # of index.npz: type, and shape beyond (N,)
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
    wanted = {**INDEX_COLUMNS, **({"label": ("<i8", ())} if labels else {})}
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


@final
class StoredImages:
    """N images in shards; to its readers an array (N, C, H, W) of uint8 that is read image by image.

    Args:
        shards: where the bytes are.   index: of these images.   plan: what each is brought to.
        checked: whether the index has the digests of these very pixels, so that each image read is compared.
        bins: values that a pixel may have, 0 … bins − 1.
    """

    def __init__(self, shards: ShardStore, index: Index, plan: Plan, checked: bool = True, bins: int = 256) -> None:
        self.shards, self.index, self.plan, self.checked, self.bins = shards, index, plan, checked, bins
        self.shape = (len(index), plan.channels, *plan.shape)
        self.ndim, self.dtype = 4, np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels, were they read."""
        return int(np.prod(self.shape))

    @property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """(start, stop) of the rows that lie in one shard, where each shard's stand together."""
        edges = np.flatnonzero(np.diff(self.index.shard)) + 1
        bounds = [0, *edges.tolist(), len(self)]
        return tuple(itertools.pairwise(bounds)) if len(self) else ()

    def select(self, rows: Sequence[int] | Column | slice) -> StoredImages:
        """The images at these rows, in that order, unread."""
        return StoredImages(self.shards, self.index.take(self._rows(rows)), self.plan, self.checked, self.bins)

    def __getitem__(self, rows: Any) -> np.ndarray[Any, Any]:
        """Read the images at one row (C, H, W), or at several, (n, C, H, W).

        Raises: StoppedRun for an image that is not what was indexed, naming shard and place.
        """
        if isinstance(rows, (int, np.integer)):
            return self._read(int(rows))
        wanted = self._rows(rows)
        # In the order of their places, which is kindest to disks.
        pixels = np.empty((len(wanted), *self.shape[1:]), dtype=np.uint8)
        for place in np.lexsort((self.index.offset[wanted], self.index.shard[wanted])).tolist():
            pixels[place] = self._read(int(wanted[place]))
        return pixels

    def __iter__(self) -> Iterator[np.ndarray[Any, Any]]:
        return (self._read(row) for row in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return self[:].astype(self.dtype if dtype is None else dtype, copy=False)

    def _rows(self, rows: Sequence[int] | Column | slice) -> Column:
        chosen = rows if isinstance(rows, slice) else np.asarray(rows, dtype=np.int64)
        return np.arange(len(self), dtype=np.int64)[chosen]

    def _read(self, row: int) -> np.ndarray[Any, Any]:
        index = self.index
        shard, offset = int(index.shard[row]), int(index.offset[row])
        content = self.shards.read(shard, offset, int(index.size[row]))
        plan = self.plan
        try:
            pixels = decode(content, plan.shape, plan.grey, fit=plan.fit, background=plan.background)
            whole = not self.checked or hashlib.sha256(pixels.tobytes()).digest() == index.digest[row].tobytes()
            reason = "holds other pixels than when it was indexed"
            if self.bins < 256 and int(pixels.max()) >= self.bins:
                whole, reason = False, f"has pixels of {int(pixels.max())} where its record says below {self.bins}"
        except Exception as error:  # a decoder may raise anything on damaged bytes
            whole, reason = False, f"cannot be decoded ({' '.join(str(error).split())})"
        if not whole:
            raise StoppedRun(
                f"the image at byte {offset:,} of {self.shards.names[shard]} {reason}: restore the shard, then --resume"
            )
        return pixels


@dataclass(frozen=True)
class Found:
    """An image whose header can be read: its name for messages, where its bytes lie, its class and caption or ""."""

    name: str
    offset: int
    size: int
    label: str
    caption: str


@dataclass(frozen=True)
class Scan:
    """One shard.

    Args:
        found: its images, in order.   headers: how many have each header, the name left out.
        unreadable: (shard/name, reason) of what gives no image.   untold: of each class or caption that is no text.
    """

    found: tuple[Found, ...]
    headers: Counter[Header]
    unreadable: tuple[tuple[str, str], ...]
    untold: tuple[tuple[str, str], ...]


def scan(names: tuple[str, ...], number: int) -> Scan:
    """Read the headers of a shard's images; a damaged shard gives what stands before the damage."""
    shards = ShardStore(names)
    path = shards.path(number)
    shard = PurePosixPath(without_secrets(shards.names[number]).replace("\\", "/")).name
    found, unreadable, untold, headers = [], [], [], Counter[Header]()

    def text(member: Member | None, longest: int) -> str:
        if member is None:
            return ""
        if member.size > longest:
            untold.append((f"{shard}/{member.name}", f"of {member.size:,} bytes, at most {longest:,} are read"))
            return ""
        content = shards.read(number, member.offset, member.size)
        try:
            return "\n".join(one_line_each(content.decode("utf-8-sig").replace("\0", " ").splitlines()))
        except UnicodeDecodeError:
            untold.append((f"{shard}/{member.name}", "no UTF-8 text: save it as UTF-8"))
            return ""

    try:
        with path.open("rb") as handle:
            for sample in samples(handle, path.stat().st_size):
                image = sample.image
                name = f"{shard}/{image.name}"
                for other in sample.others:
                    unreadable.append((f"{shard}/{other.name}", f"its name agrees with {image.name} to the first dot"))
                try:
                    content = _content(shards, number, image)
                    header = header_of(content, "")
                except StoppedRun:  # of the disk or the network, which says nothing of the image
                    raise
                except Exception as error:  # a decoder may raise anything on damaged bytes
                    unreadable.append((name, reason_of(error)))
                    continue
                headers[replace(header, path="")] += 1
                found.append(
                    Found(
                        name, image.offset, image.size, text(sample.label, LONGEST_CLASS), text(sample.caption, SMALL)
                    )
                )
    except (ValueError, OSError) as error:
        unreadable.append((shard, f"{reason_of(error)}; {len(found):,} images before it are read, and none after it"))
    return Scan(tuple(found), headers, tuple(unreadable), tuple(untold))


def digests(names: tuple[str, ...], plan: Plan, work: tuple[int, tuple[Found, ...]]) -> list[bytes | str]:
    """SHA-256 of the pixels of each image found in a shard, or why there are none."""
    shards, (number, found) = ShardStore(names), work
    results: list[bytes | str] = []
    for one in found:
        try:
            content = shards.read(number, one.offset, one.size)
            pixels = decode(content, plan.shape, plan.grey, fit=plan.fit, background=plan.background)
            results.append(hashlib.sha256(pixels.tobytes()).digest())
        except StoppedRun:
            raise
        except Exception as error:  # a decoder may raise anything on damaged bytes
            results.append(reason_of(error))
    return results


def _content(shards: ShardStore, number: int, image: Member) -> bytes:
    if not image.size:
        raise ValueError("the file is empty")
    if image.size > LARGEST_IMAGE:
        raise ValueError(f"{image.size:,} bytes are more than {LARGEST_IMAGE:,}")
    return shards.read(number, image.offset, image.size)


RECIPE = "shards-5"
# Below this many shards the work takes less time than starting workers.
SERIAL_SHARDS = 4
LONGEST_NUMBER = 18  # digits of a class that counts as a number; longer ones are words
COLUMNS = ("shard", "offset", "size", "digest")


def read_shards(config: DataConfig) -> Source:
    """Shards, in place: what `markovae shard` wrote brings its own split; others are looked through once.

    Raises: UserError for shards that are missing or damaged, or hold too few images.
    """
    source = config.source if is_elsewhere(config.source) else str(Path(config.source).expanduser())
    record = read_record(source)
    if record is not None:
        return _own(record, config, source)
    return _others(ShardStore(named(source)), config, source)


def _own(record: ShardRecord, config: DataConfig, source: str) -> Source:
    """Shards that `markovae shard` wrote, with the split that was made then."""
    shards = ShardStore(record.names)
    for number, (name, promised) in enumerate(zip(record.names, record.bytes, strict=True)):
        try:
            there = shards.facts(number)[1]
        except UserError as error:
            raise UserError(f"{error} ({_lost(record, number, 0)})") from None
        if there not in (None, promised):
            raise UserError(
                f"{name} has {there:,} bytes where its record says {promised:,}, so it was cut or changed: restore it "
                f"({_lost(record, number, there)})"
            )
    channels, *shape = record.shape
    wanted = config.shape or (shape[0], shape[1])
    grey = config.channels == "grey" or (config.channels == "auto" and channels == 1)
    as_stored = wanted == tuple(shape) and grey == (channels == 1)
    if not as_stored and record.bins != 256:
        raise UserError(f"{source} has {record.bins} grey values, and only images of 256 can be scaled: leave it so")
    one = Header("", mode="L" if channels == 1 else "RGB", width=shape[1], height=shape[0], grey=channels == 1)
    chosen = plan({one: len(record.index)}, config)
    chosen = Plan(wanted, grey, chosen.fit, chosen.background, chosen.notes)
    images = StoredImages(shards, record.index, chosen, checked=as_stored, bins=record.bins)
    data = ImageData(
        images=cast(Pixels, images),
        labels=record.labels,
        class_names=record.class_names,
        captions=record.captions,
        bins=record.bins,
        name=without_secrets(source),
        digests=record.index.digest,
    )
    train, validation, test = (np.flatnonzero(record.part == number).astype(np.int64) for number in range(3))
    parts = SplitIndices(train, validation, test, record.method, record.seed, record.left_out)
    notes = (f"{len(shards)} shards written by markovae shard from {record.source}", *chosen.notes)
    size = f"{shape[1]}x{shape[0]}"
    if not as_stored:
        notes += (f"their parts were made at {size}: images alike at {wanted[1]}x{wanted[0]} alone may be in two",)
    return Source(
        data, parts, DatasetSummary("shards", {one.mode: len(data)}, {"PNG": len(data)}, {size: len(data)}, (), notes)
    )


def _lost(record: ShardRecord, shard: int, there: int) -> str:
    """What it costs that only the first `there` bytes of a shard are there, in words."""
    index = record.index
    inside = index.shard == shard
    lost = int((inside & (index.offset + index.size > there)).sum())
    return f"{lost:,} of its {int(inside.sum()):,} images are missing, of {len(index):,} in all"


def _others(shards: ShardStore, config: DataConfig, source: str) -> Source:
    """Anyone's shards: every image is decoded once, to know which can be and which are copies; then kept in mind."""
    shown = without_secrets(source)
    recipe = {
        "recipe": RECIPE,
        "pillow": PIL.__version__,
        "shards": [shards.facts(number) for number in range(len(shards))],
        "options": [config.size, config.width, config.channels, config.background, config.fit],
    }
    make = partial(_make, shards=shards, config=config, source=shown)
    stored, index = cache.entry(f"shards-{cache.key_of(recipe)}", make, _read)
    chosen = Plan(tuple(stored["shape"]), stored["grey"], config.fit, tuple(stored["background"]))
    labels, class_names, notes = _labels(stored["labels"], shown)
    captions = tuple(stored["captions"]) if any(stored["captions"]) else None
    data = ImageData(
        images=cast(Pixels, StoredImages(shards, index, chosen)),
        labels=labels,
        class_names=class_names,
        captions=captions,
        name=shown,
        digests=index.digest,
    )
    findings = DatasetSummary(
        "shards",
        stored["modes"],
        stored["formats"],
        stored["sizes"],
        tuple((printable(name), reason) for name, reason in stored["unreadable"]),
        (f"{len(shards)} shards, read in place", *stored["notes"], *notes),
    )
    return Source(data, split_by_content(data.content_hashes(), config, shown), findings)


def _read(kept: cache.Entry) -> tuple[dict[str, Any], Index]:
    return kept.json("record.json"), Index(*(kept.array(f"{name}.npy") for name in COLUMNS))


def _make(stage: Path, shards: ShardStore, config: DataConfig, source: str) -> None:
    numbers = range(len(shards))
    scanned = map_in_processes(partial(scan, shards.names), numbers, 1, SERIAL_SHARDS)
    scans: list[Scan] = list(track(scanned, "reading shards", len(shards)))
    unreadable = [bad for one in scans for bad in one.unreadable]
    tally: Counter[Header] = sum((one.headers for one in scans), Counter())
    if not tally:
        what = f" ({printable(unreadable[0][0])}: {unreadable[0][1]})" if unreadable else ""
        raise UserError(f"{source} holds no image that can be read{what}: give shards of PNG, JPEG or WEBP images")
    chosen = plan(tally, config)
    work = [(number, one.found) for number, one in zip(numbers, scans, strict=True)]
    decoded = map_in_processes(partial(digests, shards.names, chosen), work, 1, SERIAL_SHARDS)
    kept: list[tuple[int, Found, bytes]] = []
    for (number, found), results in zip(work, track(decoded, "decoding shards", len(shards)), strict=True):
        for one, result in zip(found, results, strict=True):
            if isinstance(result, str):
                unreadable.append((one.name, result))
            else:
                kept.append((number, one, result))
    _store(stage, kept)
    notes = [*chosen.notes, *_untold([bad for one in scans for bad in one.untold])]
    record = {
        "shape": chosen.shape,
        "grey": chosen.grey,
        "background": chosen.background,
        "modes": _tally(tally, lambda h: h.mode),
        "formats": _tally(tally, lambda h: h.format),
        "sizes": _tally(tally, lambda h: f"{h.width}x{h.height}"),
        "labels": [one.label for _, one, _ in kept],
        "captions": [one.caption for _, one, _ in kept],
        "unreadable": sorted(unreadable),
        "notes": notes,
    }
    cache.write_json(stage / "record.json", record)


def _untold(texts: list[tuple[str, str]]) -> tuple[str, ...]:
    """A sentence on the classes and captions that could not be read, if there are any."""
    if not texts:
        return ()
    (name, reason), more = texts[0], f", and {len(texts) - 1} more" if len(texts) > 1 else ""
    return (f"a class or caption could not be read and counts as none: {printable(name)} is {reason}{more}",)


def _store(stage: Path, kept: list[tuple[int, Found, bytes]]) -> None:
    columns: dict[str, np.ndarray[Any, Any]] = {
        "shard": np.array([number for number, _, _ in kept], dtype=np.int64),
        "offset": np.array([one.offset for _, one, _ in kept], dtype=np.int64),
        "size": np.array([one.size for _, one, _ in kept], dtype=np.int64),
        "digest": np.frombuffer(b"".join(d for _, _, d in kept), dtype=np.uint8).reshape(-1, 32),
    }
    for name, column in columns.items():
        np.save(stage / f"{name}.npy", column, allow_pickle=False)


def _tally(headers: Counter[Header], name: Any) -> dict[str, int]:
    total: Counter[str] = Counter()
    for header, number in headers.items():
        total[name(header)] += number
    return dict(total.most_common())


def _labels(given: list[str], source: str) -> tuple[Indices | None, tuple[str, ...], tuple[str, ...]]:
    bare = given.count("")
    if bare == len(given):
        return None, (), ()
    if bare:
        return None, (), (f"{bare} of {len(given)} images have no .cls, so the classes are left out",)
    whole = all(text.isdecimal() and len(text) <= LONGEST_NUMBER for text in given)
    values = np.array([int(text) for text in given]) if whole else np.array(given)
    labels, names = labels_of(values, len(given), source)
    return labels, names, ()
