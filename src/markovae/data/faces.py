"""The embedded cartoon faces: example i is a pure function of i.

Artwork: a remix of "Avataaars" by Pablo Stanley (https://avataaars.com/, free for personal and
commercial use), composed by dicebear-core and dicebear-styles, drawn by resvg.

Each attribute of face i is drawn from SHA-256 of (recipe, i, attribute name) by integer arithmetic, so
it depends neither on the order of drawing nor on the machine. Contradictory attributes never meet:
headwear hides the hair (so no hair colour is claimed), sunglasses hide the eyes, and nobody with a hijab,
a bun, a bob or long hair wears a beard.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import numpy as np
from PIL import Image

RECIPE = "markovae-faces-1"
RENDER_SIZE = 64

BACKGROUNDS = {
    "blue": "#a9dcf5",
    "green": "#b9e8b4",
    "lilac": "#cfc3f7",
    "yellow": "#ffe584",
    "white": "#f7f7f7",
}
SKINS = {"pale": "#ffdbb4", "light": "#edb98a", "tan": "#d08b5b", "brown": "#a0622f", "dark": "#5c3a2a"}
HAIR_COLOURS = {
    "black": "#1f1a1a",
    "brown": "#7a4a28",
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
    "dreadlocked": ("dreads",),
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
GLASSES = {"none": "", "round": "round", "square": "prescription02", "sunglasses": "sunglasses"}
BEARDS = {"none": "", "moustache": "moustacheMagnum", "short": "beardMedium", "long": "beardMajestic"}
SHIRTS = {"grey": "#8b95a1", "navy": "#2f4b8c", "red": "#d9484d", "black": "#2b2b30", "teal": "#2a9d8f"}
BEARDLESS_HAIR = frozenset({"bob", "bun", "long"})
BEARDLESS_HEADWEAR = frozenset({"hijab"})


@dataclass(frozen=True)
class Attributes:
    """What a face shows, each value a key of the table of that name in this file.

    `hair` and `hair_colour` are "hidden" under headwear; `hair_colour` is "none" for a bald head without
    a beard-independent claim; `headwear_colour` and `beard_colour` are "none" where there is none.
    `variant` picks the shape inside a hair group and is claimed by no caption.
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
    variant: int = 0


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


def attributes(index: int) -> Attributes:
    """The attributes of face `index` (any integer >= 0), the same on every machine and in any order.

    Raises: ValueError for a negative index.
    """
    if index < 0:
        raise ValueError(f"face index {index} must be 0 or more")
    headwear = _pick(index, "headwear", {key: 14 if key == "none" else 1 for key in HEADWEAR})
    covered = headwear != "none"
    hair = "hidden" if covered else _pick(index, "hair", {k: 3 if k == "short" else 2 for k in HAIR})
    drawn_hair_colour = _pick(index, "hair colour", _even(HAIR_COLOURS))
    if hair in ("hidden", "bald"):
        hair_colour = "hidden" if covered else "none"
    else:
        hair_colour = drawn_hair_colour
    glasses = _pick(index, "glasses", {"none": 5, "round": 2, "square": 2, "sunglasses": 1})
    eyes_weights = {"open": 5, "closed": 2, "wide": 2, "winking": 2, "heart-shaped": 1}
    beardless = headwear in BEARDLESS_HEADWEAR or hair in BEARDLESS_HAIR
    beard = "none" if beardless else _pick(index, "beard", {"none": 6, "moustache": 2, "short": 2, "long": 2})
    return Attributes(
        background=_pick(index, "background", _even(BACKGROUNDS)),
        skin=_pick(index, "skin", _even(SKINS)),
        hair=hair,
        hair_colour=hair_colour,
        headwear=headwear,
        headwear_colour=_pick(index, "headwear colour", _even(HEADWEAR_COLOURS)) if covered else "none",
        eyes="hidden" if glasses == "sunglasses" else _pick(index, "eyes", eyes_weights),
        mouth=_pick(index, "mouth", _even(MOUTHS)),
        glasses=glasses,
        beard=beard,
        # One head, one colour: a visible head of hair and the beard below it agree.
        beard_colour="none" if beard == "none" else drawn_hair_colour,
        shirt=_pick(index, "shirt", _even(SHIRTS)),
        variant=_draw(index, "variant", max(1, len(HAIR.get(hair, ())))),
    )


@cache
def _style() -> Any:
    from dicebear import Style

    text = files("dicebear_styles").joinpath("avataaars.json").read_text("utf-8")
    return Style(json.loads(text))


def _top(face: Attributes) -> str:
    if face.headwear != "none":
        return HEADWEAR[face.headwear]
    shapes = HAIR[face.hair]
    return shapes[face.variant] if shapes else ""


def svg(face: Attributes) -> str:
    """The drawing as SVG text, on a canvas that the head fills well (scale 1.15, flat background)."""
    from dicebear import Avatar

    top = _top(face)
    sad = face.mouth in ("frown",)
    options: dict[str, Any] = {
        "seed": "markovae",
        "scale": 1.15,
        "translateY": 7.5,
        "backgroundColor": [BACKGROUNDS[face.background]],
        "skinColor": [SKINS[face.skin]],
        "clothesColor": [SHIRTS[face.shirt]],
        "clothesVariant": "shirtCrewNeck",
        "eyebrowsVariant": "sadConcernedNatural" if sad else "defaultNatural",
        "eyesVariant": EYES[face.eyes],
        "mouthVariant": MOUTHS[face.mouth],
        "topProbability": 100 if top else 0,
        "facialHairProbability": 0 if face.beard == "none" else 100,
        "accessoriesProbability": 0 if face.glasses == "none" else 100,
    }
    if top:
        options["topVariant"] = top
    if face.hair_colour in HAIR_COLOURS:
        options["hairColor"] = [HAIR_COLOURS[face.hair_colour]]
    if face.headwear != "none":
        options["hatColor"] = [HEADWEAR_COLOURS[face.headwear_colour]]
    if face.beard != "none":
        options |= {
            "facialHairVariant": BEARDS[face.beard],
            "facialHairColor": [HAIR_COLOURS[face.beard_colour]],
        }
    if face.glasses != "none":
        options |= {"accessoriesVariant": GLASSES[face.glasses], "accessoriesColor": ["#262e33"]}
    return str(Avatar(_style(), options))


def raster(face: Attributes, size: int) -> np.ndarray:
    from resvg_py import svg_to_bytes

    png = svg_to_bytes(svg_string=svg(face), width=64, height=64, skip_system_fonts=True)
    with Image.open(io.BytesIO(png)) as image:
        p = np.asarray(image.convert("RGB"), dtype=np.uint8)
    if size == 64:
        return p
    w = p.astype(np.uint16).reshape(32, 2, 32, 2, 3).sum(axis=(1, 3))
    return ((w + 2) // 4).astype(np.uint8)
