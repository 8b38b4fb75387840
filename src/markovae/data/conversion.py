"""Whatever Python programs hold images in, as data: paths, data sets, arrays, lists of images, images of PIL."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from markovae.data.data_config import DataConfig
from markovae.data.image_files import channels_first, flat_picture, header_from
from markovae.data.loading import read_source
from markovae.data.split import Splits
from markovae.errors import UserError

WHITE = (255, 255, 255)


def as_images(images: Any, shape: Sequence[int], part: str) -> Any:
    """`ImageData` of a path, of parts or of itself; an array, (N, C, H, W), of images in a list or alone.

    Images of PIL are read as files are, at their own size, and nothing is scaled; paths are brought to `shape`.

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
    if hasattr(images, "getbands"):
        images = [images]
    if not isinstance(images, list | tuple):
        return images
    each = [as_array(one) for one in images]
    if len({one.shape for one in each}) > 1:
        shapes = ", ".join(map(str, dict.fromkeys(one.shape for one in each)))
        raise UserError(f"a list of images of shapes {shapes[:100]}: give images of one size, or a folder of them")
    return np.stack(each) if each else np.empty((0, *shape), np.uint8)


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
