"""Which real images are compared: fixed, disjoint, and refused where they cannot be."""

import numpy as np
import pytest

from markovae.data.images import ImageData
from markovae.data.split import Splits
from markovae.errors import UserError
from markovae.quality import reference_set as room
from markovae.quality.reference_set import choose_reference


def rows(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


def test_reference_and_stand_ins_share_no_image_and_are_fixed(splits: Splits) -> None:
    real = choose_reference(splits, 50)
    assert real.n == 50
    assert rows(real.reference) == rows(splits.test.images) | rows(splits.validation.images)
    assert rows(real.floor_samples) < rows(splits.train.images)
    assert len(rows(real.floor_samples)) == 50
    assert rows(real.heldout) < rows(real.reference)
    assert len(real.heldout) == 50
    again = choose_reference(splits, 50)
    assert real.digest == again.digest
    assert np.array_equal(real.floor_samples, again.floor_samples)
    assert np.array_equal(choose_reference(splits, 20).floor_samples, real.floor_samples[:20])
    assert real.labels is not None
    assert np.array_equal(real.labels == 0, real.floor_samples[:, 0, 0, 0] >= 192)


def test_left_alone_n_is_what_the_data_allow(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_reference(splits).n == 120
    monkeypatch.setattr(room, "DEFAULT_N", 10)
    assert choose_reference(splits).n == 10
    monkeypatch.setattr(room, "MOST_REFERENCE", 12)
    assert len(choose_reference(splits).reference) == 12


def test_another_reference(splits: Splits) -> None:
    other = splits.test.take(slice(0, 9))
    assert rows(choose_reference(splits, 20, other).reference) == rows(other.images)
    wide = ImageData(np.zeros((9, 3, 4, 4), np.uint8), name="wide")
    with pytest.raises(UserError, match="reference wide has images of"):
        choose_reference(splits, 20, wide)
    with pytest.raises(UserError, match="has 2 images and at least 4"):
        choose_reference(splits, 20, splits.test.take(slice(0, 2)))


@pytest.mark.parametrize(("n", "words"), [(0, "n=0 must be at least 4"), (121, "at most 120")])
def test_n_out_of_range_is_refused(splits: Splits, n: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        choose_reference(splits, n)
