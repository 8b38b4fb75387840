"""Handwritten digits, 8 x 8 pixels with 17 grey values, 1,797 of them.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository, 1998, doi:10.24432/C50P49, licensed CC BY 4.0; the test part, as scikit-learn ships it. The
values 0 (paper) … 16 (ink) are kept as they are.
"""

from importlib.resources import as_file, files

import numpy as np

from markovae.data.data_config import DataConfig
from markovae.data.image_files import channels_note, to_channels
from markovae.data.images import ImageData
from markovae.data.source import DatasetSummary, Source
from markovae.data.split import split_by_content
from markovae.errors import UserError

SIDE = 8
BINS = 17


def digits() -> ImageData:
    """All 1,797 digits, (1797, 1, 8, 8) uint8 with bins = 17, labeled 0 … 9."""
    with as_file(files("markovae.data").joinpath("digits.npz")) as path, np.load(path, allow_pickle=False) as stored:
        images, labels = stored["images"], stored["labels"]
    return ImageData(
        images=images.reshape(-1, 1, SIDE, SIDE),
        labels=labels.astype(np.int64),
        class_names=tuple("0123456789"),
        bins=BINS,
        name="digits",
    )


def read_digits(config: DataConfig) -> Source:
    """The digits, split by content hash. Raises: UserError where another size is asked for."""
    if config.shape not in (None, (SIDE, SIDE)):
        raise UserError(f"digits are {SIDE} x {SIDE} pixels, not {config.size}: leave data.size at 0")
    data = to_channels(digits(), config.channels)
    summary = DatasetSummary(
        kind="digits",
        modes={"17 grey values": len(data)},
        sizes={f"{SIDE}x{SIDE}": len(data)},
        notes=(
            "pixels take 17 values, 0 … 16, so a pixel can cost at most log2(17) = 4.09 bits at random",
            *channels_note(len(data), len(data), config),
        ),
    )
    return Source(data, split_by_content(data.content_hashes(), config, data.name), summary)
