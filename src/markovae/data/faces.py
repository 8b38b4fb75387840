"""What each embedded cartoon face shows, and says: face i is a pure function of i (`drawing` draws it).

Each attribute of face i is drawn from SHA-256 of (recipe, i, attribute name) by integer arithmetic, so
it depends neither on the order of drawing nor on the machine. Contradictory attributes never meet:
headwear hides the hair (no hair is then claimed), sunglasses hide the eyes, and nobody with a hijab, a bun,
a bob or long hair wears a beard. Brown hair on dark skin, which 32 pixels cannot show, is left out too.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from markovae.errors import UserError
from markovae.strict_json import shown

RECIPE = "markovae-faces-1"

BACKGROUNDS = {
    "blue": "#a9dcf5",
    "green": "#b9e8b4",
    "lilac": "#cfc3f7",
    "yellow": "#ffe584",
    "white": "#f7f7f7",
}
SKINS = {"pale": "#ffdbb4", "light": "#edb98a", "tan": "#d08b5b", "brown": "#ad6b38", "dark": "#66402e"}
HAIR_COLOURS = {
    "black": "#1f1a1a",
    "brown": "#6a3d22",
    "red": "#c93305",
    "blond": "#e0b860",
    "silver": "#b9bdc5",
    "pink": "#f2729b",
}
# Each group names shapes that look alike at 32 pixels; the variant inside the group is not claimed.
HAIR = {
    "bald": (),
    "short": ("shortFlat", "shortRound", "theCaesarAndSidePart"),
    "wavy": ("shortWaved", "shortCurly"),
    "shaggy": ("shaggy", "shaggyMullet"),
    "curly": ("curly",),
    "afro": ("fro",),
    "dreadlocks": ("dreads",),
    "bob": ("bob", "longButNotTooLong"),
    "bun": ("bun",),
    "long": ("straight01", "straight02", "straightAndStrand"),
}
HEADWEAR = {
    "none": "",
    "sun hat": "hat",
    "hijab": "hijab",
    "turban": "turban",
    "bobble hat": "winterHat03",
    "cat-eared hat": "winterHat04",
    "winter hat": "winterHat1",
}
HEADWEAR_COLOURS = {
    "red": "#e5484d",
    "navy": "#2f4b8c",
    "green": "#2e8b57",
    "purple": "#7b3fa0",
    "orange": "#f28c28",
}
EYES = {
    "open": "default",
    "closed": "closed",
    "wide": "surprised",
    "winking": "wink",
    "heart-shaped": "hearts",
    "hidden": "default",
}
MOUTHS = {
    "laughing": "smile",
    "gentle smile": "twinkle",
    "straight": "serious",
    "frown": "sad",
    "tongue out": "tongue",
    "gritted teeth": "grimace",
}
MOUTH_WORDS = {
    "laughing": "a laughing mouth",
    "gentle smile": "a gentle smile",
    "straight": "a straight mouth",
    "frown": "a frown",
    "tongue out": "the tongue out",
    "gritted teeth": "gritted teeth",
}
GLASSES = {"none": "", "round": "round", "square": "prescription02", "sunglasses": "sunglasses"}
BEARDS = {"none": "", "moustache": "moustacheMagnum", "short": "beardMedium", "long": "beardMajestic"}
SHIRTS = {"grey": "#8b95a1", "navy": "#2f4b8c", "red": "#d9484d", "black": "#2b2b30", "teal": "#2a9d8f"}
BEARDLESS_HAIR = frozenset({"bob", "bun", "long"})
BEARDLESS_HEADWEAR = frozenset({"hijab"})
INDISTINCT = frozenset({("dark", "brown")})


@dataclass(frozen=True)
class Attributes:
    """What a face shows; each value is a key of the table of that name in this file.

    Under headwear `hair` and `hair_colour` are "hidden"; a bald head has hair_colour "none";
    `headwear_colour` and `beard_colour` are "none" where there is none to colour; behind sunglasses `eyes`
    are "hidden". `variant` picks the shape inside a hair group and no caption claims it.
    """

    background: str
    skin: str
    hair: str
    hair_colour: str
    headwear: str
    headwear_colour: str
    eyes: str
    mouth: str
    glasses: str
    beard: str
    beard_colour: str
    shirt: str
    variant: int


def attributes(index: int) -> Attributes:
    """The attributes of face `index`, the same on every machine and in any order.

    Raises: ValueError for a negative index.
    """
    if index < 0:
        raise ValueError(f"face index {index} must be 0 or more")
    skin = _pick(index, "skin", _even(SKINS))
    headwear = _pick(index, "headwear", {key: 14 if key == "none" else 1 for key in HEADWEAR})
    covered = headwear != "none"
    hair = "hidden" if covered else _pick(index, "hair", {key: 3 if key == "short" else 2 for key in HAIR})
    # One head, one colour: the hair and the beard below it agree.
    colour = _pick(index, "hair colour", {c: 0 if (skin, c) in INDISTINCT else 1 for c in HAIR_COLOURS})
    hairless = {"hidden": "hidden", "bald": "none"}
    beardless = headwear in BEARDLESS_HEADWEAR or hair in BEARDLESS_HAIR
    beard = "none" if beardless else _pick(index, "beard", {"none": 6, "moustache": 2, "short": 2, "long": 2})
    glasses = _pick(index, "glasses", {"none": 5, "round": 2, "square": 2, "sunglasses": 1})
    eyes = {"open": 5, "closed": 2, "wide": 2, "winking": 2, "heart-shaped": 1}
    return Attributes(
        background=_pick(index, "background", _even(BACKGROUNDS)),
        skin=skin,
        hair=hair,
        hair_colour=hairless.get(hair, colour),
        headwear=headwear,
        headwear_colour=_pick(index, "headwear colour", _even(HEADWEAR_COLOURS)) if covered else "none",
        eyes="hidden" if glasses == "sunglasses" else _pick(index, "eyes", eyes),
        mouth=_pick(index, "mouth", _even(MOUTHS)),
        glasses=glasses,
        beard=beard,
        beard_colour="none" if beard == "none" else colour,
        shirt=_pick(index, "shirt", _even(SHIRTS)),
        variant=_draw(index, "variant", max(1, len(HAIR.get(hair, ())))),
    )


def values() -> dict[str, tuple[str, ...]]:
    """Every value of each attribute that shows, in the order of `Attributes`: its table's, then "hidden" and "none"."""
    tables: dict[str, Mapping[str, object]] = {
        "background": BACKGROUNDS,
        "skin": SKINS,
        "hair": HAIR,
        "hair_colour": HAIR_COLOURS,
        "headwear": HEADWEAR,
        "headwear_colour": HEADWEAR_COLOURS,
        "eyes": EYES,
        "mouth": MOUTHS,
        "glasses": GLASSES,
        "beard": BEARDS,
        "beard_colour": HAIR_COLOURS,
        "shirt": SHIRTS,
    }
    return {name: (*table, *sorted({"none", "hidden"} - set(table))) for name, table in tables.items()}


