"""Columns of a table beside images, as conditions: numbers, categories, and several labels at once.

A cell is a text, as tables hold it, or None where it is missing. What a column is, and on which scale, is decided once,
on the training images, and stored with the model: other images and samples are read by the same scale.

    number      (1, z, sin 2z, cos 2z) with z = (value − mean)/std: the waves let one linear layer follow a curve
    category    one of K: a one at its place
    labels      any of K, "a;b" in a table: a one at each place, and a one that says that they are known

A missing cell is zeros, and so every column has a learned value of its own for "not known".
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

from markovae.errors import UserError
from markovae.log import printable
from markovae.strict_json import parse_object, shortened, shown
from markovae.synonyms import nearest
from markovae.tables import MAX_TEXT

Cell = str | tuple[str, ...] | None
Cells = Mapping[str, Sequence[Cell]]
"""The cells of each column by its name, one an image."""

KINDS = ("number", "category", "labels")
SEVERAL = re.compile("[;|]")  # between the labels of a cell
MAX_COLUMNS, MAX_VALUES, MAX_NAME = 64, 256, 200
FEW_VALUES = 16  # different texts that are categories, however few images there are
MISSING = ("", "nan", "na", "n/a", "null")
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
COMMA = re.compile(r"[-+]?\d+(,\d+)+(\.\d+)?")
DATE = re.compile(r"(\d{4}[-/.:]\d{1,2}[-/.:]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2}))([ T]\d{1,2}:\d{2}.*)?")
MEASURED = re.compile(r"([$€£¥] ?|)([-+]?\d+(?:\.\d+)?)( ?[^\W\d_]{1,8}[²³/\w]{0,4}| ?[%°€£$]\w?|)")
LARGEST = 1e30
SWEPT = 5  # values of a number that NAME=* is


@dataclass(frozen=True)
class Column:
    """How the cells of a column become features.

    Args:
        name: of the column.
        kind: one of `KINDS`.
        values: names of the categories or labels.
        mean, std, low, high: of a number's training values.
    """

    name: str
    kind: str
    values: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0
    low: float = 0.0
    high: float = 0.0

    def __post_init__(self) -> None:
        texts = (self.name, *self.values)
        if not all(text and len(text) <= MAX_NAME and printable(text) == text for text in texts):
            raise UserError(f"invalid name of a column or value: {shown(list(texts))}")
        if self.kind not in KINDS or (self.kind == "number") != (not self.values):
            raise UserError(f"the column {self.name} has kind={shown(self.kind)} and {len(self.values)} values")
        if len(self.values) > MAX_VALUES or len(set(self.values)) < len(self.values):
            raise UserError(f"the column {self.name} must have at most {MAX_VALUES} values, all different")
        if not all(abs(number) <= LARGEST for number in (self.mean, self.std, self.low, self.high)):
            raise UserError(f"the column {self.name} has a mean, std or range beyond {LARGEST:g}")
        if not (self.std > 0 and self.low <= self.high):
            raise UserError(f"the column {self.name} has std={self.std:g} and range {self.low:g}…{self.high:g}")

    @property
    def width(self) -> int:
        """Features of a cell."""
        return 4 if self.kind == "number" else len(self.values) + (self.kind == "labels")

    def features(self, cell: Cell) -> list[float]:
        """(width,) numbers; zeros for a missing cell.

        Raises:
            UserError: for a cell that is not a number, or not a value of this column.
        """
        if cell is None:
            return [0.0] * self.width
        if self.kind == "number":
            z = (self._number(cell) - self.mean) / self.std
            if not abs(z) <= LARGEST:
                raise UserError(
                    f"{self.name}={shown(cell)} is too far from what training had, {self.low:g}…{self.high:g} with a "
                    f"standard deviation of {self.std:g}"
                )
            return [1.0, z, math.sin(2 * z), math.cos(2 * z)]
        each = labels_in(cell) if self.kind == "labels" else [str(cell)]
        for value in each:
            if value not in self.values:
                known = f"{', '.join(self.values[:12])}{', …' if len(self.values) > 12 else ''}"
                near = nearest(value, self.values, 0.6)
                hint = f"; did you mean {near}?" if near else ""
                raise UserError(f"{self.name}={shortened(printable(value))} is unknown: it is one of {known}{hint}")
        return [float(value in each) for value in self.values] + [1.0] * (self.kind == "labels")

    def _number(self, cell: Cell) -> float:
        value = number_in(cell)
        if value is None:
            raise UserError(f"{self.name}={shown(cell)} must be a number; training had {self.low:g}…{self.high:g}")
        return value

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, without what its kind has not."""
        left_out = ("values",) if self.kind == "number" else ("mean", "std", "low", "high")
        return {name: value for name, value in asdict(self).items() if name not in left_out}

    def describe(self) -> str:
        """In a few words: "age (0…97)", "smiling (no, yes)"."""
        if self.kind == "number":
            return f"{self.name} ({self.low:g}…{self.high:g})"
        more = ", …" if len(self.values) > 6 else ""
        several = "any of " if self.kind == "labels" else ""
        return f"{self.name} ({several}{', '.join(self.values[:6])}{more})"

    def outside(self, cell: Cell) -> bool:
        """Whether a number lies outside of what training has seen."""
        value = number_in(cell) if self.kind == "number" else None
        return value is not None and not self.low <= value <= self.high

    def spread(self, count: int = SWEPT) -> list[str]:
        """Values over its range: every category, or evenly spaced numbers."""
        if self.kind != "number":
            return list(self.values)
        step = (self.high - self.low) / max(count - 1, 1)
        return [f"{self.low + step * place:.4g}" for place in range(count)]


