"""Combinations of attributes that no training face shows: how well a model puts together what it never saw together."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from markovae.data.faces import Attributes, values
from markovae.errors import UserError


def combinations(texts: Sequence[str]) -> list[dict[str, str]]:
    """ "attribute=value, attribute=value" as tables, one a text.

    Raises: UserError for an attribute or value that faces do not have, or fewer than two of them.
    """
    return [_combination(text) for text in texts]


def shows(face: Attributes, wanted: Mapping[str, str]) -> bool:
    """Whether a face shows all of a combination."""
    return all(getattr(face, name) == value for name, value in wanted.items())


def _combination(text: str) -> dict[str, str]:
    known, found = values(), {}
    for part in text.split(","):
        name, _, value = (word.strip() for word in part.partition("="))
        name = name.replace(" ", "_")
        if name not in known or value not in known[name]:
            word, words = (value, list(known[name])) if name in known else (name, list(known))
            near = difflib.get_close_matches(word, words, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(
                f"data.hold_out names {part.strip()!r}: give attributes of the faces and values they take, such as "
                f"'hair=curly, glasses=round'{hint}"
            )
        found[name] = value
    if len(found) < 2:
        raise UserError(f"data.hold_out={text!r} must name at least two attributes: one alone would never be learned")
    return found
