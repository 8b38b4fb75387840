"""Locations beyond this machine: which may be opened, who named them, and what of them may be shown."""

from __future__ import annotations

import re
from typing import final
from urllib.parse import unquote

SCHEMES = ("file", "http", "https", "s3", "gs", "hf")
_URL = re.compile(
    r"""(?P<scheme>[a-zA-Z][\w+.-]*://)
    (?P<user>[^\s/?\#"'<>]*@ | [^\s/?\#"'<>:]*:(?!\d*(?:[/?\#\s"'<>:)]|$))[^\s"'<>]*@)?  # a password may hold "/"
    (?P<path>[^\s?\#"'<>]*)
    (?P<query>[?\#][^\s"'<>]*)?""",
    re.VERBOSE,
)


@final
class FromFile(str):
    """A location that a file gave: equal to the text, and never opened beyond this machine.

    The person's own words are plain `str`: a command line, or a program that calls the library.
    """

    __slots__ = ()


def is_elsewhere(location: str) -> bool:
    """Whether a location is a URL and no path of this machine."""
    return "://" in location


def refusal(location: str) -> str | None:
    """Why a URL is not one that is opened, in a sentence; None where it is.

    Chains ("::") and schemes beyond `SCHEMES` are refused: some run or fetch what the location itself says.
    """
    shown = without_secrets(location)
    if "::" in location:
        return f"{shown} chains several locations with '::', which is not opened: give the shards themselves"
    if location.partition("://")[0] not in SCHEMES:
        return f"{shown} has a scheme that is not opened: give {', '.join(f'{name}://' for name in SCHEMES)} or a path"
    return None


def without_secrets(text: str) -> str:
    """A text whose URLs have no user, password, query or fragment: these may be keys, not to be stored or shown."""
    return _URL.sub(r"\g<scheme>\g<path>", text) if "://" in text else text


def without_secrets_of(location: str, text: str) -> str:
    """What a library said of a URL, without the secrets of that URL, in whatever form it repeats them."""
    parts = _URL.match(location)
    pieces = re.split(r"[@:?#&=]", f"{parts['user'] or ''}{parts['query'] or ''}") if parts else []
    for secret in sorted({form for piece in pieces for form in (piece, unquote(piece))}, key=len, reverse=True):
        if len(secret) > 3:
            text = text.replace(secret, "…")
    return without_secrets(text)
