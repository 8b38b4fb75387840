"""Shards as a source: those that `markovae shard` wrote, with their split, and anyone's, which are scanned once."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, cast, final

import numpy as np
import PIL

from markovae.columns import Cell, Cells
from markovae.data import cache
from markovae.data.arrays import labels_of
from markovae.data.captions import DATASET, rest_note, tables_note, written_beside
from markovae.data.data_config import DataConfig
from markovae.data.file_names import by_ending, parts_of_files, some, understand, unread_kind
from markovae.data.folder import classes_of, classes_of_column
from markovae.data.image_files import STRIP, Header, Plan, decode, header_of, plan, strip_shape
from markovae.data.images import ImageData, Indices, Pixels
from markovae.data.known_tables import may_be_table, split_column, table_reader
from markovae.data.metadata import MOST_COLUMNS, ImageNames, Table, official_labels, one_line_each, record_of
from markovae.data.shard_format import FILES, Column, Index, ShardRecord, read_record
from markovae.data.shard_store import ShardStore, named
from markovae.data.source import DatasetSummary, Source
from markovae.data.split import SplitIndices, chosen_split, copies_note, split_by_content
from markovae.data.strips import Strips, longer_note, middle
from markovae.data.tars import LARGEST_IMAGE, LONGEST_CLASS, SMALL, Member, samples
from markovae.data.unread_images import UnreadImages
from markovae.data.workers import map_in_processes
from markovae.errors import StoppedRun, UserError, reason_of
from markovae.locations import is_elsewhere, without_secrets
from markovae.log import counted, printable, track


@final
class StoredImages(UnreadImages):
    """N images in shards; to its readers an array (N, C, H, W) of uint8 that is read image by image.

    Args:
        shards: where the bytes are.
        index: of these images.
        plan: what each is brought to.
        checked: whether the index has the digests of these very pixels, so that each image read is compared.
        bins: values that a pixel may have, 0 … bins − 1.
    """

    def __init__(self, shards: ShardStore, index: Index, plan: Plan, checked: bool = True, bins: int = 256) -> None:
        super().__init__((len(index), plan.channels, *plan.shape))
        self.shards, self.index, self.plan, self.checked, self.bins = shards, index, plan, checked, bins

    def select(self, rows: Sequence[int] | Column | slice) -> StoredImages:
        """The images at these rows, in that order, unread."""
        return StoredImages(self.shards, self.index.take(self._rows(rows)), self.plan, self.checked, self.bins)

    def _groups(self) -> Column:
        return self.index.shard

    def _order(self, rows: Column) -> Iterable[int]:
        """In the order of their places, which is kindest to disks."""
        return np.lexsort((self.index.offset[rows], self.index.shard[rows])).tolist()

    def _read(self, row: int) -> Pixels:
        return self.decoded(row, self.plan.fit)

    def decoded(self, row: int, fit: str) -> Pixels:
        """The image of a row, with `STRIP` not yet cut.

        Raises: StoppedRun where its middle is not what was indexed, naming shard and place.
        """
        shard, offset = int(self.index.shard[row]), int(self.index.offset[row])
        pixels, reason = self._decoded(row, fit)
        if pixels is None and self.shards.fetch_again(shard):  # its copy here may be what is damaged
            pixels, reason = self._decoded(row, fit)
        if pixels is None:
            raise StoppedRun(
                f"the image at byte {offset:,} of {self.shards.names[shard]} {reason}: restore the shard, then --resume"
            )
        return pixels

    def _decoded(self, row: int, fit: str) -> tuple[np.ndarray[Any, Any] | None, str]:
        """The pixels of an image as they were indexed, or None and why there are none."""
        index, plan = self.index, self.plan
        content = self.shards.read(int(index.shard[row]), int(index.offset[row]), int(index.size[row]))
        try:
            pixels = decode(content, plan.shape, plan.grey, fit=fit, background=plan.background)
        except Exception as error:  # a decoder may raise anything on damaged bytes
            return None, f"cannot be decoded ({' '.join(str(error).split())})"
        if self.bins < 256 and int(pixels.max()) >= self.bins:
            return None, f"has pixels of {int(pixels.max())} where its record says below {self.bins}"
        if (
            self.checked
            and hashlib.sha256(middle(pixels, plan.shape).tobytes()).digest() != index.digest[row].tobytes()
        ):
            return None, "holds other pixels than when it was indexed"
        return pixels, ""


@final
class StoredStrips(Strips):
    """Images in shards, not yet cut, decoded when a window of them is asked for.

    Args:
        images: the same, cut.
    """

    def __init__(self, images: StoredImages) -> None:
        super().__init__((images.plan.channels, *images.plan.shape))
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Sequence[int] | Column | slice) -> StoredStrips:
        """Those of these rows, unread."""
        return StoredStrips(self.images.select(rows))

    def whole(self, row: int) -> Pixels:
        """One of them, (C, height, width)."""
        return self.images.decoded(row, STRIP)


@dataclass(frozen=True)
class FoundImage:
    """An image whose header can be read: its name for messages, where its bytes lie, its class and caption or "".

    `columns` is what else its .json, or a table in its shard, says.
    """

    name: str
    offset: int
    size: int
    label: str
    caption: str
    columns: dict[str, Cell] = field(default_factory=dict)


@dataclass(frozen=True)
class Scan:
    """One shard.

    Args:
        found: its images, in order.
        headers: how many have each header, the name left out.
        unreadable: (shard/name, reason) of what is not an image.
        unreadable_texts: the same of each class or caption.
        orphans, unused: names of members without an image, and of those beside one that say nothing that is read.
        odd: fields of .json members that are no cells of a column.
    """

    found: tuple[FoundImage, ...]
    headers: Counter[Header]
    unreadable: tuple[tuple[str, str], ...]
    unreadable_texts: tuple[tuple[str, str], ...]
    orphans: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    odd: tuple[str, ...] = ()


def scan(names: tuple[str, ...], number: int) -> Scan:
    """Read the headers of a shard's images; a damaged shard gives what stands before the damage."""
    shards = ShardStore(names)
    path = shards.path(number)
    shard = PurePosixPath(without_secrets(shards.names[number]).replace("\\", "/")).name
    found, unreadable, unreadable_texts, headers = [], [], [], Counter[Header]()
    odd = dict[str, None]()
    orphans, unused, tables = list[str](), list[str](), list[Member]()

    def text(member: Member | None, longest: int) -> str:
        if member is None:
            return ""
        if member.size > longest:
            unreadable_texts.append(
                (f"{shard}/{member.name}", f"of {member.size:,} bytes, at most {longest:,} are read")
            )
            return ""
        content = shards.read(number, member.offset, member.size)
        try:
            return "\n".join(one_line_each(content.decode("utf-8-sig").replace("\0", " ").splitlines()))
        except UnicodeDecodeError:
            unreadable_texts.append((f"{shard}/{member.name}", "not UTF-8 text: save it as UTF-8"))
            return ""

    try:
        with path.open("rb") as handle:
            for sample in samples(handle, path.stat().st_size):
                image = sample.image
                for other in sample.unread:
                    unreadable.append((f"{shard}/{other.name}", unread_kind(other.name) or ""))
                if image is None:
                    tables += [member for member in sample.unused if may_be_table(member.name)]
                    orphans += [f"{shard}/{member.name}" for member in sample.unused if not may_be_table(member.name)]
                    continue
                unused += [f"{shard}/{member.name}" for member in sample.unused]
                name = f"{shard}/{image.name}"
                for other in sample.others:
                    why = f"its name agrees with {image.name} to the first dot, and a sample has one image: rename it"
                    unreadable.append((f"{shard}/{other.name}", why))
                try:
                    content = _content(shards, number, image)
                    header = header_of(content, "")
                except StoppedRun:  # of the disk or the network, which says nothing of the image
                    raise
                except Exception as error:  # a decoder may raise anything on damaged bytes
                    unreadable.append((name, reason_of(error)))
                    continue
                headers[replace(header, path="")] += 1
                label = text(sample.label, LONGEST_CLASS)
                caption = "\n".join(filter(None, (text(one, SMALL) for one in sample.captions)))
                columns: dict[str, Cell] = {}
                if sample.table is not None:
                    texts, columns, structures = record_of(text(sample.table, SMALL))
                    key = next((name for name in LABEL_FIELDS if isinstance(columns.get(name), str)), "")
                    label, caption = label or str(columns.pop(key, "") or ""), caption or "\n".join(texts)
                    odd |= dict.fromkeys(structures)
                found.append(FoundImage(name, image.offset, image.size, label, caption, columns))
    except (ValueError, OSError) as error:
        unreadable.append((shard, f"{reason_of(error)}; {len(found):,} images before it are read, and none after it"))
    for member in tables:
        try:
            joined = _with_table(shards, number, shard, member, found)
            orphans += [] if joined is not None else [f"{shard}/{member.name}"]
            found = found if joined is None else joined
        except UserError as error:
            unreadable_texts.append((f"{shard}/{member.name}", f"left out ({error})"))
    return Scan(
        tuple(found),
        headers,
        tuple(unreadable),
        tuple(unreadable_texts),
        tuple(orphans[:KEPT]),
        tuple(unused[:KEPT]),
        tuple(odd),
    )


