"""The captions of the embedded faces, read again: their phrases, and what each attribute could be instead."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from markovae.data import faces
from markovae.data.faces import Attributes, caption, phrases

# What can be swapped alone, the rest of the sentence left as it is.
SWAPPED = (
    "background",
    "skin",
    "hair",
    "hair_colour",
    "headwear",
    "headwear_colour",
    "eyes",
    "mouth",
    "glasses",
    "beard",
    "shirt",
)
_PLAIN = Attributes(
    "blue", "pale", "bald", "none", "none", "none", "hidden", "straight", "none", "none", "none", "grey", variant=0
)
_SENTENCE = re.compile(r"a face with (.+) and ([a-z ]+), in an? ([a-z]+) shirt on an? ([a-z]+) background")


def read_face(text: str) -> Attributes | None:
    """The attributes that a face's caption names, `variant` 0; None for any other text."""
    match = _SENTENCE.fullmatch(text)
    if match is None:
        return None
    listed, mouth, shirt, background = match.groups()
    mouths = {words: name for name, words in faces.MOUTH_WORDS.items()}
    known = _known()
    found = {"shirt": shirt, "background": background, "mouth": mouths.get(mouth, "")}
    for part in listed.split(", "):
        if part not in known:
            return None
        found |= known[part]
    face = replace(_PLAIN, **found)  # type: ignore[arg-type]
    try:
        return face if caption(face) == text else None
    except KeyError:
        return None


def swaps(face: Attributes, attribute: str) -> list[Attributes]:
    """The face with every value that this attribute could have, its own first, all else that is said unchanged.

    Where something must follow (a beard has the hair's colour, nobody is said to have eyes behind sunglasses) it does;
    what no face of the data set shows is left out. A list of one where there is nothing to swap.
    """
    others = [other for other in _others(face, attribute) if caption(other) != caption(face)]
    return [face, *others]


def _others(face: Attributes, attribute: str) -> Iterator[Attributes]:
    if attribute in ("background", "mouth", "shirt"):
        yield from _each(face, attribute, faces.values()[attribute])
    elif attribute == "skin":
        yield from _each(
            face, "skin", [skin for skin in faces.SKINS if (skin, face.hair_colour) not in faces.INDISTINCT]
        )
    elif attribute == "eyes" and face.eyes != "hidden":
        yield from _each(face, "eyes", [eyes for eyes in faces.EYES if eyes != "hidden"])
    elif attribute == "glasses":
        for glasses in faces.GLASSES:
            hidden = glasses == "sunglasses" or face.glasses == "sunglasses"
            yield replace(face, glasses=glasses, eyes="hidden" if hidden else face.eyes)
    elif attribute == "headwear_colour" and face.headwear != "none":
        yield from _each(face, attribute, faces.HEADWEAR_COLOURS)
    elif attribute == "headwear" and face.headwear != "none":
        yield from _each(face, attribute, _allowed(face, faces.HEADWEAR, faces.BEARDLESS_HEADWEAR))
    elif attribute == "hair" and face.hair not in ("hidden", "bald"):
        yield from _each(face, attribute, _allowed(face, faces.HAIR, faces.BEARDLESS_HAIR))
    elif attribute == "hair_colour" and face.hair_colour in faces.HAIR_COLOURS:
        for colour in faces.HAIR_COLOURS:
            if (face.skin, colour) not in faces.INDISTINCT:
                yield replace(face, hair_colour=colour, beard_colour="none" if face.beard == "none" else colour)
    elif attribute == "beard":
        yield from _beards(face)


def _beards(face: Attributes) -> Iterator[Attributes]:
    colour = face.hair_colour if face.hair_colour in faces.HAIR_COLOURS else face.beard_colour
    if colour == "none" or face.hair in faces.BEARDLESS_HAIR or face.headwear in faces.BEARDLESS_HEADWEAR:
        return
    for beard in faces.BEARDS:
        yield replace(face, beard=beard, beard_colour="none" if beard == "none" else colour)


def _allowed(face: Attributes, table: object, beardless: frozenset[str]) -> list[str]:
    assert isinstance(table, dict)
    return [name for name in table if name not in ("none", "bald") and (face.beard == "none" or name not in beardless)]


def _each(face: Attributes, attribute: str, values: object) -> Iterator[Attributes]:
    for value in values:  # type: ignore[attr-defined]
        if value not in ("none", "hidden"):
            yield replace(face, **{attribute: value})


def _known() -> dict[str, dict[str, str]]:
    """Each phrase between "with" and the mouth, and the attributes that it names."""
    made = [("skin", {"skin": skin}) for skin in faces.SKINS]
    made += [("head", {"hair": "bald", "hair_colour": "none"})]
    for colour in faces.HAIR_COLOURS:
        made += [("head", {"hair": hair, "hair_colour": colour}) for hair in faces.HAIR if hair != "bald"]
        made += [("beard", {"beard": beard, "beard_colour": colour}) for beard in faces.BEARDS if beard != "none"]
    for worn in faces.HEADWEAR:
        hidden = {"hair": "hidden", "hair_colour": "hidden", "headwear": worn}
        made += [("head", {**hidden, "headwear_colour": c}) for c in faces.HEADWEAR_COLOURS if worn != "none"]
    made += [("glasses", {"glasses": glasses}) for glasses in faces.GLASSES if glasses != "none"]
    made += [("eyes", {"eyes": eyes}) for eyes in faces.EYES if eyes != "hidden"]
    return {phrases(replace(_PLAIN, **told))[name]: told for name, told in made}  # type: ignore[arg-type]
