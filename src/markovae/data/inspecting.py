"""What a source holds, for `markovae inspect` and before training."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from markovae.columns import Column, understand
from markovae.data.data_config import DataConfig, as_config
from markovae.data.images import ImageData
from markovae.data.loading import absent_classes, range_note, read_source, splits_of
from markovae.data.source import Source

# A channel mean this far from another, as a share of the range, is called a cast.
CAST = 0.1
SHOWN = 10


@dataclass(frozen=True)
class Inspection:
    """The record of a source.

    Args:
        source, kind: as asked for, and what it is: a key of `KINDS`.
        count, shape, bins, bytes: images; (C, H, W) of each; grey values; memory of all pixels.
        modes, formats, sizes: how many images of each, as stored.
        unreadable: (file, reason).
        duplicates: images beyond the first of each content.
        channel_mean, channel_std: per channel over all pixels, in grey values 0 … bins - 1.
        classes: images of each class.
        columns: of the tables beside the images: name, kind (number, category, labels), values or range, missing cells;
            or name and why it cannot condition a model.
        captions: images with one.
        caption_examples: the first few.
        split: the record a run stores (`Splits.record`).
        notes: sentences.
    """

    source: str
    kind: str
    count: int
    shape: tuple[int, int, int]
    bins: int
    bytes: int
    modes: dict[str, int]
    formats: dict[str, int]
    sizes: dict[str, int]
    unreadable: tuple[tuple[str, str], ...]
    duplicates: int
    channel_mean: tuple[float, ...]
    channel_std: tuple[float, ...]
    classes: dict[str, int]
    columns: tuple[dict[str, Any], ...]
    captions: int
    caption_examples: tuple[str, ...]
    split: dict[str, Any]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"schema_version": 1, **asdict(self)}

    def describe(self) -> str:
        """The record as text of a few lines."""
        channels, height, width = self.shape
        lines = [
            f"{self.source}: {self.count:,} images ({self.kind})",
            f"  as trained on  {height} x {width} (height x width), {_channel_word(channels)}, "
            f"{self.bins} grey values, {self.bytes / 1e6:,.1f} MB",
            f"  pixel modes    {_tally(self.modes)}",
        ]
        if self.formats:
            lines.append(f"  file formats   {_tally(self.formats)}")
        if self.sizes:
            lines.append(f"  stored sizes   {_tally(self.sizes)}")
        lines.append(f"  channel means  {_numbers(self.channel_mean)} of {self.bins - 1}")
        lines.append(f"  channel stds   {_numbers(self.channel_std)}")
        lines.append(f"  classes        {_tally(self.classes) if self.classes else 'none'}")
        for place, column in enumerate(self.columns):
            lines.append(f"  {'columns' if not place else '':<13}  {_column_words(column)}")
        lines.append(f"  captions       {f'{self.captions:,}' if self.captions else 'none'}")
        lines += [f"                   “{'” “'.join(text.splitlines())}”" for text in self.caption_examples]
        lines.append(f"  duplicates     {self.duplicates:,}")
        counts = ", ".join(f"{self.split[part]['count']:,} {part}" for part in ("train", "validation", "test"))
        lines.append(f"  split          {counts} ({self.split['method']})")
        lines += _listed("unreadable", self.unreadable)
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def inspect(source: DataConfig | str | Path) -> Inspection:
    """Read a source as training would and summarize it.

        print(mv.inspect("photos/").describe())

    Args:
        source: faces, digits, a folder, an array file or shards; or the `[data]` section, which has settings too.
    Raises: UserError as `load_data`.
    """
    config = as_config(source)
    reading = read_source(config)
    data, found = reading.data, reading.summary
    mean, std = channel_moments(data)
    given = [text for text in data.captions or () if text]
    return Inspection(
        source=config.source,
        kind=found.kind,
        count=len(data),
        shape=data.shape,
        bins=data.bins,
        bytes=data.images.nbytes,
        modes=found.modes,
        formats=found.formats,
        sizes=found.sizes,
        unreadable=found.unreadable,
        duplicates=len(data) - len(set(data.content_hashes())),
        channel_mean=mean,
        channel_std=std,
        classes=_class_counts(data),
        columns=tuple(_columns(data, reading.split.train.tolist())),
        captions=len(given),
        caption_examples=tuple(given[:3]),
        split=splits_of(reading).record(),
        notes=(*found.notes, *_notes(reading, mean)),
    )


def channel_moments(data: ImageData) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all pixels, exact sums, in grey values."""
    total = [0] * data.shape[0]
    squares = [0] * data.shape[0]
    for start in range(0, len(data), 1024):
        block = np.asarray(data.images[start : start + 1024], dtype=np.int64)
        for channel in range(data.shape[0]):
            total[channel] += int(block[:, channel].sum())
            squares[channel] += int((block[:, channel] ** 2).sum())
    count = len(data) * data.shape[1] * data.shape[2]
    mean = tuple(value / count for value in total)
    # Whole numbers up to the last division, so no rounding can turn a variance negative.
    std = tuple(math.sqrt((count * q - t * t) / count**2) for t, q in zip(total, squares, strict=True))
    return mean, std


