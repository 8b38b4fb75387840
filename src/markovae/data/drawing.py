"""Faces as pixels.

Artwork: a remix of "Avataaars" by Pablo Stanley (https://avataaars.com/, free for personal and
commercial use), composed by dicebear-core and dicebear-styles, drawn by resvg.
"""

import io
import json
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from PIL import Image

from markovae.data import faces
from markovae.data.faces import Attributes, attributes
from markovae.data.images import Pixels
from markovae.errors import UserError

SIZES = (32, 64)
FRAME_COLOUR = "#262e33"


def svg(face: Attributes) -> str:
    """The drawing as SVG text: the head fills the canvas (scale 1.15), the background is flat."""
    from dicebear import Avatar

    top = _top(face)
    options: dict[str, Any] = {
        "seed": faces.RECIPE,
        "scale": 1.15,
        "translateY": 7.5,
        "backgroundColor": [faces.BACKGROUNDS[face.background]],
        "skinColor": [faces.SKINS[face.skin]],
        "clothesColor": [faces.SHIRTS[face.shirt]],
        "clothesVariant": "shirtCrewNeck",
        "eyebrowsVariant": "sadConcernedNatural" if face.mouth == "frown" else "defaultNatural",
        "eyesVariant": faces.EYES[face.eyes],
        "mouthVariant": faces.MOUTHS[face.mouth],
        "topProbability": 100 if top else 0,
        "facialHairProbability": 0 if face.beard == "none" else 100,
        "accessoriesProbability": 0 if face.glasses == "none" else 100,
    }
    if top:
        options["topVariant"] = top
    if face.hair_colour in faces.HAIR_COLOURS:
        options["hairColor"] = [faces.HAIR_COLOURS[face.hair_colour]]
    if face.headwear != "none":
        options["hatColor"] = [faces.HEADWEAR_COLOURS[face.headwear_colour]]
    if face.beard != "none":
        options["facialHairVariant"] = faces.BEARDS[face.beard]
        options["facialHairColor"] = [faces.HAIR_COLOURS[face.beard_colour]]
    if face.glasses != "none":
        options["accessoriesVariant"] = faces.GLASSES[face.glasses]
        options["accessoriesColor"] = [FRAME_COLOUR]
    return str(Avatar(_style(), options))


def _top(face: Attributes) -> str:
    if face.headwear != "none":
        return faces.HEADWEAR[face.headwear]
    shapes = faces.HAIR[face.hair]
    return shapes[face.variant] if shapes else ""


@cache
def _style() -> Any:
    from dicebear import Style

    text = files("dicebear_styles").joinpath("avataaars.json").read_text("utf-8")
    return Style(json.loads(text))


def render(index: int, size: int = 32) -> Pixels:
    """Face `index` as (3, size, size) uint8.

    Drawn at 64 x 64; size 32 is the mean of each 2 x 2 block per channel, (a + b + c + d + 2) // 4, which
    rounds halves up.

    Raises: UserError for a size that is neither 32 nor 64.
    """
    from resvg_py import svg_to_bytes

    if size not in SIZES:
        raise UserError(f"faces come in sizes {SIZES[0]} and {SIZES[1]}, not {size}: set data.size to one")
    drawing = svg(attributes(index))
    png = svg_to_bytes(svg_string=drawing, width=SIZES[1], height=SIZES[1], skip_system_fonts=True)
    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=np.uint8).transpose(2, 0, 1)
    return np.ascontiguousarray(pixels) if size == SIZES[1] else box_halve(pixels)


def box_halve(pixels: Pixels) -> Pixels:
    """Half the height and width: the mean of each 2 x 2 block, halves rounded up. (C, 2h, 2w) uint8."""
    channels, height, width = pixels.shape
    blocks = pixels.astype(np.uint16).reshape(channels, height // 2, 2, width // 2, 2)
    return ((blocks.sum(axis=(2, 4), dtype=np.uint16) + 2) // 4).astype(np.uint8)
