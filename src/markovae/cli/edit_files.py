"""Single images between files and a model: read as the model sees them, written with what made them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from markovae.errors import UserError
from markovae.files import write_folder

KINDS = {1: "grey", 3: "colour"}
GAP = 2


def read_picture(path: str | Path, shapes: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """The image in `path` as (C, H, W) uint8, of one of these shapes; nothing is resized, recoloured or cropped.

    Raises:
        UserError: for no image, more than 8 bits, transparency, or another size or kind, with what would do.
    """
    image = _opened(path)
    if image.mode.startswith(("I", "F")):
        raise UserError(f"{path} has more than 8 bits a pixel: save it with 8")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        raise UserError(f"{path} has transparent pixels: save it without an alpha channel")
    grey = image.mode in ("L", "1")
    fitting = [shape for shape in shapes if shape[1:] == (image.height, image.width)]
    if not fitting:
        sizes = " or ".join(dict.fromkeys(f"{width}x{height}" for _, height, width in shapes))
        raise UserError(f"{path} is {image.width}x{image.height}: {sizes} is taken here; resize it first")
    if (1 if grey else 3) not in {channels for channels, *_ in fitting}:
        wanted = KINDS.get(fitting[0][0], f"of {fitting[0][0]} channels")
        raise UserError(f"{path} is {'grey' if grey else 'colour'}: the model's images are {wanted}; convert it first")
    pixels = np.asarray(image.convert("L" if grey else "RGB"))
    return pixels[None] if grey else pixels.transpose(2, 0, 1)


def read_mask(path: str | Path, height: int, width: int) -> np.ndarray:
    """Where the mask in `path` is white, (H, W) bool.

    Raises:
        UserError: for no image, another size, or pixels that are neither black nor white.
    """
    image = _opened(path)
    if (image.height, image.width) != (height, width):
        raise UserError(f"the mask {path} is {image.width}x{image.height} but the image {width}x{height}: match them")
    pixels = np.asarray(image.convert("L"))
    between = int(((pixels > 0) & (pixels < 255)).sum())
    if between:
        raise UserError(f"the mask {path} has {between} pixels that are neither black nor white: save it as PNG in two")
    if pixels.min() == pixels.max():
        raise UserError(f"the mask {path} is all {'white' if pixels.max() else 'black'}: white pixels are drawn anew")
    return pixels > 0


def write_pictures(folder: Path, pictures: np.ndarray, rows: Sequence[np.ndarray], facts: Mapping[str, str]) -> Path:
    """A new folder with 000000.png …, one an image of (N, C, H, W) uint8, and grid.png of the rows, all (·, C, H, W).

    The folder is given back: the next free name where another process filled it meanwhile.

    Args:
        facts: written into every file as PNG text.
    Raises:
        UserError: where the folder holds something already, or cannot be made.
        StoppedRun: when the disk refuses a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty: name another folder with --out")
    files = {f"{i:06d}.png": _png(picture, {**facts, "sample": str(i)}) for i, picture in enumerate(pictures)}
    return write_folder(folder, {**files, "grid.png": _png(grid(rows), facts)})


def grid(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of images, each (n, C, H, W), as one (C, ·, ·) on white, `GAP` pixels apart."""
    columns = max(len(row) for row in rows)
    channels, height, width = rows[0].shape[1:]
    sheet = np.full((channels, len(rows) * (height + GAP) - GAP, columns * (width + GAP) - GAP), 255, np.uint8)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            top, left = r * (height + GAP), c * (width + GAP)
            sheet[:, top : top + height, left : left + width] = picture
    return sheet


def _png(picture: np.ndarray, facts: Mapping[str, str]) -> bytes:
    text = PngImagePlugin.PngInfo()
    for name, value in facts.items():
        text.add_text(f"markovae:{name}", value)
    file = io.BytesIO()
    pixels = picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", pnginfo=text)
    return file.getvalue()


def _opened(path: str | Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image.copy()
    except (UnidentifiedImageError, Image.DecompressionBombError):
        raise UserError(f"{path} is no image that can be read: PNG, JPEG and the like are") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