def caption(face: Attributes) -> str:
    """The face in one English sentence that names every attribute that shows.

    For example "a face with light skin, short brown hair, round glasses, closed eyes and a gentle smile,
    in a navy shirt on a yellow background".
    """
    return sentence(phrases(face))


def short_caption(index: int) -> str:
    """Face `index` in a sentence that leaves things out, as people do: one to all but one of its phrases, drawn."""
    found = phrases(attributes(index))
    order = sorted(found, key=lambda name: _draw(index, f"say {name}", 1 << 64))
    said = order[: 1 + _draw(index, "say", len(found) - 1)]
    return sentence({name: text for name, text in found.items() if name in said})


def phrases(face: Attributes) -> dict[str, str]:
    """What the caption says, by what it is about: skin, head, beard, glasses, eyes, mouth, shirt, background."""
    found = {"skin": f"{face.skin} skin", "head": _head(face)}
    if face.beard == "moustache":
        found["beard"] = f"{_article(face.beard_colour)} moustache"
    elif face.beard != "none":
        found["beard"] = f"a {face.beard} {face.beard_colour} beard"
    if face.glasses != "none":
        found["glasses"] = "sunglasses" if face.glasses == "sunglasses" else f"{face.glasses} glasses"
    if face.eyes == "winking":
        found["eyes"] = "a wink"
    elif face.eyes != "hidden":
        found["eyes"] = f"{face.eyes} eyes"
    found["mouth"] = MOUTH_WORDS[face.mouth]
    found["shirt"] = f"{_article(face.shirt)} shirt"
    found["background"] = f"{_article(face.background)} background"
    return found


def sentence(found: Mapping[str, str]) -> str:
    """Phrases as one sentence, whichever are there."""
    listed = [text for name, text in found.items() if name not in ("shirt", "background")]
    text = "a face"
    if listed:
        text += f" with {' and '.join([', '.join(listed[:-1])] * (len(listed) > 1) + listed[-1:])}"
    if "shirt" in found:
        text += f"{',' if listed else ''} in {found['shirt']}"
    if "background" in found:
        text += f"{',' if listed and 'shirt' not in found else ''} on {found['background']}"
    return text


