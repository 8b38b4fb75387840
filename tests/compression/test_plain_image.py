"""Single images as bytes: exact for every kind, and nothing else is taken for one."""

import numpy as np
import pytest

from markovae.compression.plain_image import joined, parted, plain_code
from markovae.errors import UserError


@pytest.mark.parametrize(("channels", "bins"), [(1, 256), (3, 256), (2, 256), (1, 65_536), (3, 2), (1, 17)])
def test_every_kind_of_image_comes_back(channels: int, bins: int):
    images = np.random.default_rng(0).integers(0, bins, (3, channels, 6, 5)) // np.array([1, 2, bins]).reshape(
        3, 1, 1, 1
    )
    codes = [plain_code(image, bins) for image in images]
    made = parted(joined(codes), 3, (channels, 6, 5), bins)
    assert np.array_equal(np.stack(made), images)


def test_other_bytes_are_refused_before_a_decoder_makes_room():
    code = plain_code(np.random.default_rng(0).integers(0, 256, (3, 40, 40)) // 64, 256)
    assert code[:1] == b"\1", "the WebP is the shorter one"
    huge = code[:2] + (0x3FFF | 0x3FFF << 14).to_bytes(4, "little") + code[6:]
    for wrong in (huge, code[:30], b"\0" + code[1:], b"\7", b"", code[:1] + bytes(99)):
        with pytest.raises(UserError, match="is damaged"):
            parted(joined([wrong]), 1, (3, 40, 40), 256)
    with pytest.raises(UserError, match="is damaged"):
        parted(joined([code]), 1, (3, 40, 41), 256)
    with pytest.raises(UserError, match="is damaged"):
        parted(joined([code]), 2, (3, 40, 40), 256)
