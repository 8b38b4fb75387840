"""Faces as pixels: drawing, and the source "faces".

Artwork: a remix of "Avataaars" by Pablo Stanley (https://avataaars.com/, free for personal and
commercial use), composed by dicebear-core and dicebear-styles, drawn by resvg.
"""

import functools
import hashlib
import itertools
import json
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import numpy as np

from markovae.data import cache, faces
from markovae.data.data_config import DataConfig
from markovae.data.drawn_faces import DrawnFaces, FaceBlocks, digest_of
from markovae.data.faces import RECIPE, Attributes, attributes, caption, combinations, short_caption, shows
from markovae.data.image_reader import open_image
from markovae.data.images import Digests, ImageData, Pixels, content_digests
from markovae.data.source import DatasetSummary, Source
from markovae.data.split import SplitIndices
from markovae.data.workers import map_in_processes
from markovae.errors import UserError
from markovae.log import track

SIZES = (32, 64)  # that are drawn at once and compared by their pixels
LARGEST = 256
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


@functools.cache
def _base(background: str, skin: str) -> str:
    """A head without components: its only definition is the clip path, its first </g> closes the figure."""
    from dicebear import Avatar

    return str(Avatar(_style(), options([], background, skin)))


@functools.cache
def _layer(layer: str, variant: str, colour: str) -> tuple[str, str]:
    """(definition, use) of one component."""
    from dicebear import Avatar

    text = str(Avatar(_style(), options([(layer, variant, colour)])))
    definition = text.partition("<defs>")[2].partition("<clipPath")[0]
    use = "<use" + text.partition("<use")[2].partition("/>")[0] + "/>"
    return definition, use


@functools.cache
def _style() -> Any:
    from dicebear import Style

    text = files("dicebear_styles").joinpath("avataaars.json").read_text("utf-8")
    return Style(json.loads(text))


def render(index: int, size: int = 32) -> Pixels:
    """Face `index` as (3, size, size) uint8.

    Size 32 is drawn at 64 x 64, and is the mean of each 2 x 2 block per channel, (a + b + c + d + 2) // 4, which
    rounds halves up; all others are drawn at their size.

    Raises: UserError for a size that is not in 32…256.
    """
    from resvg_py import svg_to_bytes

    _check_size(size, size)
    drawing, side = svg(attributes(index)), SIZES[1] if size == SIZES[0] else size
    png = svg_to_bytes(svg_string=drawing, width=side, height=side, skip_system_fonts=True)
    with open_image(png) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=np.uint8).transpose(2, 0, 1)
    return box_halve(pixels) if size < side else np.ascontiguousarray(pixels)


def _check_size(height: int, width: int) -> None:
    if height != width or not SIZES[0] <= height <= LARGEST:
        raise UserError(
            f"faces are squares of {SIZES[0]} to {LARGEST} pixels, not {width}x{height}: set data.size to one, such as "
            "32, 64, 128 or 256"
        )


