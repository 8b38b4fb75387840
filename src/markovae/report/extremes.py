"""The images that cost least and most, as sheets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from markovae.report.pictures import Images, enlarged, grid, viewable


def sheet(images: Images, places: Sequence[int], bins: int) -> Images:
    """The images at these places, in this order, row by row, large enough to see, (H, W, C) uint8.

    Args:
        images: digits, (n, C, H, W).   bins: of a pixel.
    """
    return enlarged(grid(viewable(np.asarray(images)[list(places)], bins)))