def _head(face: Attributes) -> str:
    if face.headwear != "none":
        return f"{_article(face.headwear_colour)} {face.headwear}"
    if face.hair == "bald":
        return "a bald head"
    if face.hair in ("bob", "bun"):
        return f"{face.hair_colour} hair in a {face.hair}"
    if face.hair == "afro":
        return f"{_article(face.hair_colour)} afro"
    if face.hair == "dreadlocks":
        return f"{face.hair_colour} dreadlocks"
    return f"{face.hair} {face.hair_colour} hair"


def _article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def _draw(index: int, name: str, total: int) -> int:
    """An integer in [0, total) from SHA-256 of (recipe, index, name); its bias is below total / 2^64."""
    digest = hashlib.sha256(f"{RECIPE}|{index}|{name}".encode("ascii")).digest()
    return int.from_bytes(digest[:8], "big") % total


def _pick(index: int, name: str, weights: Mapping[str, int]) -> str:
    """A key drawn in proportion to its whole-number weight."""
    ticket = _draw(index, name, sum(weights.values()))
    for key, weight in weights.items():
        if ticket < weight:
            return key
        ticket -= weight
    raise AssertionError("the ticket lies below the sum of the weights")


def _even(table: Mapping[str, object]) -> dict[str, int]:
    return dict.fromkeys(table, 1)


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
    mouths = {words: name for name, words in MOUTH_WORDS.items()}
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
        yield from _each(face, attribute, values()[attribute])
    elif attribute == "skin":
        yield from _each(face, "skin", [skin for skin in SKINS if (skin, face.hair_colour) not in INDISTINCT])
    elif attribute == "eyes" and face.eyes != "hidden":
        yield from _each(face, "eyes", [eyes for eyes in EYES if eyes != "hidden"])
    elif attribute == "glasses":
        for glasses in GLASSES:
            hidden = glasses == "sunglasses" or face.glasses == "sunglasses"
            yield replace(face, glasses=glasses, eyes="hidden" if hidden else face.eyes)
    elif attribute == "headwear_colour" and face.headwear != "none":
        yield from _each(face, attribute, HEADWEAR_COLOURS)
    elif attribute == "headwear" and face.headwear != "none":
        yield from _each(face, attribute, _allowed(face, HEADWEAR, BEARDLESS_HEADWEAR))
    elif attribute == "hair" and face.hair not in ("hidden", "bald"):
        yield from _each(face, attribute, _allowed(face, HAIR, BEARDLESS_HAIR))
    elif attribute == "hair_colour" and face.hair_colour in HAIR_COLOURS:
        for colour in HAIR_COLOURS:
            if (face.skin, colour) not in INDISTINCT:
                yield replace(face, hair_colour=colour, beard_colour="none" if face.beard == "none" else colour)
    elif attribute == "beard":
        yield from _beards(face)


def _beards(face: Attributes) -> Iterator[Attributes]:
    colour = face.hair_colour if face.hair_colour in HAIR_COLOURS else face.beard_colour
    if colour == "none" or face.hair in BEARDLESS_HAIR or face.headwear in BEARDLESS_HEADWEAR:
        return
    for beard in BEARDS:
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
    made = [("skin", {"skin": skin}) for skin in SKINS]
    made += [("head", {"hair": "bald", "hair_colour": "none"})]
    for colour in HAIR_COLOURS:
        made += [("head", {"hair": hair, "hair_colour": colour}) for hair in HAIR if hair != "bald"]
        made += [("beard", {"beard": beard, "beard_colour": colour}) for beard in BEARDS if beard != "none"]
    for worn in HEADWEAR:
        hidden = {"hair": "hidden", "hair_colour": "hidden", "headwear": worn}
        made += [("head", {**hidden, "headwear_colour": c}) for c in HEADWEAR_COLOURS if worn != "none"]
    made += [("glasses", {"glasses": glasses}) for glasses in GLASSES if glasses != "none"]
    made += [("eyes", {"eyes": eyes}) for eyes in EYES if eyes != "hidden"]
    return {phrases(replace(_PLAIN, **told))[name]: told for name, told in made}  # type: ignore[arg-type]


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
                f"data.hold_out names {shown(part.strip())}: give attributes of the faces and values they take, "
                f"such as 'hair=curly, glasses=round'{hint}"
            )
        found[name] = value
    if len(found) < 2:
        raise UserError(
            f"data.hold_out={shown(text)} must name at least two attributes: one alone would never be learned"
        )
    return found