def box_halve(pixels: Pixels) -> Pixels:
    """Half the height and width: the mean of each 2 x 2 block, halves rounded up. (C, 2h, 2w) uint8."""
    channels, height, width = pixels.shape
    blocks = pixels.astype(np.uint16).reshape(channels, height // 2, 2, width // 2, 2)
    return ((blocks.sum(axis=(2, 4), dtype=np.uint16) + 2) // 4).astype(np.uint8)


COUNTS = (10_000, 1_000, 1_000)
# Below this, drawing takes less time than starting workers.
SERIAL_BELOW = 200
CHUNK = 50


def read_faces(config: DataConfig, counts: tuple[int, int, int] = COUNTS) -> Source:
    """The faces at 32 x 32 (default), or at any size up to 256 x 256.

    At 32 and 64 they are drawn in worker processes once and then cached; at other sizes when they are first read, block
    by block (`DrawnFaces`). Faces 0, 1, 2, … are drawn in order; one whose pixels, at this size, were already seen is
    dropped and recorded: at other sizes than 32 and 64, one whose drawing was. The first counts[0] that stay train, the
    next validate, the last test; of those that train, the ones that show a combination of data.hold_out are left out.
    A face that trains has a second caption, which leaves things out: a model that only ever met whole captions blends
    what a prompt leaves open.

    Raises: UserError for another size, for one channel, for another split, or where the cache folder cannot be written.
    """
    size = config.size or SIZES[0]
    _check_size(size, config.width or size)
    if config.channels == "grey":
        raise UserError("faces are rgb, and their attributes include colours: leave data.channels at auto")
    if config.split != "auto":
        raise UserError(f"faces bring their own split: leave data.split={config.split} out")
    stored, images, digests = _kept(size, counts)
    captions = stored["captions"]
    captions[: counts[0]] = map("\n".join, zip(captions[: counts[0]], stored["short_captions"], strict=True))
    data = ImageData(images=images, captions=tuple(captions), name="faces", digests=digests)
    parts = _parts(counts, stored["dropped"])
    return Source(data, _held_out(parts, stored["indices"], config.hold_out), _summary(size, stored))


def face_numbers(size: int, counts: tuple[int, int, int] = COUNTS) -> tuple[list[int], list[int], list[int]]:
    """Which face each image of the training, validation and test part is: `attributes(number)` is what it shows."""
    numbers = iter(_kept(size, counts)[0]["indices"])
    train, validation, test = (list(itertools.islice(numbers, count)) for count in counts)
    return train, validation, test


def _kept(size: int, counts: tuple[int, int, int]) -> tuple[dict[str, Any], Pixels, Digests]:
    """(what is known, images, content hashes) of these faces, from the cache; drawn where they are missing."""
    recipe = {
        "recipe": RECIPE,
        "size": size,
        "counts": counts,
        "captions": ["whole", "short"],
        "digests": "sha256",
        "packages": {name: version(name) for name in ("dicebear-core", "dicebear-styles", "resvg_py")},
    }

    make = partial(_make if size in SIZES else _make_undrawn, size=size, counts=counts)

    def read(kept: cache.Entry) -> tuple[dict[str, Any], Pixels | None, Digests]:
        images = kept.array("images.npy") if size in SIZES else None
        return kept.json("faces.json"), images, kept.array("digests.npy")

    stored, images, digests = cache.entry(f"faces-{size}-{cache.key_of(recipe)}", make, read)
    if images is None:
        numbers = stored["indices"]
        blocks = FaceBlocks(numbers, size, [RECIPE, recipe["packages"]], render)
        images = cast(Pixels, DrawnFaces(blocks, np.arange(len(numbers), dtype=np.int64)))
    return stored, images, digests


def _parts(counts: tuple[int, int, int], dropped: list[list[int]]) -> SplitIndices:
    ends = list(itertools.accumulate(counts))
    starts = [0, *ends[:-1]]
    train, validation, test = (np.arange(start, end, dtype=np.int64) for start, end in zip(starts, ends, strict=True))
    method = "faces walked in order, repeated pixels dropped"
    return SplitIndices(train, validation, test, method, left_out=len(dropped))


def _held_out(parts: SplitIndices, numbers: list[int], texts: tuple[str, ...]) -> SplitIndices:
    """The parts without the training faces that show one of these combinations."""
    if not texts:
        return parts
    wanted = combinations(texts)
    shown = [attributes(numbers[place]) for place in parts.train.tolist()]
    keep = np.array([not any(shows(face, pair) for pair in wanted) for face in shown], dtype=bool)
    if not keep.any():
        raise UserError("data.hold_out leaves no face to train on: name fewer combinations")
    left = int((~keep).sum())
    method = f"{parts.method}; {left:,} left out of training that show {' or '.join(texts)}"
    return replace(parts, train=parts.train[keep], method=method, left_out=parts.left_out + left)


def _summary(size: int, stored: dict[str, list[int]]) -> DatasetSummary:
    drawn = len(stored["indices"]) + len(stored["dropped"])
    return DatasetSummary(
        kind="faces",
        modes={"RGB": len(stored["indices"])},
        sizes={f"{size}x{size}": len(stored["indices"])},
        notes=(
            f"drawn from faces 0 … {drawn - 1}; {len(stored['dropped'])} dropped because their "
            f"{'pixels' if size in SIZES else 'drawing'} repeated an earlier face",
        ),
    )


def _make(folder: Path, size: int, counts: tuple[int, int, int]) -> None:
    images, indices, dropped = draw_distinct(size, sum(counts))
    np.save(folder / "images.npy", images, allow_pickle=False)
    _store(folder, indices, dropped, counts, content_digests(images))


def _make_undrawn(folder: Path, size: int, counts: tuple[int, int, int]) -> None:
    """All but the pixels: which faces there are, told apart by what is drawn."""
    seen: dict[bytes, int] = {}
    dropped: list[list[int]] = []
    index = 0
    while len(seen) < sum(counts):
        face = attributes(index)
        digest = digest_of((face.background, face.skin, components(face)), size)
        if digest in seen:
            dropped.append([index, seen[digest]])
        else:
            seen[digest] = index
        index += 1
    digests = np.frombuffer(b"".join(seen), dtype=np.uint8).reshape(-1, 32)
    _store(folder, list(seen.values()), dropped, counts, digests)


def _store(
    folder: Path, indices: list[int], dropped: list[list[int]], counts: tuple[int, int, int], digests: Digests
) -> None:
    np.save(folder / "digests.npy", digests, allow_pickle=False)
    stored = {
        "indices": indices,
        "dropped": dropped,
        "captions": [caption(attributes(index)) for index in indices],
        "short_captions": [short_caption(index) for index in indices[: counts[0]]],
    }
    cache.write_json(folder / "faces.json", stored)


def draw_distinct(size: int, total: int) -> tuple[Pixels, list[int], list[list[int]]]:
    """The first `total` faces with different pixels, in order of their index.

    Returns: images (total, 3, size, size) uint8; their indices; [index, earlier equal index] of the dropped.
    """
    images = np.empty((total, 3, size, size), dtype=np.uint8)
    seen: dict[bytes, int] = {}
    dropped: list[list[int]] = []
    start = 0
    while len(seen) < total:
        batch = range(start, start + total - len(seen))
        drawn = map_in_processes(partial(render, size=size), batch, CHUNK, SERIAL_BELOW)
        for index, pixels in zip(batch, track(drawn, "drawing faces", len(batch)), strict=True):
            digest = hashlib.sha256(pixels.tobytes()).digest()
            if digest in seen:
                dropped.append([index, seen[digest]])
            else:
                images[len(seen)] = pixels
                seen[digest] = index
        start = batch.stop
    return images, list(seen.values()), dropped
