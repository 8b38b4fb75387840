"""Shards as a source: tar files written by `markovae shard`, or anyone's in the WebDataset layout."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import PIL

from markovae.console import printable, track
from markovae.data import cache
from markovae.data.findings import Findings, Reading
from markovae.data.images import ImageData, Indices, Pixels
from markovae.data.layout import labels_of
from markovae.data.options import DataConfig
from markovae.data.places import Shards, named
from markovae.data.plan import Plan, plan
from markovae.data.record import ShardRecord, read_record
from markovae.data.scan import Header
from markovae.data.scanning import Found, Scan, digests, scan
from markovae.data.split import Parts, split_by_content
from markovae.data.stored import Index, StoredImages
from markovae.data.workers import map_in_processes
from markovae.errors import UserError
from markovae.locations import is_elsewhere, without_secrets

RECIPE = "shards-5"
# Below this many shards the work takes less time than starting workers.
SERIAL_SHARDS = 4
LONGEST_NUMBER = 18  # digits of a class that counts as a number; longer ones are words
COLUMNS = ("shard", "offset", "size", "digest")


def read_shards(config: DataConfig) -> Reading:
    """Shards, in place: what `markovae shard` wrote brings its own split; others are looked through once.

    Raises: UserError for shards that are missing or damaged, or hold too few images.
    """
    source = config.source if is_elsewhere(config.source) else str(Path(config.source).expanduser())
    record = read_record(source)
    if record is not None:
        return _own(record, config, source)
    return _others(Shards(named(source)), config, source)


def _own(record: ShardRecord, config: DataConfig, source: str) -> Reading:
    """Shards that `markovae shard` wrote, with the split that was made then."""
    shards = Shards(record.names)
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
    parts = Parts(train, validation, test, record.method, record.seed, record.left_out)
    notes = (f"{len(shards)} shards written by markovae shard from {record.source}", *chosen.notes)
    size = f"{shape[1]}x{shape[0]}"
    if not as_stored:
        notes += (f"their parts were made at {size}: images alike at {wanted[1]}x{wanted[0]} alone may be in two",)
    return Reading(
        data, parts, Findings("shards", {one.mode: len(data)}, {"PNG": len(data)}, {size: len(data)}, (), notes)
    )


def _lost(record: ShardRecord, shard: int, there: int) -> str:
    """What it costs that only the first `there` bytes of a shard are there, in words."""
    index = record.index
    inside = index.shard == shard
    lost = int((inside & (index.offset + index.size > there)).sum())
    return f"{lost:,} of its {int(inside.sum()):,} images are missing, of {len(index):,} in all"


def _others(shards: Shards, config: DataConfig, source: str) -> Reading:
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
    findings = Findings(
        "shards",
        stored["modes"],
        stored["formats"],
        stored["sizes"],
        tuple((printable(name), reason) for name, reason in stored["unreadable"]),
        (f"{len(shards)} shards, read in place", *stored["notes"], *notes),
    )
    return Reading(data, split_by_content(data.content_hashes(), config, shown), findings)


def _read(kept: cache.Entry) -> tuple[dict[str, Any], Index]:
    return kept.json("record.json"), Index(*(kept.array(f"{name}.npy") for name in COLUMNS))


def _make(stage: Path, shards: Shards, config: DataConfig, source: str) -> None:
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
