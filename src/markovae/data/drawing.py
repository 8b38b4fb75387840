"""Faces as pixels.

Artwork: a remix of "Avataaars" by Pablo Stanley (https://avataaars.com/, free for personal and
commercial use), composed by dicebear-core and dicebear-styles, drawn by resvg.
"""

import json
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from markovae.data import faces
from markovae.data.faces import Attributes, attributes
from markovae.data.image_file import open_image
from markovae.data.images import Pixels
from markovae.errors import UserError

SIZES = (32, 64)
FRAME_COLOUR = "#262e33"


# The components of the style, from back to front.
LAYERS = ("clothes", "mouth", "nose", "eyes", "eyebrows", "top", "facialHair", "accessories")


def svg(face: Attributes) -> str:
    """The drawing as SVG text: the head fills the canvas (scale 1.15), the background is flat.

    It is the text that dicebear composes from all the components at once. Composing takes longer than
    drawing, so each component is composed alone, once, and laid over the others here.
    """
    base = _base(faces.BACKGROUNDS[face.background], faces.SKINS[face.skin])
    layers = [_layer(*parts) for parts in components(face)]
    before, start, rest = base.partition("<defs>")
    inside, end, after = rest.partition("</g>")
    definitions = "".join(definition for definition, _ in layers)
    uses = "".join(use for _, use in layers)
    return "".join((before, start, definitions, inside, uses, end, after))


def components(face: Attributes) -> list[tuple[str, str, str]]:
    """(component, variant, colour or "") of each layer that shows, from back to front."""
    hair = faces.HAIR_COLOURS
    worn: dict[str, tuple[str, str]] = {
        "clothes": ("shirtCrewNeck", faces.SHIRTS[face.shirt]),
        "mouth": (faces.MOUTHS[face.mouth], ""),
        "nose": ("default", ""),
        "eyes": (faces.EYES[face.eyes], ""),
        "eyebrows": ("sadConcernedNatural" if face.mouth == "frown" else "defaultNatural", ""),
    }
    if face.headwear != "none":
        worn["top"] = (faces.HEADWEAR[face.headwear], faces.HEADWEAR_COLOURS[face.headwear_colour])
    elif faces.HAIR[face.hair]:
        worn["top"] = (faces.HAIR[face.hair][face.variant], hair[face.hair_colour])
    if face.beard != "none":
        worn["facialHair"] = (faces.BEARDS[face.beard], hair[face.beard_colour])
    if face.glasses != "none":
        worn["accessories"] = (faces.GLASSES[face.glasses], FRAME_COLOUR)
    return [(layer, *worn[layer]) for layer in LAYERS if layer in worn]


def options(parts: list[tuple[str, str, str]], background: str = "", skin: str = "") -> dict[str, Any]:
    """What dicebear is asked for, so that exactly these (component, variant, colour) show."""
    asked: dict[str, Any] = {"seed": faces.RECIPE, "scale": 1.15, "translateY": 7.5}
    asked |= {f"{layer}Probability": 0 for layer in LAYERS}
    for layer, variant, colour in parts:
        asked[f"{layer}Probability"] = 100
        asked[f"{layer}Variant"] = variant
        if colour and layer == "top":
            # The style colours hats and hair by different names; a top uses one of them.
            asked["hatColor"] = asked["hairColor"] = [colour]
        elif colour:
            asked[f"{layer}Color"] = [colour]
    if background:
        asked |= {"backgroundColor": [background], "skinColor": [skin]}
    return asked


@cache
def _base(background: str, skin: str) -> str:
    """A head without components: its only definition is the clip path, its first </g> closes the figure."""
    from dicebear import Avatar

    return str(Avatar(_style(), options([], background, skin)))


@cache
def _layer(layer: str, variant: str, colour: str) -> tuple[str, str]:
    """(definition, use) of one component."""
    from dicebear import Avatar

    text = str(Avatar(_style(), options([(layer, variant, colour)])))
    definition = text.partition("<defs>")[2].partition("<clipPath")[0]
    use = "<use" + text.partition("<use")[2].partition("/>")[0] + "/>"
    return definition, use


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
    with open_image(png) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=np.uint8).transpose(2, 0, 1)
    return np.ascontiguousarray(pixels) if size == SIZES[1] else box_halve(pixels)


def box_halve(pixels: Pixels) -> Pixels:
    """Half the height and width: the mean of each 2 x 2 block, halves rounded up. (C, 2h, 2w) uint8."""
    channels, height, width = pixels.shape
    blocks = pixels.astype(np.uint16).reshape(channels, height // 2, 2, width // 2, 2)
    return ((blocks.sum(axis=(2, 4), dtype=np.uint16) + 2) // 4).astype(np.uint8)
