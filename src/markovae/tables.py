"""Frozen dataclasses to tables and back, strictly, and the checks of ranges and words that configs use."""

from __future__ import annotations

import functools
import inspect
import math
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar

from markovae.errors import UserError
from markovae.strict_json import shortened, shown
from markovae.synonyms import meant, nearest, suggestion

MAX_WIDTH = 1 << 14  # channels, features, units of an embedding
MAX_LEVELS = 12  # of a U-Net: 4,096 pixels halved to one
MAX_FACTOR = 64  # of a width; blocks a level; sides of a patch
MAX_COUNT = 1 << 53  # whole numbers that a float64 counts exactly


def within(name: str, value: float, low: float, high: float, meaning: str) -> None:
    """low ≤ value ≤ high, or UserError naming the one that is passed."""
    if not value >= low:
        raise UserError(f"{name}={_told(value)} must be at least {low:g}: {meaning}")
    if not value <= high:
        raise UserError(f"{name}={_told(value)} must be at most {high:g}: {meaning}")


def between(name: str, value: float, low: float, high: float, meaning: str) -> None:
    """low ≤ value ≤ high, or UserError."""
    if not low <= value <= high:
        raise UserError(f"{name}={_told(value)} must lie in {low:g}…{high:g}: {meaning}")


def whole_numbers(name: str, values: Sequence[int], most: int, meaning: str) -> None:
    """One number from 1 to `most` for each of 1…12 levels, or UserError."""
    if not 1 <= len(values) <= MAX_LEVELS or not all(1 <= value <= most for value in values):
        raise UserError(
            f"{name}={shown(list(values))} must be numbers of 1…{most:,} for 1…{MAX_LEVELS} levels: {meaning}"
        )


def above(name: str, value: float, limit: float, meaning: str) -> None:
    """value > limit, or UserError."""
    if not value > limit:
        raise UserError(f"{name}={_told(value)} must be above {limit:g}: {meaning}")


def at_least_one(**values: int | None) -> None:
    """Refuse numbers below 1, and what is not a whole number.

    Raises:
        UserError: naming it.
    """
    for name, value in values.items():
        if value is not None and not hasattr(value, "__index__"):
            raise UserError(f"{name}={value!r} must be a whole number")
        if value is not None and value < 1:
            raise UserError(f"{name}={value} must be at least 1")


def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """A word from a list, or UserError naming the nearest one."""
    if value not in known:
        raise UserError(f"{name}={shown(value)} must be one of {', '.join(known)}{suggestion(value, known)}")


def _told(value: float) -> str:
    """A number in six digits; whole ones may be larger than any float."""
    return f"{value:g}" if abs(value) < 1 << 63 or isinstance(value, float) else shown(value)


Record = TypeVar("Record")
RENAMED = {
    "network.channels": "network.width",
    "network.num_channels": "network.width",
    "train.law": "train.level_sampling",
    "train.law_centre": "train.level_center",
    "train.law_width": "train.level_width",
    "train.law_logsnr": "train.level_logsnr",
    "train.law_density": "train.level_density",
    "train.rest_lr": "train.adamw_lr",
    "train.optimiser": "train.optimizer",  # codespell:ignore optimiser
}
MAX_NAME = 100  # characters of a name that likeness is looked for with
MAX_TEXT = 65_536  # characters of one text
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def to_table(record: Any) -> dict[str, Any]:
    """A dataclass as a table of what TOML can hold; None is left out."""
    table: dict[str, Any] = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if is_dataclass(value):
            table[field.name] = to_table(value)
        elif value is not None:
            table[field.name] = list(value) if isinstance(value, tuple) else value
    return table


def from_table(kind: type[Record], table: Mapping[str, Any], where: str = "") -> Record:
    """The dataclass that a table describes; keys left out keep their defaults.

    Args:
        where: dotted name of the table, for messages.
    Raises:
        UserError: for an unknown key (the nearest known one is named) or a value of another type.
    """
    hints = _hints(kind)  # type: ignore[arg-type]
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{where}.{key}" if where else key
        if key not in known:
            raise unknown(name, names_of(kind, where))
        if (section := _section(hints[key])) is not None:
            if not isinstance(value, Mapping):
                raise UserError(f"{name}={shown(value)} must be a section: write [{name}] with settings below it")
            values[key] = from_table(section, value, name)
        else:
            values[key] = _convert(value, hints[key], name, known[key].default)
    return kind(**values)


def spelled(text: str) -> str:
    """TOML text with the bytes of paths that are no UTF-8, which TOML has no letters for, as \\u0000 and two digits.

    No path holds a NUL, so nothing else is written so; `from_table` reads it.
    """
    return re.sub("[\udc80-\udcff]", lambda byte: f"\\u0000{ord(byte[0]) - 0xDC00:02x}", text)


def _unspelled(text: str) -> str:
    return re.sub("\0([89a-f][0-9a-f])", lambda byte: chr(0xDC00 + int(byte[1], 16)), text) if "\0" in text else text


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    """Types of a dataclass's fields, kept: Python evaluates their text anew at each call."""
    return typing.get_type_hints(kind)


def names_of(kind: type, where: str = "") -> list[str]:
    """Dotted names of every setting below a dataclass."""
    hints = _hints(kind)
    names = []
    for field in fields(kind):
        name = f"{where}.{field.name}" if where else field.name
        section = _section(hints[field.name])
        names += [name] if section is None else names_of(section, name)
    return names