def _with_table(
    shards: ShardStore, number: int, shard: str, member: Member, found: list[FoundImage]
) -> list[FoundImage] | None:
    """The images with what a table among them says; what each brings itself comes first. None for no table of them.

    Raises: UserError for a table that is too large, that cannot be read, or names none of them.
    """
    if member.size > LARGEST_TABLE:
        raise UserError(f"{member.size:,} bytes, at most {LARGEST_TABLE:,} are read")
    names = [one.name.removeprefix(f"{shard}/") for one in found]
    images, name = ImageNames(names), member.name.removeprefix("./")
    content = shards.read(number, member.offset, member.size)
    if PurePosixPath(name).name == DATASET and (said := official_labels(content, name, images)) is not None:
        return [
            replace(one, columns={**said.cells.get(own, {}), **one.columns})
            for one, own in zip(found, names, strict=True)
        ]
    rows = table_reader(name, member.size, lambda size: content[:size], images)
    if rows is None:
        return None
    table = Table(f"{shard}/{member.name}", name, io.BytesIO(content), images, rows)
    return [
        replace(
            one,
            caption=one.caption or "\n".join(table.texts.get(name, ())),
            columns={**table.cells.get(name, {}), **one.columns},
        )
        for one, name in zip(found, names, strict=True)
    ]


