"""Images exactly as their files hold them: nothing is resized, flattened or converted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from markovae.data.arrays import read_array_file
from markovae.data.data_config import DataConfig
from markovae.data.image_files import channels_first, find_files, is_transparent
from markovae.data.image_reader import open_image
from markovae.errors import UserError

ARRAYS = (".npy", ".npz", ".gz", "-ubyte")


def read_unchanged(sources: Sequence[str | Path], shape: Sequence[int]) -> tuple[Any, list[str]]:
    """(pixel values (n, C, H, W), a name each) of image files, folders of them, and array files, in their order.

    Args:
        shape: that every image must have, (C, H, W).
    Raises:
        UserError: for a source that is missing or unreadable, or an image of another shape, naming it.
    """
    images, names = [], []
    for source in map(Path, sources):
        if not source.exists():
            raise UserError(f"{source} does not exist: name images, a folder of them, or an array file")
        if source.is_dir():
            found = find_files(source)
            if found.refused:
                raise UserError(f"{source / found.refused[0][0]} cannot be read: {found.refused[0][1]}")
            files = sorted((source / file.path, file.path) for file in found.files)
        elif source.name.endswith(ARRAYS):
            held = np.asarray(read_array_file(DataConfig(str(source))).data.images)
            if held.shape[1:] != tuple(shape):
                raise UserError(f"{source} holds images of shape {held.shape[1:]}, and the model takes {tuple(shape)}")
            images += list(held)
            names += [f"{source.name}/{number}" for number in range(len(held))]
            continue
        else:
            files = [(source, source.name)]
        for path, name in files:
            images.append(_pixels(path, shape))
            names.append(name)
    if not images:
        raise UserError(f"{', '.join(map(str, sources))} holds no images")
    return np.stack(images), names


def _pixels(path: Path, shape: Sequence[int]) -> Any:
    try:
        with open_image(path) as image:
            size, mode = (image.height, image.width), image.mode
            exact = {1: ("L", "1"), 3: ("RGB", "P")}.get(shape[0], ())
            if size != tuple(shape[1:]) or mode not in exact or is_transparent(image):
                raise UserError(
                    f"{path} is a {mode} image of {size[0]}x{size[1]} pixels, and the model takes {shape[0]} channels "
                    f"of {shape[1]}x{shape[2]}: nothing is resized or converted here, or it would not be lossless"
                )
            return channels_first(image.convert("L" if shape[0] == 1 else "RGB"))
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be read: {error}") from None