def _section(hint: Any) -> type | None:
    """The dataclass that a declared type is, or is where it is not None; None for a plain value."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return next((kind for kind in kinds if is_dataclass(kind) and isinstance(kind, type)), None)


def unknown(name: str, known: list[str]) -> UserError:
    """The error for a setting that does not exist, naming the nearest one that does, or what it is called now."""
    if name in RENAMED:
        return UserError(f"unknown setting {name}: it is {RENAMED[name]}")
    near, text = _nearest(name[:MAX_NAME], known), meant(name[:MAX_NAME])
    if near is not None:
        hint = f"did you mean {near}?"
    elif text is not None:
        hint = text if " " in text.partition("(")[0].strip() else f"it is {text}"
    else:
        hint = "markovae train --settings lists them all"
    return UserError(f"unknown setting {shortened(name)}: {hint}")


def parse_setting(text: str, kind: type) -> tuple[list[str], Any]:
    """("a.b=c") -> (["a", "b"], value of the type that `kind` declares there).

    Raises:
        UserError: without "=", for an unknown name, or for a value of another type.
    """
    name, equals, raw = text.partition("=")
    name = name.strip()
    known = names_of(kind)
    if not equals:
        near = _nearest(name[:MAX_NAME], known) or "train.batch"
        raise UserError(f"--set {shortened(text)}: write it as section.name=value, for instance {near}=...")
    if name not in known:
        raise unknown(name, known)
    path = name.split(".")
    hint: Any = kind
    for part in path:
        hint = _hints(_section(hint) or hint)[part]
    return path, _parse_value(raw.strip(), hint)


def _parse_value(raw: str, hint: Any) -> Any:
    if isinstance(hint, types.UnionType):
        if raw.lower() in ("none", ""):
            return None
        (hint,) = [part for part in typing.get_args(hint) if part is not type(None)]
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except (ValueError, KeyError, RecursionError):  # text without quotes; what only looks like a number is one, too
        value = raw
    if hint is str and not isinstance(value, str):
        return raw
    listed = typing.get_origin(hint) is tuple
    if listed and typing.get_args(hint)[0] is str and isinstance(value, str):  # [age, smiling] without quotes, or age
        inside = value.removeprefix("[").removesuffix("]")
        return [one.strip() for one in inside.split(",")] if value.startswith("[") else [value]
    if isinstance(value, int) and not isinstance(value, bool) and listed:
        return [value]
    return value


def _nearest(name: str, known: list[str]) -> str | None:
    """The setting whose whole name, or else whose last part, is spelled almost like `name`; or the section."""
    if (whole := nearest(name, known, 0.9)) is not None:
        return whole
    leaves = {candidate.rpartition(".")[2]: candidate for candidate in reversed(known)}
    if (leaf := nearest(name.rpartition(".")[2], leaves)) is not None:
        return leaves[leaf]
    sections = {candidate.rpartition(".")[0] for candidate in known} - {name}
    return nearest(name, sections)


def explained(kind: type, where: str = "") -> list[tuple[str, Any, str]]:
    """(dotted name, default, what it is) of every setting below a dataclass, by the Args of its docstring."""
    hints, told = typing.get_type_hints(kind), _entries(kind.__doc__ or "")
    rows: list[tuple[str, Any, str]] = []
    for field in fields(kind):
        name = f"{where}.{field.name}" if where else field.name
        section = _section(hints[field.name])
        if section is None:
            rows.append((name, field.default, told.get(field.name, "")))
        else:
            rows += explained(section, name)
    return rows


def _entries(docstring: str) -> dict[str, str]:
    """The names under Args, each with its text: "name: text" on lines of their own, or three spaces apart."""
    # Python 3.13 takes the indentation away, earlier ones keep it.
    body = inspect.cleandoc(docstring).partition("Args:\n")[2].partition("\n\n")[0].partition("\nRaises:")[0]
    found = {}
    heads = list(re.finditer(r"(?:^ {4}|(?<=\S) {3})(\w+(?:, \w+)*): ", body, re.MULTILINE))
    for head, after in zip(heads, [*heads[1:], None], strict=True):
        text = " ".join(body[head.end() : None if after is None else after.start()].split())
        found.update(dict.fromkeys(head[1].split(", "), text))
    return found


def _convert(value: Any, hint: Any, name: str, default: Any) -> Any:
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        (hint,) = [part for part in typing.get_args(hint) if part is not type(None)]
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{name}={shown(value)} must be a list, for instance {list(_example(default))}")
        inner = typing.get_args(hint)[0]
        return tuple(_convert(item, inner, f"{name}[{i}]", MISSING) for i, item in enumerate(value))
    if type(value) is int and not -(1 << 63) <= value < 1 << 63:
        raise UserError(f"{name}={shown(value)} has more than 64 bits: no setting is that large")
    if hint is float and type(value) is int:
        value = float(value)
    if type(value) is not hint and not (hint is str and isinstance(value, str)):  # which may be a `FromFile`
        example = "" if default in (MISSING, None) else f" (the default is {default!r})"
        raise UserError(f"{name}={shown(value)} must be {_WORDS[hint]}{example}")
    if hint is float and not math.isfinite(value):
        raise UserError(f"{name}={value!r} must be a finite number")
    return _text(_unspelled(value), name) if hint is str else value


def _text(value: str, name: str) -> str:
    """Bytes of a path that are no UTF-8 are surrogates, as Python has them; a lone one of another kind is nothing."""
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise UserError(f"{name}={shown(value)} is not text: it holds half of a surrogate pair") from None
    if len(value) > MAX_TEXT or "\0" in value:
        raise UserError(f"{name}={shown(value)} must have at most {MAX_TEXT:,} characters, and no NUL among them")
    return value


def _example(default: Any) -> tuple[Any, ...]:
    return default if isinstance(default, tuple) and default else (1,)