def digests(names: tuple[str, ...], plan: Plan, work: tuple[int, tuple[FoundImage, ...]]) -> list[bytes | str]:
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


RECIPE = "shards-12"
LARGEST_TABLE = 1 << 26  # bytes
KEPT = 10_000  # names of members that are not read, of a shard
LABEL_FIELDS = ("label", "cls", "class", "class_name")
# Below this many shards the work takes less time than starting workers.
SERIAL_SHARDS = 4
LONGEST_NUMBER = 18  # digits of a class that counts as a number; longer ones are words
COLUMNS = ("shard", "offset", "size", "digest")


def read_shards(config: DataConfig) -> Source:
    """Shards, in place: what `markovae shard` wrote brings its own split; others are scanned once.

    Raises: UserError for shards that are missing or damaged, or hold too few images.
    """
    source = config.source if is_elsewhere(config.source) else str(config.path)
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
        columns=record.columns,
        strips=StoredStrips(images) if config.random_crop else None,
    )
    train, validation, test = (np.flatnonzero(record.part == number).astype(np.int64) for number in range(3))
    parts = SplitIndices(train, validation, test, record.method, record.seed, record.left_out)
    if config.split == "content":
        parts = split_by_content(data.content_hashes(), config, data.name)
    notes = (f"{counted(len(shards), 'shard')} written by markovae shard from {record.source}", *chosen.notes)
    if not is_elsewhere(source):
        notes += rest_note(Path(source), [*(Path(name).name for name in record.names), *FILES])
    size = f"{shape[1]}x{shape[0]}"
    if config.random_crop:
        longer = len(data) * (strip_shape((shape[0], shape[1]), wanted) != wanted)
        notes += (longer_note(longer, len(data), wanted),)
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
    """Anyone's shards: every image is decoded once, to find unreadable ones and copies; the result is cached."""
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
    inside = [name.partition("/")[2] for name in stored["files"]]  # without the shard's own name
    layout = understand(inside, config.split, shown)
    parts, rest = list(layout.part), list(layout.rest)
    if config.split == "auto" and not layout.given:
        parts = list(parts_of_files([name.partition("/")[0] for name in stored["files"]]))
    rows = [row for row, part in enumerate(parts) if part is not None]
    images = StoredImages(shards, index.take(np.array(rows, dtype=np.int64)), chosen)
    given, texts, files = ([stored[name][row] for row in rows] for name in ("labels", "captions", "files"))
    labels, class_names, notes = _labels(given, shown)
    if not any(given):
        labels, class_names, notes = classes_of([rest[row] for row in rows], config.classes)
    columns: Cells = {name: _cells(cells, rows) for name, cells in stored["columns"].items()}
    if not is_elsewhere(source):
        own = [Path(name).name for name in shards.names]
        if Path(source).is_dir():
            said = written_beside(Path(source), files, own)
            texts, columns = said.joined(texts, columns)
            notes = (*notes, *said.notes)
        else:  # its neighbours may be of other shards
            notes = (*notes, *tables_note(Path(shards.names[0]).parent, own))
    captions = tuple(texts) if any(texts) else None
    if labels is None and config.classes == "auto":
        labels, class_names, column_notes = classes_of_column(columns)
        notes = (*notes, *column_notes)
    part = [parts[row] or "" for row in rows]
    if config.split == "auto" and not layout.given:
        part, columns, split_notes = split_column(columns, part)
        notes = (*notes, *split_notes)
    data = ImageData(
        images=cast(Pixels, images),
        labels=labels,
        class_names=class_names,
        captions=captions,
        name=shown,
        digests=images.index.digest,
        files=tuple(map(printable, files)),
        columns=columns,
        strips=StoredStrips(images) if config.random_crop else None,
    )
    split = chosen_split(data, part, config)
    cut = (longer_note(stored["longer"], stored["headers"], chosen.shape),) if config.random_crop else ()
    summary = DatasetSummary(
        "shards",
        stored["modes"],
        stored["formats"],
        stored["sizes"],
        tuple((printable(name), reason) for name, reason in stored["unreadable"]),
        (
            f"{counted(len(shards), 'shard')}, read in place",
            *layout.notes,
            *stored["notes"],
            *notes,
            *cut,
            *copies_note(split),
        ),
    )
    return Source(data, split, summary)