def _notes(reading: Source, mean: Sequence[float]) -> list[str]:
    data = reading.data
    notes = []
    spread = max(mean) - min(mean)
    if len(mean) == 3 and spread > CAST * (data.bins - 1):
        strongest = ("red", "green", "blue")[int(np.argmax(mean))]
        notes.append(
            f"the images have a {strongest} cast: channel means differ by {spread:.0f} of {data.bins - 1}; "
            "good samples have it too"
        )
    labels = None if data.labels is None else data.labels[reading.split.train]
    notes += range_note(data)
    classes = set(data.class_names)
    other = {name: cells for name, cells in data.columns.items() if set(cells) != classes}
    if names := [name for name, cells in other.items() if isinstance(understand(name, cells), Column)]:
        notes.append(f"columns condition a model with --set condition.columns=[{','.join(names[:4])}]")
    if data.captions is not None and any(map(str.strip, data.captions)):
        notes.append("captions condition a model where most images have one, or with condition.kind=text")
    notes += absent_classes(labels, data.class_names)
    return notes


def _columns(data: ImageData, train: Sequence[int]) -> Iterator[dict[str, Any]]:
    for name, cells in data.columns.items():
        column = understand(name, (cells[i] for i in train))
        missing = sum(cell is None for cell in cells)
        if isinstance(column, str):
            yield {"name": name, "kind": None, "reason": column, "missing": missing}
        else:
            yield {**column.to_dict(), "missing": missing}


def _column_words(column: dict[str, Any]) -> str:
    if column["kind"] is None:
        return f"{column['name']}: not usable as a condition, {column['reason']}"
    if column["kind"] == "number":
        what = f"{column['low']:g}…{column['high']:g}, mean {column['mean']:.3g}, std {column['std']:.3g}"
    else:
        names = column["values"]
        what = ", ".join(names[:SHOWN]) + (f", and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
        what = f"any of {what}" if column["kind"] == "labels" else what
    missing = f"; {column['missing']:,} missing" if column["missing"] else ""
    return f"{column['name']}: {what}{missing}"


def _class_counts(data: ImageData) -> dict[str, int]:
    if data.labels is None:
        return {}
    counts = Counter(data.labels.tolist())
    return {name: counts[number] for number, name in enumerate(data.class_names)}


def _channel_word(channels: int) -> str:
    return "grey" if channels == 1 else "rgb"


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.1f}" for value in values)


def _tally(counts: dict[str, int]) -> str:
    shown = [f"{name} {count:,}" for name, count in list(counts.items())[:SHOWN]]
    return ", ".join(shown) + (f", and {len(counts) - SHOWN} more" if len(counts) > SHOWN else "")


def _listed(title: str, files: Sequence[tuple[str, str]]) -> list[str]:
    lines = [f"  {title}     {len(files):,}"] if files else []
    lines += [f"    {path}: {reason}" for path, reason in files[:SHOWN]]
    if len(files) > SHOWN:
        lines.append(f"    and {len(files) - SHOWN:,} more")
    return lines