@dataclass(frozen=True)
class Columns:
    """The columns that condition a model, in order."""

    each: tuple[Column, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.each) <= MAX_COLUMNS or len(set(self.names)) < len(self.each):
            raise UserError(f"{len(self.each)} columns: 1…{MAX_COLUMNS} of different names can condition a model")

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns."""
        return tuple(column.name for column in self.each)

    @property
    def width(self) -> int:
        """Features of all of them."""
        return sum(column.width for column in self.each)

    def __getitem__(self, name: str) -> Column:
        """The column of this name.

        Raises:
            UserError: for an unknown one, naming the nearest.
        """
        if name in self.names:
            return self.each[self.names.index(name)]
        near = nearest(name, self.names, 0.6)
        hint = f"; did you mean {near}?" if near else ""
        known = ", ".join(column.describe() for column in self.each)
        raise UserError(f"the column {shortened(printable(name))} is unknown: this model has {known}{hint}")

    def to_json(self) -> str:
        """As text, for a configuration.

        Raises:
            UserError: for more values than a setting holds.
        """
        text = json.dumps({"columns": [column.to_dict() for column in self.each]}, ensure_ascii=False)
        if len(text) > MAX_TEXT:
            raise UserError(f"the values of the columns {', '.join(self.names)} are too many: name fewer columns")
        return text

    @classmethod
    def from_json(cls, text: str) -> Columns:
        """Of `to_json`, checked as anything that a file says.

        Raises:
            UserError: for anything else.
        """
        try:
            made = tuple(map(_column, parse_object(text)["columns"]))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"condition.encoding is not what training writes: {shortened(str(error))}") from None
        return cls(made)


def _column(row: Any) -> Column:
    wanted: dict[str, Any] = {"name": str, "kind": str, "values": list, **dict.fromkeys(("mean", "std"), (int, float))}
    wanted |= dict.fromkeys(("low", "high"), (int, float))
    if type(row) is not dict or not {"name", "kind"} <= row.keys() <= wanted.keys():
        raise ValueError("a column needs name and kind")
    for name, value in row.items():
        if isinstance(value, bool) or not isinstance(value, wanted[name]):
            raise ValueError(f"{name}={shown(value)}")
    values = row.pop("values", [])
    if not all(type(value) is str for value in values):
        raise ValueError(f"values={shown(values)}")
    return Column(**row, values=tuple(values))


def cell_of(value: Any) -> Cell:
    """What a field of a table, or a value of Python, says.

    Raises:
        ValueError: for a structure: boxes, lists of numbers, records.
    """
    if value is None:
        return None
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:  # a number of numpy, a tensor of one
        value = value.item()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return None if value != value else repr(value)
    if isinstance(value, str):
        text = " ".join(value.split())
        return None if text.lower() in MISSING else text
    if isinstance(value, list | tuple | set | frozenset) and all(isinstance(one, str) for one in value):
        return tuple(" ".join(one.split()) for one in value)
    raise ValueError(f"a {type(value).__name__} that is not a list of texts")


def number_in(cell: Cell) -> float | None:
    """The number that a cell holds, or None."""
    if not isinstance(cell, str) or not NUMBER.fullmatch(cell):
        return None
    value = float(cell)
    return value if abs(value) <= LARGEST else None


def labels_in(cell: Cell) -> list[str]:
    """The labels that a cell names."""
    each = SEVERAL.split(cell) if isinstance(cell, str) else list(cell or ())
    return [label.strip() for label in each if label.strip()]


def understand(name: str, cells: Iterable[Cell]) -> Column | str:
    """What a column is, by the cells of training images; or why it cannot condition a model, in a clause."""
    counts = Counter(cell for cell in cells if cell is not None)
    total = counts.total()
    if not total:
        return "it is empty"
    numbers = {cell: number_in(cell) for cell in counts}
    if None not in numbers.values():
        return _numeric(name, [(cast(float, numbers[cell]), count) for cell, count in counts.items()], total)
    if all(isinstance(cell, str) and COMMA.fullmatch(cell) for cell in counts):
        return f"its numbers have commas ({next(iter(counts))}): write 0.5, and 1000"
    if why := _almost_numbers([str(cell) for cell in counts]):
        return why
    several = any(isinstance(cell, tuple) or SEVERAL.search(cell) for cell in counts)
    values = sorted({label for cell in counts for label in (labels_in(cell) if several else [str(cell)])})
    if len(values) < 2 and not several:
        return f"every image has {shortened(printable(values[0]))}"
    if not values:
        return "it names no label"
    if len(values) > MAX_VALUES or (len(values) > FEW_VALUES and 2 * len(values) > total):
        odd = next((cell for cell in counts if numbers[cell] is None), values[0])
        example = shortened(printable(str(odd)))
        if sum(count for cell, count in counts.items() if numbers[cell] is not None) * 2 > total:
            return f"it holds numbers, and others ({example})"
        return f"{len(values):,} different texts ({example}, …) are no categories"
    try:
        return Column(name, "labels" if several else "category", tuple(values))
    except UserError as error:
        return str(error)


def _almost_numbers(texts: Sequence[str]) -> str:
    """Why texts that are all dates, or numbers with one unit, are neither numbers nor categories; "" for others.

    Two different ones may be categories: 2D and 3D.
    """
    if len(texts) < 3:
        return ""
    example = shortened(printable(texts[0]))
    if all(map(DATE.fullmatch, texts)):
        return f"it holds dates ({example}): write numbers, such as the year"
    found = [MEASURED.fullmatch(text) for text in texts]
    units = {(match[1], match[3]) for match in found if match}
    if all(found) and len(units) == 1:
        bare = next(match[2] for match in found if match)
        return f"its numbers have a unit ({example}): write {bare}"
    return ""


def _numeric(name: str, values: list[tuple[float, int]], total: int) -> Column | str:
    low, high = min(value for value, _ in values), max(value for value, _ in values)
    if low == high:
        return f"every image has {low:g}"
    mean = math.fsum(value * (count / total) for value, count in values)
    std = math.sqrt(math.fsum((value - mean) ** 2 * (count / total) for value, count in values))
    try:
        return Column(name, "number", (), mean, std, low, high)
    except UserError as error:
        return str(error)


def columns_named(names: Sequence[str], cells: Cells) -> Columns:
    """What the columns that somebody named are.

    Raises:
        UserError: for one that is not there, with the nearest, or that cannot condition a model, with the reason.
    """
    made = []
    for name in names:
        if name not in cells:
            near = nearest(name, list(cells), 0.6)
            hint = f"; did you mean {near}?" if near else ""
            known = (
                f"they have {', '.join(map(printable, list(cells)[:20]))}" if cells else "no table beside them has any"
            )
            raise UserError(f"condition.columns: the images have no column {shortened(printable(name))}: {known}{hint}")
        column = understand(name, cells[name])
        if isinstance(column, str):
            raise UserError(f"condition.columns: {shortened(printable(name))} cannot condition a model: {column}")
        made.append(column)
    return Columns(tuple(made))


def written(text: str, columns: Columns) -> tuple[str, list[Cell]]:
    """ "NAME=VALUE" as a column's name and its values: one, or several to be swept over.

    A number may be a range, 20..60:5 (five values), and any value a list, a,b,c; * is the whole column; nothing, or
    none, the missing cell.

    Raises:
        UserError: for an unknown column or value, or a text without "=".
    """
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
        raise UserError(f"--where {shortened(printable(text))}: write it as NAME=VALUE, such as {columns.names[0]}=…")
    column = columns[name]
    values = _values(column, value)
    for one in values:
        column.features(one)
    return name, values


def _values(column: Column, text: str) -> list[Cell]:
    if text in column.values:
        return [text]
    if text == "*":
        return list(column.spread())
    if text.lower() in (*MISSING, "none"):
        return [None]
    if column.kind == "number" and ".." in text:
        return list(_range(column, text))
    return [cell_of(one) for one in text.split(",")]


def _range(column: Column, text: str) -> list[str]:
    ends, _, count = text.partition(":")
    low, high = (number_in(end.strip()) for end in ends.split("..", 1))
    steps = int(count) if count.isdecimal() and len(count) < 4 else SWEPT if not count else 0
    if low is None or high is None or steps < 2:
        raise UserError(
            f"{column.name}={shortened(printable(text))} must be a range LOW..HIGH:COUNT, such as "
            f"{column.low:g}..{column.high:g}:{SWEPT}"
        )
    return [f"{low + (high - low) * place / (steps - 1):.4g}" for place in range(steps)]