def _cells(cells: list[Any], rows: list[int]) -> tuple[Cell, ...]:
    """Of these rows; several texts in one cell are lists in JSON."""
    return tuple(tuple(cells[row]) if isinstance(cells[row], list) else cells[row] for row in rows)


def _read(kept: cache.Entry) -> tuple[dict[str, Any], Index]:
    return kept.json("record.json"), Index(*(kept.array(f"{name}.npy") for name in COLUMNS))


def _make(stage: Path, shards: ShardStore, config: DataConfig, source: str) -> None:
    numbers = range(len(shards))
    scanned = map_in_processes(partial(scan, shards.names), numbers, 1, SERIAL_SHARDS)
    scans: list[Scan] = list(track(scanned, "reading shards", len(shards)))
    unreadable = [bad for one in scans for bad in one.unreadable]
    tally: Counter[Header] = sum((one.headers for one in scans), Counter())
    if not tally:
        others = [name for one in scans for name in one.orphans]
        what = f" ({printable(unreadable[0][0])}: {unreadable[0][1]})" if unreadable else ""
        what = what or (f" ({counted(len(others), 'member')}: {by_ending(others)})" if others else "")
        raise UserError(
            f"{source} holds no readable image{what}: give shards of images whose names end in .png, .jpg, .webp and "
            "the like"
        )
    chosen = plan(tally, config)
    work = [(number, one.found) for number, one in zip(numbers, scans, strict=True)]
    decoded = map_in_processes(partial(digests, shards.names, chosen), work, 1, SERIAL_SHARDS)
    kept: list[tuple[int, FoundImage, bytes]] = []
    for (number, found), results in zip(work, track(decoded, "decoding shards", len(shards)), strict=True):
        for one, result in zip(found, results, strict=True):
            if isinstance(result, str):
                unreadable.append((one.name, result))
            else:
                kept.append((number, one, result))
    _store(stage, kept)
    notes = [*chosen.notes, *_unreadable_texts([bad for one in scans for bad in one.unreadable_texts])]
    for names, what in (
        ([name for one in scans for name in one.orphans], "belong to no image"),
        ([name for one in scans for name in one.unused], "beside images are not read"),
    ):
        notes += [f"{len(names):,} members {what} ({by_ending(names)})"] if names else []
    counts = Counter((number, one.name) for number, one, _ in kept)
    if repeated := [name for (_, name), count in counts.items() if count > 1]:
        them = "1 name occurs" if len(repeated) == 1 else f"{len(repeated):,} names occur"
        notes.append(f"{them} more than once in a shard ({some(repeated)}): each file is an image of its own")
    if odd := list(dict.fromkeys(name for one in scans for name in one.odd)):
        notes.append(
            f"the fields {some(odd)} of .json members are not used: they hold boxes, lists, records, long texts"
        )
    names = list(dict.fromkeys(name for _, one, _ in kept for name in one.columns))[:MOST_COLUMNS]
    longer = sum(
        number for one, number in tally.items() if strip_shape((one.height, one.width), chosen.shape) != chosen.shape
    )
    record = {
        "longer": longer,
        "headers": tally.total(),
        "columns": {name: [one.columns.get(name) for _, one, _ in kept] for name in names},
        "shape": chosen.shape,
        "grey": chosen.grey,
        "background": chosen.background,
        "modes": _tally(tally, lambda h: h.mode),
        "formats": _tally(tally, lambda h: h.format),
        "sizes": _tally(tally, lambda h: f"{h.width}x{h.height}"),
        "labels": [one.label for _, one, _ in kept],
        "captions": [one.caption for _, one, _ in kept],
        "files": [one.name for _, one, _ in kept],
        "unreadable": sorted(unreadable),
        "notes": notes,
    }
    cache.write_json(stage / "record.json", record)


def _unreadable_texts(texts: list[tuple[str, str]]) -> tuple[str, ...]:
    """A sentence on the classes and captions that could not be read, if there are any."""
    if not texts:
        return ()
    (name, reason), more = texts[0], f", and {len(texts) - 1} more" if len(texts) > 1 else ""
    return (f"a class or caption could not be read and is left empty: {printable(name)} is {reason}{more}",)


def _store(stage: Path, kept: list[tuple[int, FoundImage, bytes]]) -> None:
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
        return None, (), (f"{bare} of {len(given)} images have no .cls, so the classes are left out: give each one",)
    whole = all(text.isdecimal() and len(text) <= LONGEST_NUMBER for text in given)
    values = np.array([int(text) for text in given]) if whole else np.array(given)
    labels, names = labels_of(values, len(given), source)
    return labels, names, ()
