"""JSON from untrusted files: only what every later step can hold, print and write again."""

from __future__ import annotations

import json
import math
from typing import Any

MAX_DEPTH = 32
MAX_SHOWN = 80


def parse_object(content: bytes | str, *, finite: bool = True, bits: int = 64) -> dict[str, Any]:
    """A JSON object whose whole numbers have `bits` bits, whose texts are UTF-8 and which nests at most 32 deep.

    Args:
        finite: refuse NaN and infinities, which JSON itself lacks.
        bits: of a whole number, its sign included.
    Raises:
        ValueError: for anything else, in one clause ("is not JSON: …").
    """
    value = parse(content, finite=finite, bits=bits)
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    return value


def parse(content: bytes | str, *, finite: bool = True, bits: int = 64) -> Any:
    """`parse_object` of any JSON value. Raises: ValueError as it does."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = "it nests too deep" if isinstance(error, RecursionError) else shortened(str(error))
        raise ValueError(f"is not JSON: {reason}") from None
    _check(value, finite, bits)
    return value


def finite(value: float) -> float | None:
    """The number, or None where it is NaN or infinite, for which JSON has no word."""
    return float(value) if math.isfinite(value) else None


def shown(value: Any) -> str:
    """repr(value) in at most 80 characters, whatever it is."""
    try:
        return shortened(repr(value))
    except (ValueError, RecursionError):  # a whole number of thousands of digits, lists in lists
        return f"a {type(value).__name__} too long to show"


def shortened(text: str) -> str:
    """Its first 80 characters."""
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def is_text(value: str) -> bool:
    """Whether it is text or the name of a file: bytes of a name that are not UTF-8 are surrogates, as in Python.

    Other lone surrogates, as JSON's escapes can give, are refused.
    """
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _check(value: Any, finite: bool, bits: int) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"nests more than {MAX_DEPTH} deep")
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item)
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
            elif type(item) is str:
                if not item.isascii() and not is_text(item):
                    raise ValueError(f"holds text that is not UTF-8: {shown(item)}")
            elif type(item) is int:
                if not -(1 << bits - 1) <= item < 1 << bits - 1:
                    raise ValueError(f"holds a whole number of more than {bits} bits: {shown(item)}")
            elif type(item) is float and finite and not math.isfinite(item):
                raise ValueError("holds NaN or Inf")
        level = inner
