"""Values of a JSON object that somebody else wrote: each taken once, checked, and nothing left unread."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, final

from markovae.errors import UserError
from markovae.strict_json import shortened, shown


@final
class Fields:
    """The fields of an object; a field that is missing has its default.

    Args:
        table: the object.
        name: of its file, for messages.
    Raises (each method): UserError for a value of another kind or out of its range.
    """

    def __init__(self, table: Mapping[str, Any], name: str) -> None:
        self._table, self._name = dict(table), name

    def take(self, key: str, default: Any) -> Any:
        """The value, whatever it is."""
        return self._table.pop(key, default)

    def leave(self, *keys: str) -> None:
        """Fields that say nothing here."""
        for key in keys:
            self._table.pop(key, None)

    def take_class(self, known: Sequence[str]) -> str:
        """The class that diffusers would make of the object."""
        found = self.take("_class_name", None)
        if found not in known:
            raise UserError(f"{self._name} is of class {shown(found)}: {' and '.join(known)} can be read")
        return str(found)

    def take_one_of(self, key: str, default: Any, known: Sequence[Any]) -> Any:
        """A value from a list."""
        value = self.take(key, default)
        if not any(type(value) is type(each) and value == each for each in known):
            raise self._refused(key, value, "or ".join(f"{shown(each)} " for each in known).strip())
        return value

    def take_flag(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self.take(key, default)
        if type(value) is not bool:
            raise self._refused(key, value, "true or false")
        return value

    def take_whole(self, key: str, default: int, low: int, high: int) -> int:
        """A whole number between two."""
        value = self.take(key, default)
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int or not low <= value <= high:
            raise self._refused(key, value, f"a whole number from {low:,} to {high:,}")
        return value

    def take_perhaps(self, key: str, low: int, high: int, default: int | None = None) -> int | None:
        """A whole number between two, or null."""
        if self._table.get(key, default) is None:
            self.leave(key)
            return None
        return self.take_whole(key, default or low, low, high)

    def take_number(self, key: str, default: float, low: float, high: float) -> float:
        """A number between two."""
        value = self.take(key, default)
        if type(value) not in (int, float) or not low <= value <= high:
            raise self._refused(key, value, f"a number from {low:g} to {high:g}")
        return float(value)

    def take_wholes(self, key: str, default: list[int], low: int, high: int) -> list[int]:
        """A list of whole numbers between two."""
        value = self.take(key, default)
        if not isinstance(value, list) or not value or not all(type(v) is int and low <= v <= high for v in value):
            raise self._refused(key, value, f"a list of whole numbers from {low:,} to {high:,}")
        return value

    def take_numbers(self, key: str, most: int) -> list[float] | None:
        """A list of finite numbers, or null."""
        value = self.take(key, None)
        if value is None:
            return None
        fits = isinstance(value, list) and 0 < len(value) <= most
        if not fits or not all(type(v) in (int, float) and abs(v) <= sys.float_info.max for v in value):
            raise self._refused(key, value, f"a list of at most {most:,} numbers")
        return [float(v) for v in value]

    def take_words(self, key: str, default: list[str], count: int) -> list[str]:
        """A list of so many words."""
        value = self.take(key, default)
        if not isinstance(value, list) or len(value) != count or not all(type(v) is str for v in value):
            raise self._refused(key, value, f"a list of {count} words, one per level")
        return value

    def end(self) -> None:
        """Refuse a field that was not taken and says something; names with an underscore are diffusers' own notes."""
        left = [k for k, v in self._table.items() if not k.startswith("_") and v is not None and v is not False]
        if left:
            raise UserError(
                f"{self._name} has {shortened(left[0])}={shown(self._table[left[0]])}, which is not known here: "
                "without it the model would be another one"
            )

    def _refused(self, key: str, value: Any, wanted: str) -> UserError:
        return UserError(f"{self._name} has {key}={shown(value)}: {wanted} can be read")
