"""Whatever Python programs hold images in, as data: paths, data sets, arrays, lists of images, images of PIL."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from markovae.data.data_config import DataConfig
from markovae.data.image_files import channels_first, decode, flat_picture, header_from, header_of, reason_of
from markovae.data.images import ImageData
from markovae.data.loading import read_source
from markovae.data.split import Splits
from markovae.errors import UserError

WHITE = (255, 255, 255)


def as_images(images: Any, shape: Sequence[int], part: str) -> Any:
    """`ImageData` of a path, of parts or of itself; an array, (N, C, H, W), of images in a list or alone.

    Images of PIL are read as files are, at their own size, and nothing is scaled; paths, also of single images in a
    list, are brought to `shape`. An array whose images are of `shape` with their channels last or, of grey ones,
    without any, is turned; one alone is a set of one.

    Args:
        shape: (C, H, W) of the model.
        part: of `Splits`: train or test.
    Raises: UserError for a list of images of several sizes, and as `read_source`.
    """
    if isinstance(images, Splits):
        return getattr(images, part)
    if isinstance(images, str | Path):
        config = DataConfig(str(images)).for_images_like(shape, str(images))
        return read_source(config).data
    if isinstance(images, ImageData):
        return images
    if hasattr(images, "getbands"):
        images = [images]
    if not isinstance(images, list | tuple):
        return _channels_first(images, tuple(shape))
    each = [_file(Path(one), shape) if isinstance(one, str | Path) else as_array(one) for one in images]
    return _channels_first(same_size(each), tuple(shape)) if each else np.empty((0, *shape), np.uint8)


def _channels_first(images: Any, shape: tuple[int, ...]) -> Any:
    """An array or a tensor as (N, C, H, W) where its extents leave no doubt; anything else as it is."""
    if len(shape) != 3:
        return images
    channels, height, width = shape
    last, grey = (height, width, channels), (height, width)
    extents = tuple(getattr(images, "shape", ()))
    if extents in (shape, last) or (extents == grey and channels == 1):
        images, extents = images[None], (1, *extents)
    if extents[1:] == shape:
        return images
    if extents[1:] == last:
        return np.moveaxis(as_array(images), -1, 1)
    return as_array(images)[:, None] if extents[1:] == grey and channels == 1 else images


def _file(path: Path, shape: Sequence[int] | None = None) -> np.ndarray[Any, Any]:
    """The image of a file, (C, H, W), scaled and cropped to a shape, as training does; or at its own.

    Raises: UserError naming the file.
    """
    try:
        if shape is None:
            header = header_of(path.expanduser(), path.name)
            shape = (1 if header.grey else 3, header.height, header.width)
        return decode(path.expanduser(), (shape[1], shape[2]), shape[0] == 1, "crop", WHITE)
    except Exception as error:  # a decoder may raise anything on damaged bytes
        raise UserError(f"{path} gives no image ({reason_of(error)}): leave it out of the list") from None


def as_samples(images: Any) -> np.ndarray[Any, Any]:
    """Samples of nobody's model in particular as (n, C, H, W): an array or a tensor, or a list of images or of files.

    Raises: UserError for images of several sizes, and for a file that gives none.
    """
    if isinstance(images, list | tuple):
        images = same_size([_file(Path(one)) if isinstance(one, str | Path) else as_array(one) for one in images])
    pixels = as_array(images)
    if pixels.ndim == 3 and pixels.shape[0] > 3:
        return pixels[:, None]
    last = pixels.ndim == 4 and pixels.shape[1] not in (1, 3) and pixels.shape[3] in (1, 3)
    return np.moveaxis(pixels, 3, 1) if last else pixels


def same_size(images: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """Images in one array. Raises: UserError where their shapes differ."""
    if len({one.shape for one in images}) > 1:
        shapes = ", ".join(map(str, dict.fromkeys(one.shape for one in images)))
        raise UserError(f"a list of images of shapes {shapes[:100]}: give images of one size, or a folder of them")
    return np.stack(images)


def as_array(image: Any) -> np.ndarray[Any, Any]:
    """One image as an array: of PIL (C, H, W), upright and opaque; others as they are."""
    if hasattr(image, "getbands"):
        return channels_first(flat_picture(image.copy(), header_from(image, "").grey, WHITE))
    if hasattr(image, "detach"):
        image = image.detach().cpu().numpy()
    try:
        return np.asarray(image)
    except ValueError:
        raise UserError("an image is a list whose rows differ in length: give an array") from None
