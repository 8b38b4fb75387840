"""Single images between files and a model: read as the model sees them, written with what made them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from markovae.data.image_files import channels_first, flat_picture, header_from, reason_of
from markovae.data.image_reader import open_image
from markovae.errors import UserError
from markovae.system.files import SYSTEM, Disk, write_folder
from markovae.system.memory import out_of_memory

KINDS = {1: "grey", 3: "colour"}
GAP = 2
BLACK = (0, 0, 0)


def read_picture(path: str | Path, shapes: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """The image in `path` as (C, H, W) uint8, of one of these shapes, upright as training reads it.

    Nothing is resized, recolored or cropped, and no pixel is decoded before the header fits.

    Raises:
        UserError: for no image, more than 8 bits, transparency, or another size or kind, with what would do.
    """
    with _opened(path) as image:
        header = header_from(image, str(path))
        if header.mode.startswith(("I", "F")):
            raise UserError(f"{path} has more than 8 bits a pixel: save it with 8")
        if header.transparent:
            raise UserError(f"{path} has transparent pixels: save it without an alpha channel")
        fitting = [shape for shape in shapes if shape[1:] == (header.height, header.width)]
        if not fitting:
            sizes = " or ".join(dict.fromkeys(f"{width}x{height}" for _, height, width in shapes))
            raise UserError(f"{path} is {header.width}x{header.height}: {sizes} is taken here; resize it first")
        if (1 if header.grey else 3) not in {channels for channels, *_ in fitting}:
            wanted = KINDS.get(fitting[0][0], f"of {fitting[0][0]} channels")
            kind = "grey" if header.grey else "colour"
            raise UserError(f"{path} is {kind}: the model's images are {wanted}; convert it first")
        return channels_first(flat_picture(image, header.grey, BLACK))


def read_mask(path: str | Path, height: int, width: int) -> np.ndarray:
    """Where the mask in `path` is white, (H, W) bool; what is transparent counts as black.

    Raises:
        UserError: for no image, another size, or pixels that are neither black nor white.
    """
    with _opened(path) as image:
        header = header_from(image, str(path))
        if (header.height, header.width) != (height, width):
            size = f"{header.width}x{header.height}"
            raise UserError(f"the mask {path} is {size} but the image {width}x{height}: match them")
        pixels = channels_first(flat_picture(image, True, BLACK))[0]
    between = int(((pixels > 0) & (pixels < 255)).sum())
    if between:
        raise UserError(f"the mask {path} has {between} pixels that are neither black nor white: save it as PNG in two")
    if pixels.min() == pixels.max():
        raise UserError(f"the mask {path} is all {'white' if pixels.max() else 'black'}: white pixels are drawn anew")
    return pixels > 0


def write_pictures(
    folder: Path,
    pictures: np.ndarray,
    rows: Sequence[np.ndarray],
    facts: Mapping[str, str],
    disk: Disk = SYSTEM,
) -> Path:
    """A new folder with 000000.png …, one an image of (N, C, H, W) uint8, and grid.png of the rows, all (·, C, H, W).

    The folder is given back: the next free name where another process filled it meanwhile.

    Args:
        facts: written into every file as PNG text.   disk: written to.
    Raises:
        UserError: where the folder holds something already, or cannot be made.
        StoppedRun: when the disk refuses a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty: name another folder with --out")
    files = {f"{i:06d}.png": _png(picture, {**facts, "sample": str(i)}) for i, picture in enumerate(pictures)}
    return write_folder(folder, {**files, "grid.png": _png(grid(rows), facts)}, disk)


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


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """The image in a file, by its header. Raises: UserError for whatever a decoder finds wrong, then or later."""
    try:
        with open_image(Path(path)) as image:
            yield image
    except UserError:
        raise
    except Exception as error:  # a decoder may raise anything on damaged bytes
        if out_of_memory(error):
            raise
        raise UserError(f"{path} cannot be read as an image ({reason_of(error)}): give an intact PNG or JPEG") from None
